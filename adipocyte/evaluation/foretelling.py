"""What tells how wrong a painted field is: learnt on fields of a store, good ones and spoilt ones.

A model meets fields that no validation well was like. So parts of the validation wells are spoilt
in many ways and degrees, painted, and compared with their true stains; which painted fields were
wrong, and what they looked like, teaches `imaging.foreteller`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from adipocyte.domain import FieldKey, Intensities, Window
from adipocyte.evaluation.fields import spread
from adipocyte.evaluation.spoiling import spoil
from adipocyte.evaluation.uptake import error_in_any, errors_by_uptake, uptake
from adipocyte.imaging.appearance import measure_appearance
from adipocyte.imaging.foreteller import Foreteller, Painted, learn
from adipocyte.imaging.intervals import FEWEST_WELLS
from adipocyte.imaging.quality import Measures, measure_quality
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store

N_PARTS = 240  # of fields of each magnification, which are painted
_GOOD_EVERY = 4  # of its turns one leaves a field as it is, the others spoil it
_PART_PX = 768


@dataclass(frozen=True)
class _Part:
    """A part of a field of a `well`, painted as it is (`is_good`) or spoilt.

    `errors` by target are MAE over the training wells' median for each of UPTAKES; `uptakes` by
    target say how much more stain is there than is painted.
    """

    well: str
    is_good: bool
    appearance: Measures
    errors: Mapping[str, NDArray[np.float64]]
    uptakes: Mapping[str, float]


def learn_foretellers(
    stainer: Stainer, store: Store, keys: Sequence[FieldKey], seed: int, n_parts: int = N_PARTS
) -> list[Foreteller]:
    """What foretells the errors of the images that *stainer* paints, at each magnification.

    *keys* are fields that did not train its networks, of each magnification *n_parts* parts are
    painted. Magnifications of which fewer than FEWEST_WELLS wells are among them get none; so do
    those of which a stain is all dark. The same *seed* draws the same parts, and spoils them in the
    same ways.
    """
    found = []
    for magnification in store.magnifications:
        alike = [key for key in keys if key.magnification == magnification]
        fields = sorted(spread(alike, n_parts // _GOOD_EVERY))
        if len({key.well for key in fields}) < FEWEST_WELLS:
            continue
        random = np.random.default_rng([seed, magnification])
        parts = [
            _painted(stainer, store, fields[n % len(fields)], n // len(fields), random)
            for n in tqdm(range(n_parts), desc=f"foretell {magnification}x", unit="part")
        ]
        known = {target for part in parts if part.is_good for target in part.errors}
        if known == set(stainer.manifest.targets):
            found.append(learn(magnification, _in_any_well(parts)))
    return found


def _painted(
    stainer: Stainer, store: Store, key: FieldKey, turn: int, random: np.random.Generator
) -> _Part:
    """A random part of a field, as it is at its first *turn*, and then mostly spoilt."""
    has = [target for target in stainer.manifest.targets if target in store.targets(key)]
    planes, stains = store.planes_and_targets(key, has, _part(store, key, random))
    is_good = turn % _GOOD_EVERY == 0
    if not is_good:
        planes, stains = spoil(planes, stains, random)
    raw = stainer.stain(planes, key.magnification, intensities=Intensities.NONE).images
    images = stainer.rescale(raw, key.magnification, stainer.manifest.intensities)
    errors, uptakes = {}, {}
    for target, truth in zip(has, stains, strict=True):
        middle = store.median(key.magnification, target)
        if middle > 0:
            errors[target] = errors_by_uptake(images[target], truth) / middle
            uptakes[target] = uptake(images[target], truth)
    appearance = measure_appearance(measure_quality(planes), raw)
    return _Part(key.well, is_good, appearance, errors, uptakes)


def _in_any_well(parts: Sequence[_Part]) -> list[Painted]:
    """The *parts*, with the errors that they would have in any of their wells."""
    of_wells = {
        target: _uptakes(parts, target)
        for target in sorted({target for part in parts for target in part.uptakes})
    }
    found = []
    for part in parts:
        errors = {
            target: error_in_any(by_uptake, of_wells[target][part.well], of_wells[target])
            for target, by_uptake in part.errors.items()
        }
        found.append(Painted(part.well, part.is_good, part.appearance, errors))
    return found


def _uptakes(parts: Sequence[_Part], target: str) -> dict[str, float]:
    """How much more stain there is than is painted, by well: the median of its good *parts*."""
    by_well: dict[str, list[float]] = {}
    for part in parts:
        if part.is_good and target in part.uptakes:
            by_well.setdefault(part.well, []).append(part.uptakes[target])
    return {well: float(np.median(values)) for well, values in sorted(by_well.items())}


def _part(store: Store, key: FieldKey, random: np.random.Generator) -> Window:
    """A random part of what brightfield and fluorescence have both seen of a field."""
    rows, columns = (_span(side, random) for side in store.valid(key))
    return rows, columns


def _span(side: slice, random: np.random.Generator) -> slice:
    length = min(side.stop - side.start, _PART_PX)
    start = side.start + int(random.integers(side.stop - side.start - length + 1))
    return slice(start, start + length)
