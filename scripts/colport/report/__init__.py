"""The report: from the five tables to one self-contained HTML page."""

from __future__ import annotations

from colport.report.page import render

__all__ = ["render"]
