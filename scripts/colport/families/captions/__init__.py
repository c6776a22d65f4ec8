"""Captioners: image-to-text models, whose decoder writes a text about a picture."""
