"""Virtual staining of fat cells: seven brightfield z-planes in, three fluorescence images out."""

__version__ = "0.1.0"
