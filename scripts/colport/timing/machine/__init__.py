"""What the machine does beside: its load, clocks and energy."""
