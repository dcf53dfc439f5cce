"""Tables of what stained images show: nuclei, cells, lipid droplets, fields and wells."""
