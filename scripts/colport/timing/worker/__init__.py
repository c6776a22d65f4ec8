"""A contender's process and its parent's side of it."""
