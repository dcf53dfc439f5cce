"""Files, processes and the machine. Nothing here knows of cells, plates or networks."""
