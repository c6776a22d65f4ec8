"""Processes that this library starts: one class that asks them, and ends them."""
