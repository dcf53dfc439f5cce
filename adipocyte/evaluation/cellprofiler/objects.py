"""What one field shows, as tables: a row for each nucleus, cell and lipid droplet."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from adipocyte.evaluation.cellprofiler.features import COLUMNS, MEASURED_IN, Measured
from adipocyte.evaluation.cellprofiler.labelling import Labels
from adipocyte.evaluation.cellprofiler.measurements import BRIGHTNESS, SHAPES

IMAGE = "Image"
# The tables of objects, with CellProfiler's names for the objects in them.
KINDS = {"Nuclei": "nuclei_no_edge", "Cells": "cells_no_edge", "LipidDroplets": "Lipids_no_edge"}
NUMBER, PARENT = "ObjectNumber", "Parent_Cells"
AREA, DIAMETER = "AreaShape_Area_um2", "AreaShape_EquivalentDiameter_um"
DEFECTIVE = "Classify_Defective"
LIPID_AREA = f"Sum_LipidDroplets_{AREA}"
N_DROPLETS = "Children_LipidDroplets_Count"

Table = dict[str, NDArray[np.integer | np.floating]]  # columns of one length by name
_OWN = {
    "Nuclei": (PARENT,),
    "Cells": ("Children_Nuclei_Count", N_DROPLETS, LIPID_AREA, f"Mean_LipidDroplets_{DIAMETER}"),
    "LipidDroplets": (PARENT, DEFECTIVE),
}
_COUNTED = (NUMBER, PARENT, DEFECTIVE, "Children_Nuclei_Count", N_DROPLETS)  # whole numbers


def columns_of(table: str) -> tuple[str, ...]:
    """The columns of a table of one field, in order."""
    if table == IMAGE:
        return COLUMNS
    kind = KINDS[table]
    shapes = [f"AreaShape_{shape}" for shape in SHAPES]
    measured = [f"Intensity_{one}_{image}" for image in MEASURED_IN[kind] for one in BRIGHTNESS]
    centre = ("Location_Center_X", "Location_Center_Y")
    return (NUMBER, *_OWN[table], *centre, AREA, DIAMETER, *shapes, *measured)


def tables_of(measured: Measured) -> dict[str, Table]:
    """The tables KINDS of one field, and "Image", of one row: the 99 features.

    Every table has all of its columns. One whose objects cannot be found without a stain that is
    missing has no rows; brightness in a missing stain is nan. Places are in the image's pixels,
    shapes in those that were measured (see `Measured`), brightness in parts of 65535 counts, as in
    CellProfiler; AREA in µm², DIAMETER, of the disk of an equal area, in µm.
    """
    tables: dict[str, Table] = {}
    for table, kind in KINDS.items():
        labels = measured.labels.get(kind, np.zeros((1, 1), dtype=np.int32))
        found = _own_columns(labels, measured) | measured.objects.get(kind, {})
        tables[table] = found | _related(table, measured.labels, labels)
    tables["Cells"] |= _of_droplets(tables["Cells"], tables["LipidDroplets"])
    tables["Cells"]["Children_Nuclei_Count"] = _children(tables["Cells"], tables["Nuclei"])
    features = {name: np.array([value]) for name, value in measured.features.items()}
    return {name: _whole(name, table) for name, table in tables.items()} | {IMAGE: features}


def parents(children: Labels, others: Labels) -> NDArray[np.int64]:
    """For each of the *children*, from 1, the number among *others* that covers most of it.

    It is 0 where none covers any of it. Both are (Y, X); returns (N,). CellProfiler's
    RelateObjects; of two that cover as much the lower number is taken.
    """
    shared = (children > 0) & (others > 0)
    n_others = int(others.max()) + 1
    codes = children[shared].astype(np.int64) * n_others + others[shared]
    pairs, n_px = np.unique(codes, return_counts=True)
    order = np.lexsort((-pairs, n_px))  # the largest share last, which stays
    found = np.zeros(int(children.max()) + 1, dtype=np.int64)
    child, parent = np.divmod(pairs[order], n_others)
    found[child] = parent
    return found[1:]


def _own_columns(labels: Labels, measured: Measured) -> Table:
    """Number, place and size of each object."""
    n = int(labels.max())
    area_px = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    y, x = np.nonzero(labels)
    numbers = labels[y, x]
    centre = {
        f"Location_Center_{axis}": _in_image(
            np.bincount(numbers, places, n + 1)[1:] / area_px, measured
        )
        for axis, places in (("X", x), ("Y", y))
    }
    area_um2 = area_px * measured.um_per_px**2
    return {
        NUMBER: np.arange(1, n + 1),
        **centre,
        AREA: area_um2,
        DIAMETER: 2 * np.sqrt(area_um2 / np.pi),
    }


def _in_image(places: NDArray[np.float64], measured: Measured) -> NDArray[np.float64]:
    """Places upon labels, counted from the middle of the first pixel, as places in the image."""
    return places if measured.zoom == 1 else (places + 0.5) / measured.zoom - 0.5


def _related(table: str, labels: Mapping[str, Labels], own: Labels) -> Table:
    """Which cell each object lies in, and which droplets are defective."""
    found: Table = {}
    if PARENT in _OWN[table]:
        cells = labels.get(KINDS["Cells"])
        found[PARENT] = np.zeros(own.max(), np.int64) if cells is None else parents(own, cells)
    if DEFECTIVE in _OWN[table]:
        defective = labels.get("Defective_lipid_droplets", np.zeros_like(own)) > 0
        found[DEFECTIVE] = (np.bincount(own[defective], minlength=own.max() + 1)[1:] > 0).astype(
            np.int64
        )
    return found


def _of_droplets(cells: Table, droplets: Table) -> Table:
    """How many droplets each cell has, their summed area and their mean diameter; nan for none."""
    n = len(cells[NUMBER]) + 1
    number = _children(cells, droplets)
    owners = droplets[PARENT]
    diameters_um = np.bincount(owners, droplets[DIAMETER], n)[1:]
    mean_um = np.full(len(number), np.nan)
    np.divide(diameters_um, number, out=mean_um, where=number > 0)
    return {
        N_DROPLETS: number,
        LIPID_AREA: np.bincount(owners, droplets[AREA], n)[1:],
        f"Mean_LipidDroplets_{DIAMETER}": mean_um,
    }


def _children(cells: Table, children: Table) -> NDArray[np.int64]:
    return np.bincount(children[PARENT], minlength=len(cells[NUMBER]) + 1)[1:]


def _whole(name: str, table: Table) -> Table:
    """All columns in order, those of missing stains filled with nan."""
    n = len(table[NUMBER])
    whole = {column: table.get(column, np.full(n, np.nan)) for column in columns_of(name)}
    return {
        column: values.astype(np.int64 if column in _COUNTED else np.float64)
        for column, values in whole.items()
    }
