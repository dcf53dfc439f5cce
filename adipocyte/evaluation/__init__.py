"""Judging painted images: measurements, the official metric, comparisons, the report."""
