"""What tells how wrong a painted field is: learnt on fields of a store, good ones and spoilt ones.

A model meets fields that no validation well was like. So parts of the validation wells are spoilt
in many ways and degrees, painted, and compared with their true stains; which painted fields were
wrong, and what they looked like, teaches `imaging.foreteller`.
"""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from adipocyte.domain import FieldKey, Intensities, Window
from adipocyte.evaluation.fields import spread
from adipocyte.evaluation.spoiling import spoil
from adipocyte.imaging.appearance import measure_appearance
from adipocyte.imaging.foreteller import Foreteller, Painted, learn
from adipocyte.imaging.intervals import FEWEST_WELLS
from adipocyte.imaging.quality import measure_quality
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store

N_PARTS = 240  # of fields of each magnification, which are painted
_GOOD_EVERY = 4  # of its turns one leaves a field as it is, the others spoil it
_PART_PX = 768
_LEAST_ERROR = 1e-4  # has a logarithm


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
        painted = [
            _painted(stainer, store, fields[n % len(fields)], n // len(fields), random)
            for n in tqdm(range(n_parts), desc=f"foretell {magnification}x", unit="part")
        ]
        known = {target for one in painted if one.is_good for target in one.errors}
        if known == set(stainer.manifest.targets):
            found.append(learn(magnification, painted))
    return found


def _painted(
    stainer: Stainer, store: Store, key: FieldKey, turn: int, random: np.random.Generator
) -> Painted:
    """A random part of a field, as it is at its first *turn*, and then mostly spoilt."""
    has = [target for target in stainer.manifest.targets if target in store.targets(key)]
    planes, stains = store.planes_and_targets(key, has, _part(store, key, random))
    is_good = turn % _GOOD_EVERY == 0
    if not is_good:
        planes, stains = spoil(planes, stains, random)
    raw = stainer.stain(planes, key.magnification, intensities=Intensities.NONE).images
    images = stainer.rescale(raw, key.magnification, stainer.manifest.intensities)
    errors = {}
    for target, truth in zip(has, stains, strict=True):
        middle = store.median(key.magnification, target)
        mae = np.abs(images[target].astype(np.float32) - truth).mean()
        if middle > 0:
            errors[target] = max(float(mae) / middle, _LEAST_ERROR)
    return Painted(key.well, is_good, measure_appearance(measure_quality(planes), raw), errors)


def _part(store: Store, key: FieldKey, random: np.random.Generator) -> Window:
    """A random part of what brightfield and fluorescence have both seen of a field."""
    rows, columns = (_span(side, random) for side in store.valid(key))
    return rows, columns


def _span(side: slice, random: np.random.Generator) -> slice:
    length = min(side.stop - side.start, _PART_PX)
    start = side.start + int(random.integers(side.stop - side.start - length + 1))
    return slice(start, start + length)
