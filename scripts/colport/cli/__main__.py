"""``python -m colport.cli``, where the package is not installed."""

from colport.cli import main

main()
