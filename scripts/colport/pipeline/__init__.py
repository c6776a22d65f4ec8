"""What the rules and their jobs need: configuration, plan, needs, code hash, log, gate."""
