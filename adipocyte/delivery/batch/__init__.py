"""Whole plates stained, here or on a cluster."""
