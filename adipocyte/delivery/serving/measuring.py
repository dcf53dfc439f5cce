"""What the images of an answer show. Imported when a request asks to measure, and not before."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from adipocyte.domain import as_in_challenge
from adipocyte.errors import ImageError, MemoryLimitError
from adipocyte.evaluation.cellprofiler import Measured, measure, smallest_px
from adipocyte.evaluation.cellprofiler.objects import (
    DIAMETER,
    KINDS,
    LIPID_AREA,
    N_DROPLETS,
    tables_of,
)
from adipocyte.evaluation.cellprofiler.wells import EDGES_UM
from adipocyte.imaging.resizing import shape_at
from adipocyte.plate.tiff import decode_stack

# Of memory, for each pixel: 137 were measured (docs/measurements/measuring.md), and a margin.
_PX_BYTES = 200
_MB = 10**6


def check(
    shape_px: tuple[int, int], magnification: int, um_per_px: float, memory_mb: float
) -> None:
    """Raise ImageError when a field of *shape_px*, (Y, X), is too small to be measured.

    Raises MemoryLimitError when measuring it would take more than *memory_mb*.
    """
    (height, width), zoom = shape_px, as_in_challenge(magnification, um_per_px)[1]
    if min(shape_px) < (least := smallest_px(zoom)):
        raise ImageError(
            f"a field of {height} x {width} pixels is too small to be measured",
            f"a side must be at least {least}; send a larger field, or leave measure out",
        )
    needed_mb = _PX_BYTES * math.prod(shape_at(shape_px, zoom)) / _MB
    if needed_mb > memory_mb:
        raise MemoryLimitError(
            f"measuring a field of {height} x {width} pixels takes {needed_mb:.0f} MB of memory, "
            f"{memory_mb:.0f} are allowed, a third of what painting may take",
            "send a smaller field, leave measure out, or allow more (the server's environment "
            "variable ADIPOCYTE_MEMORY_MB)",
        )


def measured(images: Mapping[str, bytes], magnification: int, um_per_px: float) -> dict[str, str]:
    """The columns "features" and "objects" of an answer, both JSON.

    images: by target, the TIFFs of the answer, of pixels of *um_per_px*. `features` are the 99 of
    CellProfiler by name, null where there is nothing to measure or a stain is missing. `objects`
    are described in docs/serving.md.
    """
    counts = {target: decode_stack(image, 1)[0] for target, image in images.items()}
    found = measure(counts, magnification, um_per_px)
    features = {name: _or_null(value) for name, value in found.features.items()}
    return {"features": json.dumps(features), "objects": json.dumps(_objects(found))}


def _objects(found: Measured) -> dict[str, Any]:
    tables = tables_of(found)
    cells, droplets = tables["Cells"], tables["LipidDroplets"]
    by_diameter, _ = np.histogram(droplets[DIAMETER], EDGES_UM)
    return {
        "counts": {
            table: int(found.labels[kind].max()) if kind in found.labels else None
            for table, kind in KINDS.items()
        },
        "droplets_per_cell": cells[N_DROPLETS].tolist(),
        "lipid_um2_per_cell": cells[LIPID_AREA].tolist(),
        "edges_um": [_or_null(edge) for edge in EDGES_UM],
        "droplets_by_diameter": by_diameter.tolist(),
    }


def _or_null(value: float) -> float | None:
    """JSON has neither nan nor infinity."""
    return value if math.isfinite(value) else None
