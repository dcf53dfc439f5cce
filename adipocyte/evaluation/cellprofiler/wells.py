"""One row for each well: what its nuclei, cells and lipid droplets are like."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from adipocyte.evaluation.cellprofiler.features import aggregate
from adipocyte.evaluation.cellprofiler.objects import (
    DEFECTIVE,
    DIAMETER,
    KINDS,
    NUMBER,
    PARENT,
    Table,
    columns_of,
)

PERCENTILES = (5, 25, 50, 75, 95)
# Edges of the classes of droplets' diameters, in µm.
EDGES_UM = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, np.inf)
_CLASSES = ["0to1", "1to2", "2to4", "4to8", "8to16", "16to32", "from32"]
# The edges of each class, by the column that has the share of droplets in it.
SHARES = {
    f"LipidDroplets_Share_{name}um": edges
    for name, edges in zip(_CLASSES, pairwise(EDGES_UM), strict=True)
}
_NO_FEATURES = (NUMBER, PARENT, DEFECTIVE, "Location_Center_X", "Location_Center_Y")


def well_row(fields: Sequence[Mapping[str, Table]]) -> dict[str, float]:
    """The row of a well: its objects in all *fields* taken together, each object as one.

    Columns are named by their table first, as pycytominer tells the kinds of objects apart:
    "Cells_Median_AreaShape_Area". Means, medians and standard deviations leave out values that are
    nan or infinite; they are nan where there is none.
    """
    row: dict[str, float] = {"Metadata_Site_Count": len(fields)}
    joined = {
        name: {
            column: np.concatenate([field[name][column] for field in fields])
            for column in columns_of(name)
        }
        for name in KINDS
    }
    for name, table in joined.items():
        row[f"Image_Count_{name}"] = len(table[NUMBER])
    row["Image_Count_DefectiveLipidDroplets"] = int(joined["LipidDroplets"][DEFECTIVE].sum())
    for name, table in joined.items():
        for column in columns_of(name):
            if column not in _NO_FEATURES:
                row |= _summary(f"{name}_{{}}_{column}", table[column].astype(np.float64))
    return row | _sizes(joined["LipidDroplets"][DIAMETER])


def field_row(tables: Mapping[str, Table]) -> dict[str, float]:
    """What `well_row` measures, of one field as if it were a well."""
    row = well_row([tables])
    return {name: value for name, value in row.items() if not name.startswith("Metadata_")}


def _summary(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    finite = values[np.isfinite(values)]
    return {
        name.format("Mean"): aggregate(values, "Mean"),
        name.format("Median"): float(np.median(finite)) if finite.size else float("nan"),
        name.format("StDev"): aggregate(values, "StDev"),
    }


def _sizes(diameters_um: NDArray[np.integer | np.floating]) -> dict[str, float]:
    """Percentiles of droplets' diameters, and the share of droplets in each class; nan for none."""
    n = len(diameters_um)
    row = {
        f"LipidDroplets_Percentile{percent}_{DIAMETER}": (
            float(np.percentile(diameters_um, percent)) if n else float("nan")
        )
        for percent in PERCENTILES
    }
    counts, _ = np.histogram(diameters_um, EDGES_UM)
    for name, count in zip(SHARES, counts, strict=True):
        row[name] = float(count / n) if n else float("nan")
    return row
