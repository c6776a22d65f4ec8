"""Checkpoints and files, from the Hub, a package or this machine; adapters; a push."""
