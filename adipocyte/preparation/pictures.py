"""Pictures and the table of a prepared store: quality of fields, histograms, nuclei masks."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from adipocyte.domain import BRIGHTFIELD, has_times
from adipocyte.imaging.grey import display_range
from adipocyte.imaging.limits import distance, flag_words
from adipocyte.preparation.contact_sheet import contact_sheet, thumbnail
from adipocyte.store.reader import Store

_MOST_FIELDS = 24
_MOST_PX = 400


def histogram_plot(store: Store) -> Figure:
    """How often each count occurs in the training wells.

    There is a panel for each magnification, and in it a line for each channel.
    """
    figure = Figure(figsize=(5 * len(store.magnifications), 4), layout="constrained")
    panels = figure.subplots(1, len(store.magnifications), squeeze=False)[0]
    for panel, magnification in zip(panels, store.magnifications, strict=True):
        for channel in (BRIGHTFIELD, *store.manifest.targets):
            histogram = store.histogram(magnification, channel)
            most = int(np.searchsorted(np.cumsum(histogram), 0.9999 * histogram.sum())) + 1
            bins = np.linspace(0, most, 129).astype(int)
            n_px = np.add.reduceat(histogram[:most], bins[:-1].clip(max=most - 1))
            panel.plot((bins[:-1] + bins[1:]) / 2, n_px / histogram.sum(), label=channel)
        panel.set(
            title=f"{magnification}x, training wells",
            xlabel="counts",
            ylabel="share of pixels",
            yscale="log",
        )
        panel.legend()
    return figure


def mask_sheet(store: Store) -> Figure:
    """The nuclei stain of fields with the outline of its mask: at most 24, evenly chosen."""
    keys = [key for key in store.manifest.fields if "A1" in store.targets(key)]
    keys = keys[:: math.ceil(len(keys) / _MOST_FIELDS)]
    n_columns = min(6, len(keys))
    n_rows = math.ceil(len(keys) / n_columns)
    figure = Figure(figsize=(3 * n_columns, 3 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    for panel, key in zip(panels, keys, strict=False):
        step = max(1, max(store.shape(key)) // _MOST_PX)
        nuclei, mask = store.target(key, "A1")[::step, ::step], store.mask(key)[::step, ::step]
        low, high = display_range(nuclei)
        panel.imshow(nuclei, cmap="gray", vmin=low, vmax=high)
        if mask.any() and not mask.all():
            panel.contour(mask, levels=[0.5], colors="orange", linewidths=0.8)
        panel.set_title(f"{key}, {mask.mean():.1%} nuclei", fontsize=9)
    return figure


def quality_rows(store: Store) -> list[dict[str, Any]]:
    """A row for each field, flagged ones first.

    It has the field's key, its flags, its distance from the training wells and all its measures.
    Every row has the same columns; None where a measure could not be taken.
    """
    entries = store.manifest.fields
    names = list(dict.fromkeys(name for entry in entries.values() for name in entry.quality))
    rows = []
    with_time = has_times(entries)
    for key, entry in sorted(entries.items(), key=lambda one: not one[1].flags):
        limits = store.manifest.limits[str(key.magnification)]
        row = {
            **key.columns(with_time=with_time),
            "flags": "; ".join(entry.flags),
            "distance": distance(entry.quality, limits),
        }
        rows.append(row | {name: entry.quality.get(name) for name in names})
    return rows


def quality_sheet(store: Store) -> Figure:
    """Thumbnails of the fields' sharpest planes, flagged fields first and framed in red."""
    thumbnails, titles, words = [], [], []
    for key, entry in store.manifest.fields.items():
        sharpest_z = int(entry.quality.get("sharpest_z", 1))  # from 1
        thumbnails.append(thumbnail(store.plane(key, sharpest_z - 1)))
        titles.append(str(key))
        words.append(flag_words(entry.quality, store.manifest.limits[str(key.magnification)]))
    return contact_sheet(thumbnails, titles, words)
