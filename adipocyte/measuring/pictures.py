"""What was found in a field, drawn over it."""

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from adipocyte.domain import TARGET_COLOURS, TARGET_NAMES, FieldKey
from adipocyte.evaluation.cellprofiler.features import Measured
from adipocyte.imaging.grey import display_range
from adipocyte.measuring.objects import KINDS

_FOUND_IN = {"A1": "Nuclei", "A2": "LipidDroplets", "A3": "Cells"}


def outlines(images: Mapping[str, NDArray[np.uint16]], measured: Measured, key: FieldKey) -> Figure:
    """A column for each stain of a field: the stain, and below it with the objects' outlines.

    *images* are (Y, X) in counts, by target. Cells are drawn over the cytoplasm.
    """
    picture = Figure(figsize=(6 * len(images), 12), layout="constrained")
    picture.suptitle(f"Field {key}")
    panels = picture.subplots(2, len(images), squeeze=False)
    for (plain, marked), (target, image) in zip(panels.T, images.items(), strict=True):
        low, high = display_range(image)
        labels = measured.labels.get(KINDS[_FOUND_IN[target]])
        n = 0 if labels is None else int(labels.max())
        plain.set_title(f"{target} {TARGET_NAMES[target]}")
        marked.set_title(f"{n} {_FOUND_IN[target]}")
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
