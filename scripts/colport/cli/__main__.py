"""``python -m colport.cli``, where the package is not installed."""

from __future__ import annotations

from colport.cli import main

main()
