"""Fields as pictures that lie inside the page."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import FieldKey
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.measure import FieldMeasurement
from adipocyte.imaging.grey import display_range, to_grey
from adipocyte.plate.tiff import read_image

BUDGET_BYTES = 34_000_000  # of all pictures together: 4/3 of it as text, and MLflow's page shows no artifact of more than 50 MB
_SMALL_PX = 1_000_000  # fields below are kept to the last grey level, if they fit
_QUALITIES = (98, 92, 85, 75, 60, 40, 20, 5)


@dataclass(frozen=True)
class Shown:
    """A field chosen to be shown: its `rank` ("worst", "median", "best"), with `mae` in counts and `pearson` of its painted image."""

    key: FieldKey
    target: str
    rank: str
    mae: float
    pearson: float


@dataclass(frozen=True)
class Pair:
    """A true and a painted image, data: URIs of `width_px` by `height_px`, grey from `low` to `high` counts."""

    shown: Shown
    low: float
    high: float
    width_px: int
    height_px: int
    truth: str
    painted: str


@dataclass(frozen=True)
class Gallery:
    """The pictures of a page, and how they were compressed: `loss` is the mean difference that this made, in grey levels of 255."""

    pairs: list[Pair]
    method: str
    loss: float


def chosen(
    figures: Sequence[FieldMeasurement], target: str, magnification: int, way: str
) -> list[Shown]:
    """The fields with the largest, the middle and the smallest MAE; fewer where there are fewer."""
    found = [
        Shown(field.key, target, "", of_target["mae"], of_target["pearson"])
        for field in figures
        if field.key.magnification == magnification
        and (of_target := field.pixels[way].get(target))
        and np.isfinite(of_target["mae"])
    ]
    found.sort(key=lambda shown: (-shown.mae, shown.key))
    places = (
        {0: "worst", len(found) // 2: "median", len(found) - 1: "best"}
        if len(found) > 2
        else dict(enumerate(("worst", "best")))
    )
    ranks = {0: "only"} if len(found) == 1 else places
    return [
        Shown(one.key, target, ranks[place], one.mae, one.pearson)
        for place, one in enumerate(found)
        if place in ranks
    ]


def gallery(chosen_fields: Sequence[Shown], paths: dict[FieldKey, FieldPaths], way: str) -> Gallery:
    """Read the fields and compress all alike, as well as fits into the budget: a sharper truth would make the painting look blurred.

    Raises ImageError, naming the file, when an image cannot be read.
    """
    ranges, greys = [], []
    for shown in chosen_fields:
        truth = read_image(paths[shown.key].truth[shown.target])
        painted = read_image(paths[shown.key].painted[way][shown.target])
        ranges.append(display_range(truth))
        greys += [to_grey(truth, *ranges[-1]), to_grey(painted, *ranges[-1])]
    method, files = _fitted(greys)
    kind = method.split()[0].lower()
    sources = [f"data:image/{kind};base64,{base64.b64encode(file).decode()}" for file in files]
    losses = [
        cv2.absdiff(grey, cv2.imdecode(file, cv2.IMREAD_GRAYSCALE)).mean()
        for grey, file in zip(greys, files, strict=True)
    ]
    pairs = [
        Pair(shown, low, high, truth.shape[1], truth.shape[0], *of_pair)
        for shown, (low, high), truth, *of_pair in zip(
            chosen_fields, ranges, greys[::2], sources[::2], sources[1::2], strict=True
        )
    ]
    return Gallery(pairs, method, float(np.mean(losses)) if losses else 0.0)


def _fitted(greys: list[NDArray[np.uint8]]) -> tuple[str, list[NDArray[np.uint8]]]:
    """Every image compressed in the best way that the budget allows, the last way whatever it takes: the way's name, the files."""
    ways = [
        (f"WebP quality {quality}", ".webp", [cv2.IMWRITE_WEBP_QUALITY, quality])
        for quality in _QUALITIES
    ]
    if all(grey.size < _SMALL_PX for grey in greys):
        ways.insert(0, ("PNG", ".png", [cv2.IMWRITE_PNG_COMPRESSION, 9]))
    *better, (last, suffix, settings) = ways
    for method, *how in better:
        files = _compressed(greys, *how, BUDGET_BYTES)
        if len(files) == len(greys):
            return method, files
    return last, _compressed(greys, suffix, settings, math.inf)


def _compressed(
    greys: list[NDArray[np.uint8]], suffix: str, settings: list[int], limit_bytes: float
) -> list[NDArray[np.uint8]]:
    """The images' files, as many as fit."""
    files: list[NDArray[np.uint8]] = []
    for grey in greys:
        file = cv2.imencode(suffix, grey, settings)[1]
        limit_bytes -= file.size
        if limit_bytes < 0:
            break
        files.append(file)
    return files
