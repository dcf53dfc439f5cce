r"""Whether grades and probabilities, earned on some wells, hold on others and under another light.

    OMP_NUM_THREADS=1 python -m benchmarks.trust --out trust --bundle <folder> [--check]

Simulated fields at 20x, whose wells differ in the size of droplets and the number of cells, painted
by the network of --bundle: ten wells grade, as the validation wells do in `register`, ten test, and
eight are seen by other instruments. Of the columns of the table of wells: r over the fields of the
test wells, by grade. Of painted droplets and nuclei: the expected calibration error and the area
under the ROC of their probabilities to be real, on the test wells and on the other instruments.
Fields that exist are not made again.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from adipocyte.domain import UM_PER_PX, FieldKey
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.grades import (
    WELLS,
    Grade,
    Worth,
    earned_by,
    grades_of,
    reliabilities,
    summary,
)
from adipocyte.evaluation.measure import FieldMeasurement, measure_fields
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.stains import list_stains
from adipocyte.simulation import simulate_field
from adipocyte.staining.stainer import Stainer
from benchmarks.report import parser, report
from benchmarks.shift import SHIFTS

SIDE_PX, MAGNIFICATION, FIELDS_EACH = 640, 20, 2
N_WELLS = 10
SHIFTED = (
    "NA -15 %",
    "condenser +30 %",
    "z-offset +2 µm",
    "exposure x3",
    "noise x3",
    "uneven light",
    "tilt 6 µm",
    "mixed",
)
PARTS = {"grading": N_WELLS, "test": N_WELLS, "shifted": len(SHIFTED)}
AT_LEAST = {"use: share with r of .8 or more": 0.8, "shifted LipidDroplets auc": 0.85}
AT_MOST = {"test LipidDroplets ece": 0.05, "shifted LipidDroplets ece": 0.05}


def make(out: Path, bundle: Path, place: tuple[str, int]) -> None:
    """Write the stains of a well, those of the microscope and those that are painted."""
    part, number = place
    stainer, random = Stainer(bundle), np.random.default_rng(([*PARTS].index(part), number))
    shift = SHIFTS[SHIFTED[number]] if part == "shifted" else SHIFTS["home"]
    ripeness, density = random.uniform(0.5, 1.3), random.uniform(0.7, 1.2)
    conditions = replace(shift.conditions, ripeness=ripeness, density=density)
    for fov in range(1, FIELDS_EACH + 1):
        field = simulate_field(
            MAGNIFICATION,
            (SIDE_PX, SIDE_PX),
            seed=(11, [*PARTS].index(part), number, fov),
            conditions=conditions,
            instrument=shift.instrument,
        )
        painted = stainer.stain(field.planes[[*shift.planes]], MAGNIFICATION).images
        for name, stains in (("true", field.targets), ("painted", painted)):
            key = FieldKey(MAGNIFICATION, f"B{number + 1:02d}", fov)
            write_field(out / part / name, key, RawField(np.empty((0, 0, 0), np.uint16), stains))
    (out / part / f"{number}.done").touch()


def measured(folder: Path) -> list[FieldMeasurement]:
    """The fields of a part, painted against true."""
    true, painted = list_stains({name: folder / name for name in ("true", "painted")}, 0)
    fields = [
        FieldPaths(
            key,
            _first(true.files[key]),
            {"painted": _first(painted.files[key])},
            UM_PER_PX[key.magnification],
        )
        for key in sorted(true.files)
    ]
    return measure_fields(fields, n_measured=len(fields), workers=2)


def _first(files: dict[str, list[Path]]) -> dict[str, Path]:
    return {target: paths[0] for target, paths in files.items()}


def of_grades(earned: Sequence[Grade], tested: Sequence[Grade]) -> dict[str, float]:
    """How columns of each grade do on other wells."""
    r = {grade.feature: grade.r for grade in tested if grade.table == WELLS}
    figures = {}
    for worth in Worth:
        names = [one.feature for one in earned if (one.table, one.grade) == (WELLS, worth)]
        values = np.array([r[name] for name in names if np.isfinite(r[name])])
        figures[f"{worth}: columns"] = float(len(names))
        if len(values):
            figures |= {
                f"{worth}: median r": float(np.median(values)),
                f"{worth}: share with r of .8 or more": float((values >= 0.8).mean()),
                f"{worth}: share with r under .5": float((values < 0.5).mean()),
            }
    return figures


def main() -> int:
    """Make the wells that are not there, grade, test, print the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--bundle", type=Path, required=True)
    given = arguments.parse_args()
    places = [(part, number) for part, n in PARTS.items() for number in range(n)]
    due = [(part, n) for part, n in places if not (given.out / part / f"{n}.done").exists()]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        made = pool.map(partial(make, given.out, given.bundle), due)
        list(tqdm(made, total=len(due), desc="simulate and paint", unit="well"))
    parts = {part: measured(given.out / part) for part in PARTS}
    earned = earned_by(parts["grading"], "painted", 0)
    figures = of_grades(earned.grades, grades_of(parts["test"], "painted"))
    for part in ("test", "shifted"):
        found = reliabilities(parts[part], "painted", earned.realities)
        for (_, table), one in found.items():
            figures |= {
                f"{part} {table} objects": float(one.n),
                f"{part} {table} ece": one.ece,
                f"{part} {table} auc": one.auc,
            }
    print(summary(earned.grades), file=sys.stderr)
    return report(figures, given.check, at_most=AT_MOST, at_least=AT_LEAST)


if __name__ == "__main__":
    sys.exit(main())
