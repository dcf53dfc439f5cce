"""Registered models: assembled, judged, packaged, registered and loaded."""
