"""What families share that write a text about a picture."""
