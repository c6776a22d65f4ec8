"""What is measured of a folder: parity, reach in fp16, who takes part in latency, MTEB."""
