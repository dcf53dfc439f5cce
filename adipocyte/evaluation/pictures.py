"""Painted fields for people to look at."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from adipocyte.domain import TARGET_NAMES, FieldKey, Intensities
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.pixels import measure_pixels
from adipocyte.imaging.grey import display_range
from adipocyte.plate.planes import read_image
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store


def preview(stainer: Stainer, store: Store, key: FieldKey) -> Figure:
    """One field, a row for each target: brightfield, true stain, painted stain, absolute error.

    The painted images have intensities "none". Truth and painting share one scale of counts, the
    truth's; the scale of the error ends at half of it.
    """
    planes, valid = store.planes(key), store.valid(key)
    images = stainer.stain(planes, key.magnification, intensities=Intensities.NONE).images
    picture = Figure(figsize=(14, 3.1 * len(images)), layout="constrained")
    picture.suptitle(f"Field {key}")
    rows = picture.subplots(len(images), 4, squeeze=False)
    for row, (target, painted) in zip(rows, images.items(), strict=True):
        truth = store.target(key, target)
        measured = measure_pixels(truth[valid], painted[valid])
        low, high = display_range(truth)
        middle, error = planes[len(planes) // 2], np.abs(truth.astype(np.int32) - painted)
        panels = [
            (middle, "gray", *display_range(middle), "brightfield, middle plane"),
            (truth, "gray", low, high, f"{target} {TARGET_NAMES[target]}: true stain"),
            (painted, "gray", low, high, f"painted (r {measured['pearson']:.2f})"),
            (error, "magma", 0, (high - low) / 2, f"error (MAE {measured['mae']:.0f} counts)"),
        ]
        for panel, (image, shades, black, white, title) in zip(row, panels, strict=True):
            drawn = panel.imshow(image, cmap=shades, vmin=black, vmax=white)
            panel.set_title(title, fontsize=10)
            panel.axis("off")
            if panel is not row[0]:
                picture.colorbar(drawn, ax=panel, shrink=0.8, label="counts")
    return picture


def judged(fields: Sequence[FieldPaths], way: str) -> Figure:
    """Judged *fields*: for each a row of true stains above a row painted in a *way*.

    There is a column for every painted target, empty where a field lacks its true stain.
    Truth and painting share one scale of counts, the truth's. At 100 dots an inch three targets are
    690 pixels wide, because the registry's page has room for no more.
    """
    targets = sorted({target for field in fields for target in field.painted[way]})
    picture = Figure(figsize=(2.3 * len(targets), 4.6 * len(fields)), layout="constrained")
    rows = iter(picture.subplots(2 * len(fields), len(targets), squeeze=False))
    for field, true_row, painted_row in zip(fields, rows, rows, strict=True):
        for target, true_panel, painted_panel in zip(targets, true_row, painted_row, strict=True):
            if target not in field.painted[way]:
                true_panel.axis("off")
                painted_panel.axis("off")
                continue
            truth = read_image(field.truth[target])
            low, high = display_range(truth)
            painted = read_image(field.painted[way][target])
            titled = {
                f"{field.key}: {target} {TARGET_NAMES[target]}": (true_panel, truth),
                f"painted ({way})": (painted_panel, painted),
            }
            for title, (panel, image) in titled.items():
                panel.imshow(image, cmap="gray", vmin=low, vmax=high)
                panel.set_title(title, fontsize=8)
                panel.axis("off")
    return picture
