"""What is done to pixels: normalisation, nuclei masks, histograms, padding. NumPy in, NumPy out."""
