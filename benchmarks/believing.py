r"""Whether fields that are wrong are refused, and intervals hold where they are not.

    OMP_NUM_THREADS=1 python -m benchmarks.believing --out believing --trained <folder> [--check]

<folder> is what `benchmarks.uncertainty --out` left: a network, and the store of the wells that
taught its intervals; here those teach what foretells the errors, too. Then it paints fields that it
has not seen: good ones, whose wells differ as wells do, and such as other instruments, cultures and
accidents give, of four strengths each. Of a stain's MAE over the training wells' median:

- rho: Spearman's correlation of the expected and the true error, both in parts of the usual one and
  averaged over the stains, over all fields; "at best" is that of the error that is to be expected
  where all of a field is known but how much stain its well took up;
- caught: the share refused of shifted fields in which a stain has more than twice its usual error,
  if the limit of the risk is set so that one in twenty of these good fields is refused; and with
  the limit that the model has learnt, and the good fields that this refuses, and the shifted ones
  in which no stain has more than 1.5 times its usual error ("fine");
- by strength of the shift: the share refused, and the pixels inside 90 % intervals, of all fields
  and of those that are not refused.

Each field is a file in <out>/fields; those that exist are not made again.
"""

import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.stats import spearmanr
from tqdm import tqdm

from adipocyte.domain import BRIGHTFIELD, TARGETS, Intensities
from adipocyte.evaluation.foretelling import learn_foretellers
from adipocyte.evaluation.uptake import error_in_any, errors_by_uptake
from adipocyte.imaging.appearance import measure_appearance
from adipocyte.imaging.foreteller import Foreteller
from adipocyte.imaging.intervals import LEVEL
from adipocyte.imaging.quality import measure_quality
from adipocyte.imaging.trust import Verdict
from adipocyte.simulation import (
    Conditions,
    draw_any_conditions,
    draw_conditions,
    draw_instrument,
)
from adipocyte.staining.bundle import write_foretellers
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store
from benchmarks.report import parser, report
from benchmarks.shift import HOME, MAGNIFICATION, Shift, camera, optics, write_scene

N_GOOD, N_SCENES = 60, 2  # good fields; scenes of each shift and strength
SEED = 31
WRONG, FINE = 2.0, 1.5  # times the usual error: more, and less
AT_LEAST = {"rho": 0.7, "caught at 5 % of good fields": 0.8}
OF_BRIGHTFIELD = HOME.exposures[BRIGHTFIELD]
PLANES = ((0, 1, 2, 3, 4, 4, 6), (0, 1, 2, 4, 4, 5, 6), (0, 0, 2, 2, 4, 4, 6), (3,) * 7)


def shifts() -> Iterator[tuple[str, int, Shift]]:
    """The name of each, a strength from 1 to 4, and what is different."""
    for strength, um in enumerate((0.7, 1.4, 2.5, 4.0), 1):
        yield "focus up", strength, Shift(conditions=Conditions(defocus_um=um))
        yield "focus down", strength, Shift(conditions=Conditions(defocus_um=-um))
    for strength, times in enumerate((1.3, 2, 4, 10), 1):
        yield "brighter", strength, Shift(camera(gain=OF_BRIGHTFIELD.gain * times))
        yield "darker", strength, Shift(camera(gain=OF_BRIGHTFIELD.gain / times))
    for strength, times in enumerate((1.5, 2.5, 4, 8), 1):
        electrons = OF_BRIGHTFIELD.electrons_per_count / times**2
        noise = OF_BRIGHTFIELD.read_noise * times
        yield "noise", strength, Shift(camera(electrons_per_count=electrons, read_noise=noise))
    for strength, part in enumerate((0.05, 0.1, 0.2, 0.3), 1):
        yield "NA lower", strength, Shift(optics(aperture=1 - part))
        yield "pixels larger", strength, Shift(optics(um_per_px=1 + part))
        yield "pixels smaller", strength, Shift(optics(um_per_px=1 - part))
        for name, times in (("z-step shorter", 1 - 1.5 * part), ("z-step longer", 1 + 1.5 * part)):
            yield name, strength, Shift(optics(focus_step_um=times, first_focus_um=times))
    for strength, part in enumerate((0.15, 0.3, 0.6, 0.9), 1):
        yield "uneven light", strength, Shift(replace(HOME, slope=part))
        yield "vignetting", strength, Shift(replace(HOME, bowl=part))
    for strength, n in enumerate((5, 15, 40, 120), 1):
        yield "dust", strength, Shift(replace(HOME, specks=n))
    for strength, planes in enumerate(PLANES, 1):
        yield "planes missing", strength, Shift(planes=planes)
    for strength in range(1, 5):
        instrument = draw_instrument(MAGNIFICATION, (SEED, strength))
        cells = draw_any_conditions((SEED, strength))
        yield "other microscope, other cells", strength, Shift(instrument, cells)
    yield from _cultures()


def _cultures() -> Iterator[tuple[str, int, Shift]]:
    for name, setting, values in (
        ("fewer cells", "density", (0.85, 0.6, 0.3, 0.1)),
        ("smaller droplets", "ripeness", (0.85, 0.7, 0.5, 0.35)),
        ("larger droplets", "ripeness", (1.15, 1.3, 1.5, 1.8)),
        ("one droplet in a cell", "unilocular", (0.3, 0.5, 0.8, 1.0)),
        ("floating cells", "floating", (5.0, 10.0, 20.0, 30.0)),
    ):
        for strength, value in enumerate(values, 1):
            yield name, strength, Shift(conditions=replace(Conditions(), **{setting: value}))


@dataclass(frozen=True)
class Place:
    """A field to make: of which shift, of the strength 0 if it is good, and which scene."""

    name: str
    strength: int
    shift: Shift
    seed: tuple[int, ...]

    @property
    def file(self) -> str:
        return f"{self.name}-{self.strength}-{self.seed[-1]}.safetensors"


def places() -> list[Place]:
    """Wells take up stain as wells do, whatever else is different."""
    found = [
        Place("good", 0, Shift(conditions=draw_conditions((SEED, 0, i))), (SEED, 0, i))
        for i in range(N_GOOD)
    ]
    for number, (name, strength, shift) in enumerate(shifts(), 1):
        for scene in range(N_SCENES):
            seed = (SEED, number, scene)
            cells = replace(shift.conditions, stains=draw_conditions(seed).stains)
            found.append(Place(name, strength, replace(shift, conditions=cells), seed))
    return found


def make(folder: Path, place: Place) -> None:
    """Simulate a field into *folder*."""
    write_scene(folder / place.file, place.shift, place.seed)


@dataclass(frozen=True)
class Judged:
    """A painted field: its errors in parts of the usual ones, and the pixels inside; (T,) each.

    `best` is what can be expected without knowing how much stain its well took up.
    """

    strength: int
    verdict: Verdict
    risk: float
    expected: NDArray[np.float64]
    true: NDArray[np.float64]
    best: NDArray[np.float64]
    inside: NDArray[np.float64]

    @property
    def is_wrong(self) -> bool:
        return self.strength > 0 and bool(self.true.max() > WRONG)

    @property
    def is_fine(self) -> bool:
        return self.strength > 0 and bool(self.true.max() < FINE)


def judged(stainer: Stainer, store: Store, learnt: Foreteller, folder: Path, at: Place) -> Judged:
    """The field of a place, whose file is in a *folder*."""
    images = load_file(folder / at.file)
    planes = images.pop("planes")
    stained = stainer.stain(planes, MAGNIFICATION, level=LEVEL)
    raw = stainer.stain(planes, MAGNIFICATION, intensities=Intensities.NONE).images
    risk = learnt.risk(measure_appearance(measure_quality(planes), raw))
    expected, true, best, inside = [], [], [], []
    for target in TARGETS:
        truth, image, (low, high) = (
            images[target],
            stained.images[target],
            stained.intervals[target],
        )
        usual = store.median(MAGNIFICATION, target) * learnt.usual[target]
        by_uptake = errors_by_uptake(image, truth) / usual
        expected.append(stained.trust.errors[target] / learnt.usual[target])
        true.append(np.abs(image.astype(np.float64) - truth).mean() / usual)
        best.append(error_in_any(by_uptake, stain_of(at, target), uptakes(target)))
        inside.append(((low <= truth) & (truth <= high)).mean())
    verdict = stained.trust.verdict
    return Judged(at.strength, verdict, risk, *map(np.array, (expected, true, best, inside)))


@cache
def uptakes(target: str) -> dict[str, float]:
    """How much stain the good fields' wells took up, by their file."""
    return {place.file: stain_of(place, target) for place in places() if place.strength == 0}


def stain_of(place: Place, target: str) -> float:
    """How much stain a well took up, as `uptake` says it."""
    return float(np.log(place.shift.conditions.stains[target]))


def figures(fields: list[Judged], learnt: Foreteller) -> dict[str, float]:
    """All figures; those by strength are means over its fields."""
    good = [field for field in fields if field.strength == 0]
    wrong = [field for field in fields if field.is_wrong]
    expected, true, best = (
        np.stack([getattr(field, name) for field in fields])
        for name in ("expected", "true", "best")
    )
    limit = float(np.quantile([field.risk for field in good], 0.95))
    found = {
        "rho": spearmanr(expected.mean(axis=1), true.mean(axis=1))[0],
        "rho at best": spearmanr(best.mean(axis=1), true.mean(axis=1))[0],
        "wrong fields": len(wrong),
        "caught at 5 % of good fields": np.mean([field.risk > limit for field in wrong]),
        "caught": _refused(wrong),
        "good fields refused": _refused(good),
        "fine fields refused": _refused([field for field in fields if field.is_fine]),
        "good fields doubted": np.mean([field.verdict is Verdict.CARE for field in good]),
        "limit": learnt.refused,
    }
    for at, target in enumerate(TARGETS):
        found[f"rho {target}"] = spearmanr(expected[:, at], true[:, at])[0]
    for strength in range(5):
        here = [field for field in fields if field.strength == strength]
        kept = [field for field in here if field.verdict is not Verdict.NO]
        found[f"strength {strength}: refused"] = _refused(here)
        found[f"strength {strength}: wrong"] = np.mean([one.true.max() > WRONG for one in here])
        for name, some in (("inside", here), ("inside if not refused", kept)):
            for target, share in zip(TARGETS, np.mean([f.inside for f in some], 0), strict=True):
                found[f"strength {strength}: {target} {name}"] = share
    return {name: float(value) for name, value in found.items()}


def _refused(fields: list[Judged]) -> float:
    return float(np.mean([field.verdict is Verdict.NO for field in fields]))


def main() -> int:
    """Make the fields that are not there, teach, judge, print the figures."""
    line = parser(__doc__)
    line.add_argument("--out", type=Path, required=True)
    line.add_argument("--trained", type=Path, required=True)
    given = line.parse_args()
    folder = given.out / "fields"
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        made = pool.map(partial(make, folder), places())
        list(tqdm(made, total=len(places()), desc="simulate", unit="field"))
    store, bundle = Store(given.trained / "store"), given.out / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(given.trained / "bundle", bundle)
    [learnt] = learn_foretellers(Stainer(bundle), store, store.keys("validation"), 0)
    write_foretellers(bundle, [learnt])
    stainer = Stainer(bundle)
    fields = [
        judged(stainer, store, learnt, folder, place)
        for place in tqdm(places(), desc="judge", unit="field")
    ]
    return report(figures(fields, learnt), given.check, at_least=AT_LEAST)


if __name__ == "__main__":
    sys.exit(main())
