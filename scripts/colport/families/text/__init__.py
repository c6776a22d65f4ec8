"""What ColBERT checkpoints consist of, by the library that saved them."""
