"""The prepared store: OME-Zarr plates of raw counts, nuclei masks, and one manifest of all that was measured and decided."""
