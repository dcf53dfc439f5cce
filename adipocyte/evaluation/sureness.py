"""Whether a model's intervals hold and its expected errors come true, on fields that are judged."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import spearmanr
from skimage.filters import threshold_otsu
from tqdm import tqdm

from adipocyte.domain import FieldKey, as_in_challenge, table_key
from adipocyte.evaluation.cellprofiler.cells import find_nuclei
from adipocyte.evaluation.cellprofiler.droplets import find_droplets, merge
from adipocyte.evaluation.cellprofiler.parameters import PARAMETERS
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.imaging.intervals import LEVEL, Widths
from adipocyte.imaging.resizing import resized, shape_at
from adipocyte.imaging.trust import Trust
from adipocyte.plate.tiff import read_image

PLACES = ("ground", "objects", "edges")
_EDGE_PX = 2  # to either side of an object's border
ALL = "all"


@dataclass(frozen=True)
class Held:
    """The `share` of a target's pixels whose true count lies inside its interval, at a `place`.

    A place is ALL of them, one of PLACES, or "well B03". `width` is that of the intervals, mean
    over these pixels, over the standard deviation of all true counts.
    """

    magnification: int
    target: str
    place: str
    share: float
    width: float


@dataclass(frozen=True)
class Foretold:
    """What a model said of a field, and the errors that it had, MAE over the training median."""

    key: FieldKey
    trust: Trust
    errors: dict[str, float]


@dataclass(frozen=True)
class Sureness:
    """How often intervals `held`, and what was `foretold` of fields; empty without any."""

    held: Sequence[Held] = ()
    foretold: Sequence[Foretold] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers to compare models by, for each magnification."""
        return _held_metrics(self.held) | _foretold_metrics(self.foretold)


NOT_SURE = Sureness()  # of what foretells nothing


def places(
    target: str, truth: NDArray[np.uint16], magnification: int, um_per_px: float
) -> NDArray[np.uint8]:
    """The place in PLACES of each pixel (Y, X) of a true stain.

    Objects are nuclei and droplets by the challenge's pipeline; cytoplasm is what is brighter than
    Otsu's threshold.
    """
    alike, zoom = as_in_challenge(magnification, um_per_px)
    as_measured = resized(truth, shape_at(truth.shape, zoom))
    unit, parameters = as_measured.astype(np.float32) / np.float32(65535), PARAMETERS[alike]
    if target == "A1":
        inside = find_nuclei(unit, parameters)[0] > 0
    elif target == "A2":
        small, big = find_droplets(unit, parameters)
        inside = merge(big, small) > 0
    else:
        smooth = np.log1p(ndimage.gaussian_filter(as_measured.astype(np.float64), 1))
        inside = smooth > threshold_otsu(smooth)
    inside = resized(inside.astype(np.uint16), truth.shape) > 0
    grow = partial(ndimage.binary_dilation, iterations=_EDGE_PX)
    return np.where(grow(inside) & grow(~inside), 2, inside).astype(np.uint8)


def held(
    fields: Sequence[FieldPaths],
    way: str,
    widths: Mapping[str, Widths],
    placed: frozenset[FieldKey] = frozenset(),
) -> list[Held]:
    """How often the intervals hold of what is painted in a *way*, at the level LEVEL.

    *widths* by "20/A1", … are the model's. Of the fields *placed* the PLACES are judged, too, which
    takes a few seconds for each.
    """
    found = []
    stains = sorted(
        {(field.key.magnification, target) for field in fields for target in field.truth}
    )
    for magnification, target in tqdm(stains, desc="intervals", unit="stain"):
        of_stain = widths.get(table_key(magnification, target))
        alike = [
            field
            for field in fields
            if field.key.magnification == magnification and target in field.painted.get(way, {})
        ]
        if of_stain and alike and of_stain.highest_level >= LEVEL:
            found += _held(alike, way, target, of_stain, placed)
    return found


def _held(
    fields: Sequence[FieldPaths],
    way: str,
    target: str,
    widths: Widths,
    placed: frozenset[FieldKey],
) -> list[Held]:
    # Of each place: pixels, those inside, and the sum of their widths.
    sums: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(3))
    moments = np.zeros(3)
    for field in fields:
        truth, image = read_image(field.truth[target]), read_image(field.painted[way][target])
        low, high = widths.interval(image, LEVEL)
        inside, width = (low <= truth) & (truth <= high), high.astype(np.float64) - low
        counts = truth.astype(np.float64)
        moments += (truth.size, counts.sum(), np.square(counts).sum())
        for name in (ALL, f"well {field.key.well}"):
            sums[name] += (inside.size, inside.sum(), width.sum())
        if field.key in placed:
            at = places(target, truth, field.key.magnification, field.um_per_px)
            for number, name in enumerate(PLACES):
                here = at == number
                sums[name] += (here.sum(), inside[here].sum(), width[here].sum())
    n, total, squares = moments
    spread = max(np.sqrt(max(squares / n - (total / n) ** 2, 0)), 1e-9)
    order = [ALL, *PLACES, *sorted(name for name in sums if name.startswith("well "))]
    return [
        Held(
            fields[0].key.magnification,
            target,
            name,
            float(sums[name][1] / sums[name][0]),
            float(sums[name][2] / sums[name][0] / spread),
        )
        for name in order
        if name in sums and sums[name][0]
    ]


def _foretold_metrics(fields: Sequence[Foretold]) -> dict[str, float]:
    """Spearman's correlation of expected and true errors of fields, means over the stains.

    And the share of fields that are not to be believed. By "expected_error_rho_20x", "refused_20x".
    """
    found = {}
    for magnification in {field.key.magnification for field in fields}:
        here = [
            field for field in fields if field.key.magnification == magnification and field.errors
        ]
        here = [field for field in here if field.trust.errors.keys() >= field.errors.keys()]
        if not here:
            continue
        found[f"refused_{magnification}x"] = float(
            np.mean([one.trust.verdict == "no" for one in here])
        )
        pairs = np.array([[_mean(one.trust.errors, one), _mean(one.errors, one)] for one in here])
        if len(here) > 2 and np.ptp(pairs, axis=0).all():
            rho = float(spearmanr(*pairs.T)[0])
            found[f"expected_error_rho_{magnification}x"] = rho
    return found


def _held_metrics(found: Sequence[Held]) -> dict[str, float]:
    """The share of pixels inside by "coverage_A1_20x", …"""
    return {
        f"coverage_{one.target}_{one.magnification}x": one.share
        for one in found
        if one.place == ALL
    }


def _mean(errors: Mapping[str, float], of: Foretold) -> float:
    return float(np.mean([errors[target] for target in of.errors]))
