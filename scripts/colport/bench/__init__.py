"""Benchmarks: comparisons whose figures belong into a table, not into a test."""
