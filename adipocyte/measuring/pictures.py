"""What was found in a field, drawn over it."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from adipocyte.domain import ROWS, TARGET_COLOURS, TARGET_NAMES, FieldKey
from adipocyte.evaluation.cellprofiler.features import Measured
from adipocyte.evaluation.cellprofiler.objects import AREA, DIAMETER, KINDS, LIPID_AREA, N_DROPLETS
from adipocyte.imaging.grey import display_range
from adipocyte.measuring.screen import Row, by_plate, title

# What a plate is looked at for first: columns of the table of wells, and what they are called.
SHOWN = {
    "Image_Count_Cells": "cells",
    f"Cells_Mean_{N_DROPLETS}": "droplets in a cell, mean",
    f"Cells_Mean_{LIPID_AREA}": "lipid in a cell, mean, µm²",
    f"LipidDroplets_Median_{DIAMETER}": "diameter of droplets, median, µm",
    f"Cells_Median_{AREA}": "area of cells, median, µm²",
    f"Nuclei_Median_{AREA}": "area of nuclei, median, µm²",
}
FOUND_IN = {"A1": "Nuclei", "A2": "LipidDroplets", "A3": "Cells"}


def outlines(images: Mapping[str, NDArray[np.uint16]], measured: Measured, key: FieldKey) -> Figure:
    """A column for each stain of a field: the stain, and below it with the objects' outlines.

    *images* are (Y, X) in counts, by target. Cells are drawn over the cytoplasm.
    """
    picture = Figure(figsize=(6 * len(images), 12), layout="constrained")
    picture.suptitle(f"Field {key}")
    panels = picture.subplots(2, len(images), squeeze=False)
    for (plain, marked), (target, image) in zip(panels.T, images.items(), strict=True):
        low, high = display_range(image)
        kind = KINDS[FOUND_IN[target]]
        labels = measured.drawn(kind) if kind in measured.labels else None
        n = int(measured.labels[kind].max()) if kind in measured.labels else 0
        plain.set_title(f"{target} {TARGET_NAMES[target]}")
        marked.set_title(f"{n} {FOUND_IN[target]}")
        for panel in (plain, marked):
            panel.imshow(image, cmap="gray", vmin=low, vmax=high)
            panel.axis("off")
        if labels is not None:
            edges = find_boundaries(labels, mode="inner")
            shown = np.ma.masked_where(~edges, edges)
            marked.imshow(
                shown, cmap=ListedColormap([TARGET_COLOURS[target]]), interpolation="none"
            )
    return picture


def heat_maps(wells: Sequence[Row]) -> Figure:
    """A plate from above for each of SHOWN, a row of them for each plate, magnification and time.

    *wells* are the rows of the table of wells. Wells without images are empty.
    """
    plates = by_plate(wells)
    picture = Figure(figsize=(5 * len(SHOWN), 4 * len(plates)), layout="constrained")
    rows = picture.subplots(len(plates), len(SHOWN), squeeze=False)
    for panels, (named, of_plate) in zip(rows, plates, strict=True):
        grid, letters, columns = from_above(of_plate)
        for panel, (feature, words) in zip(panels, SHOWN.items(), strict=True):
            shown = [[row[feature] if row else np.nan for row in line] for line in grid]
            drawn = panel.imshow(np.array(shown, dtype=np.float64), cmap="viridis")
            panel.set_xticks(range(len(columns)), columns, fontsize=7)
            panel.set_yticks(range(len(letters)), letters, fontsize=7)
            panel.set_title(f"{words}\n{title(named)}", fontsize=9)
            picture.colorbar(drawn, ax=panel, shrink=0.8)
    return picture


def from_above(wells: Sequence[Row]) -> tuple[list[list[Row | None]], list[str], list[int]]:
    """The rows of a plate's *wells* as they lie, None where there is none, and the lines' names.

    The frame is that of the wells that are used. There is at least one.
    """
    used = [ROWS.index(str(well["Metadata_Row"])) for well in wells]
    numbers = [int(well["Metadata_Column"]) for well in wells]
    first_row, first_column = min(used), min(numbers)
    letters = list(ROWS[first_row : max(used) + 1])
    columns = list(range(first_column, max(numbers) + 1))
    grid: list[list[Row | None]] = [[None] * len(columns) for _ in letters]
    for row, column, well in zip(used, numbers, wells, strict=True):
        grid[row - first_row][column - first_column] = well
    return grid, letters, columns
