"""Fields as pictures that lie inside the page."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import FieldKey
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.measure import FieldMeasurement
from adipocyte.imaging.grey import display_range, to_grey
from adipocyte.plate.planes import read_image

# Of all pictures together. As text they take 4/3 of it; MLflow's page shows no artifact over 50 MB.
BUDGET_BYTES = 34_000_000
_SMALL_PX = 1_000_000  # smaller fields are kept to the last grey level, if they fit
_QUALITIES = (98, 92, 85, 75, 60, 40, 20, 5)


@dataclass(frozen=True)
class Shown:
    """A field chosen to be shown, with its `rank` ("only", "worst", "median", "best").

    `mae` (counts) and `pearson` are those of its painted image.
    """

    key: FieldKey
    target: str
    rank: str
    mae: float
    pearson: float


@dataclass(frozen=True)
class Pair:
    """A true and a painted image as data: URIs of `width_px` by `height_px`.

    They are grey from `low` to `high` counts.
    """

    shown: Shown
    low: float
    high: float
    width_px: int
    height_px: int
    truth: str
    painted: str


@dataclass(frozen=True)
class Gallery:
    """The pictures of a page, and the `method` that compressed them.

    `loss` is the mean difference that compression made, in grey levels of 255.
    """

    pairs: list[Pair]
    method: str
    loss: float


def chosen(
    measurements: Sequence[FieldMeasurement], target: str, magnification: int, way: str
) -> list[Shown]:
    """The fields with the largest, the middle and the smallest MAE; fewer if there are fewer."""
    found = [
        Shown(field.key, target, "", of_target["mae"], of_target["pearson"])
        for field in measurements
        if field.key.magnification == magnification
        and (of_target := field.pixels[way].get(target))
        and np.isfinite(of_target["mae"])
    ]
    found.sort(key=lambda shown: (-shown.mae, shown.key))
    if len(found) > 2:
        ranks = {0: "worst", len(found) // 2: "median", len(found) - 1: "best"}
    else:
        ranks = dict(enumerate(("worst", "best") if len(found) == 2 else ("only",)))
    return [replace(one, rank=ranks[place]) for place, one in enumerate(found) if place in ranks]


def gallery(chosen_fields: Sequence[Shown], paths: dict[FieldKey, FieldPaths], way: str) -> Gallery:
    """Read the fields and compress all alike, as well as fits into the budget.

    They are compressed alike because a sharper truth would make the painting look blurred. Raises
    ImageError, naming the file, when an image cannot be read.
    """
    ranges, greys = [], []
    for shown in chosen_fields:
        truth = read_image(paths[shown.key].truth[shown.target])
        painted = read_image(paths[shown.key].painted[way][shown.target])
        ranges.append(display_range(truth))
        greys += [to_grey(truth, *ranges[-1]), to_grey(painted, *ranges[-1])]
    method, sources, loss = embedded(greys, BUDGET_BYTES)
    pairs = [
        Pair(shown, low, high, truth.shape[1], truth.shape[0], *of_pair)
        for shown, (low, high), truth, *of_pair in zip(
            chosen_fields, ranges, greys[::2], sources[::2], sources[1::2], strict=True
        )
    ]
    return Gallery(pairs, method, loss)


def embedded(greys: list[NDArray[np.uint8]], budget_bytes: float) -> tuple[str, list[str], float]:
    """The images, (Y, X) each, compressed alike, as well as fits into the budget.

    Returns the method's name, the images as data: URIs, and the mean difference that compression
    made, in grey levels of 255.
    """
    method, files = _fitted(greys, budget_bytes)
    kind = method.split()[0].lower()
    losses = [_loss(grey, file) for grey, file in zip(greys, files, strict=True)]
    sources = [data_uri(file, kind) for file in files]
    return method, sources, float(np.mean(losses)) if losses else 0.0


def data_uri(file: NDArray[np.uint8], kind: str) -> str:
    """A *file* of an image, (N,) bytes, of the *kind* "png" or "webp", as an address."""
    return f"data:image/{kind};base64,{base64.b64encode(file.tobytes()).decode()}"


def _loss(grey: NDArray[np.uint8], file: NDArray[np.uint8]) -> float:
    """The mean difference of a pixel of *grey* from what its compressed *file* gives back."""
    found = cv2.imdecode(file, cv2.IMREAD_GRAYSCALE)
    return float(cv2.absdiff(grey, np.asarray(found)).mean())


def _fitted(
    greys: list[NDArray[np.uint8]], budget_bytes: float
) -> tuple[str, list[NDArray[np.uint8]]]:
    """Compress every image by the best method that fits the budget.

    The last method is taken even if it does not fit. Returns the method's name and the files.
    """
    methods = [
        (f"WebP quality {quality}", ".webp", [cv2.IMWRITE_WEBP_QUALITY, quality])
        for quality in _QUALITIES
    ]
    if all(grey.size < _SMALL_PX for grey in greys):
        methods.insert(0, ("PNG", ".png", [cv2.IMWRITE_PNG_COMPRESSION, 9]))
    for method, suffix, settings in methods[:-1]:
        files = _compressed(greys, suffix, settings, budget_bytes)
        if len(files) == len(greys):
            return method, files
    method, suffix, settings = methods[-1]
    return method, _compressed(greys, suffix, settings, math.inf)


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
