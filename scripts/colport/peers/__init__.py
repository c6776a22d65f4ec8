"""Peers: what others export of the same checkpoint, measured in the same run.

A peer has requirements of its own, so it runs in an environment of its own; what it writes is run
here, by a client that does what one does who has just the peer's files.
"""
