"""An exported folder at work: the encoder, here or in another Python."""
