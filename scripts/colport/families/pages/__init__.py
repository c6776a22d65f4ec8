"""What families of page images share."""
