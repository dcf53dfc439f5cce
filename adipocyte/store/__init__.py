"""The prepared store as a format: OME-Zarr plates of raw counts, nuclei masks, one manifest."""
