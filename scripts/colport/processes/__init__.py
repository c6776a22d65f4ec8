"""Children: processes of ours that are asked in JSON."""
