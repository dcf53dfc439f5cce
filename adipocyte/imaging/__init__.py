"""Images in, images and numbers out: NumPy arrays of pixels, no files and no networks."""
