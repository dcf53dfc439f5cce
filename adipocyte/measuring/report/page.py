"""The page, section by section: what the template shows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from adipocyte.domain import BRIGHTFIELD, TARGET_COLOURS, TARGET_NAMES
from adipocyte.evaluation.cellprofiler.features import Measured
from adipocyte.evaluation.cellprofiler.labelling import Labels
from adipocyte.evaluation.cellprofiler.objects import KINDS, LIPID_AREA, N_DROPLETS
from adipocyte.evaluation.report.images import data_uri, embedded
from adipocyte.evaluation.report.template import template
from adipocyte.imaging.grey import display_range, to_grey
from adipocyte.measuring.grades import Graded
from adipocyte.measuring.pictures import FOUND_IN
from adipocyte.measuring.plate import MeasuredPlate, Shown, without
from adipocyte.measuring.report.plates import VIRIDIS, figure, groups_of, heat_maps, plate_data
from adipocyte.measuring.report.treatments import (
    controls,
    doses,
    droplets,
    given,
    n_compounds,
)
from adipocyte.measuring.screen import Row, by_plate, title
from adipocyte.plate.listing import few

# Of the pictures of the field; the wells' values are in the page, too.
BUDGET_BYTES = 16_000_000
CLASSES = (0.0, 0.5, 0.8, 0.95)  # of probabilities, by which outlines can be hidden
_SHOWN_PX = 1000  # fields wider than this are mostly looked at smaller than they are
_MOST_EXTREME = 3
KIND_NAMES = {"Nuclei": "nuclei", "Cells": "cells", "LipidDroplets": "lipid droplets"}
_EXTREMES = {
    f"Cells_Mean_{LIPID_AREA}": "Lipid in a cell, mean, µm²",
    f"Cells_Mean_{N_DROPLETS}": "Droplets in a cell, mean",
}


@dataclass(frozen=True)
class Extremes:
    """The wells of a plate with the lowest and the highest values of a feature: name and value."""

    title: str
    feature: str
    lowest: list[tuple[str, float]]
    highest: list[tuple[str, float]]


@dataclass(frozen=True)
class Picture:
    """An image of the field as data: URIs: grey from `low` to `high` counts, and the outlines.

    `found` says what lies in it; `outlines` are none where nothing could be sought, else a picture
    for each class of probability, with the least of it.
    """

    name: str
    title: str
    colour: str
    found: str
    low: float
    high: float
    width_px: int
    height_px: int
    grey: str
    outlines: list[tuple[float, str]]


def page(measured: MeasuredPlate, shown: Shown) -> str:
    """What was measured as one HTML page that needs no network and no other file.

    The field *shown* can be looked at. The same arguments give the same text.
    """
    plates = by_plate(measured.wells)
    graded = measured.graded or Graded()
    has_map = any("Metadata_Role" in row for row in measured.wells)
    curves = [row for row in measured.doses if not graded.forbids(row)]
    method, pictures = _pictures(shown)
    return template("adipocyte.measuring.report", "adipocyte.evaluation.report").render(
        n_fields=len(measured.fields),
        counts={name: _total(measured.wells, name) for name in KINDS},
        n_wells=len({(str(row["Metadata_Plate"]), row["Metadata_Well"]) for row in measured.wells}),
        problems=measured.problems,
        warnings=[*without(measured.lacking), *graded.sentences(), *_warnings(measured)],
        graded=graded,
        has_map=has_map,
        groups=groups_of(measured.wells, graded),
        maps=heat_maps(plates),
        data=plate_data(plates, graded),
        viridis=VIRIDIS,
        droplets=[droplets(*plate) for plate in plates],
        controls=controls(measured.controls),
        doses=doses(curves, measured.wells),
        n_compounds=n_compounds(curves),
        n_forbidden=len(measured.doses) - len(curves),
        extremes={title(named): _extremes(rows) for named, rows in plates},
        pictures=pictures,
        method=method,
        key=shown.key,
        classes=CLASSES if shown.probabilities else (),
        figure=figure,
        kind_names=KIND_NAMES,
    )


def _total(wells: Sequence[Row], kind: str) -> int:
    return sum(int(row[f"Image_Count_{kind}"]) for row in wells)


def _warnings(measured: MeasuredPlate) -> Iterator[str]:
    """What a reader should know before believing the numbers."""
    if measured.graded and measured.graded.unlike:
        wells = sorted({key.well for key in measured.graded.unlike})
        yield f"Painted from brightfield unlike the training wells: {few(wells)}."
    for named, rows in by_plate(measured.wells):
        for kind in KINDS:
            empty = [str(row["Metadata_Well"]) for row in rows if not row[f"Image_Count_{kind}"]]
            if empty:
                yield f"{title(named)}: no {KIND_NAMES[kind]} in {few(empty)}."
        defective = [
            str(row["Metadata_Well"])
            for row in rows
            if 2 * int(row["Image_Count_DefectiveLipidDroplets"])
            > int(row["Image_Count_LipidDroplets"])
        ]
        if defective:
            yield (
                f"{title(named)}: more than half of the droplets are defective in {few(defective)}."
            )
    for of_plate in controls(measured.controls):
        apart = [float(row["Z_prime"]) for row in of_plate.rows]
        if not any(one > 0.5 for one in apart) and not all(map(math.isnan, apart)):
            yield f"{of_plate.title}: Z' of no feature is above 0.5."
        for place in of_plate.places:
            if place.n_small > 2 * place.expected:
                yield (
                    f"{of_plate.title}: {place.n_small} of {place.n} features differ between "
                    f"{place.name} (p below 0.05); by chance it would be {place.expected:.0f}."
                )


def _extremes(wells: Sequence[Row]) -> list[Extremes]:
    """No well is among the lowest and the highest."""
    found = []
    for feature, name in _EXTREMES.items():
        finite = [row for row in wells if math.isfinite(float(row[feature]))]
        ordered = sorted(finite, key=lambda row: float(row[feature]))
        values = [(_named(row), float(row[feature])) for row in ordered]
        middle = (len(values) + 1) // 2
        lowest, highest = values[:middle][:_MOST_EXTREME], values[middle:][-_MOST_EXTREME:][::-1]
        found.append(Extremes(name, feature, lowest, highest))
    return found


def _named(row: Row) -> str:
    treatment = given(row)
    return f"{row['Metadata_Well']} ({treatment})" if treatment else str(row["Metadata_Well"])


def _pictures(shown: Shown) -> tuple[str, list[Picture]]:
    """The pictures of a field, and how they were compressed."""
    images = dict(shown.stains)
    if shown.brightfield is not None:
        images = {BRIGHTFIELD: shown.brightfield} | images
    ranges = [display_range(image) for image in images.values()]
    greys = [to_grey(image, *limits) for image, limits in zip(images.values(), ranges, strict=True)]
    method, sources, _ = embedded(greys, BUDGET_BYTES)
    pictures = []
    for name, grey, limits, source in zip(images, greys, ranges, sources, strict=True):
        labels = _drawn_over(name, shown.found)
        pictures.append(
            Picture(
                name=name,
                title=f"{name} {TARGET_NAMES[name]}" if name in TARGET_NAMES else "Brightfield",
                colour=TARGET_COLOURS.get(name, ""),
                found=_said(name, shown.found),
                low=limits[0],
                high=limits[1],
                width_px=grey.shape[1],
                height_px=grey.shape[0],
                grey=source,
                outlines=_by_probability(labels, shown.probabilities) if labels else [],
            )
        )
    return method, pictures


def _drawn_over(name: str, found: Measured) -> dict[str, Labels]:
    """The labels to outline over a stain, or all over brightfield, by the target they lie in."""
    targets = FOUND_IN if name == BRIGHTFIELD else [name]
    return {
        target: found.drawn(KINDS[FOUND_IN[target]])
        for target in targets
        if KINDS[FOUND_IN[target]] in found.labels
    }


def _said(name: str, found: Measured) -> str:
    """How many objects there are in a stain."""
    if name == BRIGHTFIELD:
        return "middle focal plane"
    table = FOUND_IN[name]
    if KINDS[table] not in found.labels:
        return f"without a stain that {KIND_NAMES[table]} need"
    return f"{found.labels[KINDS[table]].max():,} {KIND_NAMES[table]}"


def _by_probability(
    labels: Mapping[str, Labels], probabilities: Mapping[str, NDArray[np.float64]]
) -> list[tuple[float, str]]:
    """A picture of the outlines of objects in each class of CLASSES, and the least of the class.

    Objects without a probability are never hidden.
    """
    if not any(FOUND_IN[target] in probabilities for target in labels):
        return [(1.0, _outlines(labels))]
    pictures = []
    for least, most in pairwise((*CLASSES, np.inf)):
        of_class = {}
        for target, of_target in labels.items():
            likely = np.ones(of_target.max())
            known = probabilities.get(FOUND_IN[target], likely)
            likely = np.where(np.isfinite(known), known, 1.0)
            keep = np.concatenate([[False], (likely >= least) & (likely < most)])
            of_class[target] = np.where(keep[of_target], of_target, 0)
        pictures.append((least, _outlines(of_class)))
    return pictures


def _outlines(labels: Mapping[str, Labels]) -> str:
    """The outlines of *labels*, (Y, X), in their targets' colours upon nothing, as a data: URI."""
    shape = next(iter(labels.values())).shape
    drawn = np.zeros((*shape, 4), dtype=np.uint8)
    width_px = max(1, round(shape[1] / _SHOWN_PX))  # or a large field's would not be seen
    for target, of_target in labels.items():
        red, green, blue = (round(255 * part) for part in to_rgb(TARGET_COLOURS[target]))
        lines = find_boundaries(of_target, mode="inner").astype(np.uint8)
        thick = cv2.dilate(lines, np.ones((width_px, width_px), np.uint8)).astype(bool)
        drawn[thick] = (blue, green, red, 255)
    return data_uri(cv2.imencode(".png", drawn, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1], "png")
