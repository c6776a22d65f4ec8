"""The report: from a run's tables to one self-contained HTML page."""

from colport.report.page import Report

__all__ = ["Report"]
