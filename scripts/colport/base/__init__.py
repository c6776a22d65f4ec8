"""What every room may use: errors, files, texts without secrets, the machine."""
