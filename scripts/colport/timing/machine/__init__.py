"""What the machine does beside: its load, cores, clocks and energy."""
