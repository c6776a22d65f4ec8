"""Checkpoints in their own library, whole or by the parameters that fit into memory."""
