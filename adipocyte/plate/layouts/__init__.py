"""How a plate's folder may be laid out: a module for each layout, which lists its images.

Everything that comes after a listing is the same for all.
"""
