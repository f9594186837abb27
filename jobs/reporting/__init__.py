"""Predictions into counts, tables, pages and comparisons."""
