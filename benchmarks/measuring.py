r"""Two dose series through `measure`: what is known of the cells, and what the tables say of it.

    OMP_NUM_THREADS=1 python -m benchmarks.measuring --out measuring [--bundle folder] [--check]

A plate of simulated wells at 20x: untreated controls, and two compounds, each with a control of its
full effect and eight doses in three wells. One makes lipid droplets smaller, the other makes them
fewer at the same sizes, by a four-parameter curve each; each well is another culture in number and
look of its cells. Three things are told side by side: what the simulation knows of a well's
droplets; what is measured of the stains that the microscope saw; and with --bundle, of those that
it paints from brightfield. For droplets' median diameter and mean area, and their number and area
together in a cell: r over wells with the compound's known factor, and with what the simulation
knows; Z' between the controls; and the EC50 over the true one. Seconds of one core for a field of
the real size, and its memory.

With --learn a raw plate of other cells is written, to train the network on.
"""

import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from adipocyte.domain import FieldKey
from adipocyte.evaluation.cellprofiler import measure
from adipocyte.evaluation.cellprofiler.objects import (
    AREA,
    DIAMETER,
    LIPID_AREA,
    N_DROPLETS,
    tables_of,
)
from adipocyte.measuring.plate import here, measure_plate
from adipocyte.measuring.plate_map import read_plate_map
from adipocyte.measuring.screen import Row, control_rows, dose_rows
from adipocyte.plate.fields import RawField, write_field
from adipocyte.simulation import Conditions, SimulatedField, simulate_field
from adipocyte.staining.stainer import Stainer
from adipocyte.system.files import read_json, write_json
from benchmarks.evaluation import full_field
from benchmarks.report import parser, report
from tests.support.tiff_fuzz import forget_memory, memory_mb

SIDE_PX, MAGNIFICATION = 896, 20
DOSES_M = np.logspace(-8.5, -5, 8)
SHOWN = {
    "diameter": f"LipidDroplets_Median_{DIAMETER}",
    "area": f"LipidDroplets_Mean_{AREA}",
    "number": f"Cells_Mean_{N_DROPLETS}",
    "lipid": f"Cells_Mean_{LIPID_AREA}",
}
WELLS_TO_LEARN = [f"{row}{column:02d}" for row in "BCD" for column in range(2, 6)][:-1]
CELLS = "cells"  # what the simulation knows
AT_MOST = {"field_s": 30.0}
AT_LEAST = {  # with the cells, because their own spread limits r with the factor
    f"{compound} {shown} {name} r with the cells": 0.9
    for compound, shown in (("smaller", "diameter"), ("fewer", "number"))
    for name in ("true", "painted")
}
N_EXTRAPOLATED = 96 * 4


@dataclass(frozen=True)
class Compound:
    """The factor of `Conditions` that it lowers, from 1 to `least`, and by what curve.

    `rows` of the plate are its own: the first has the control of the full effect, the others doses.
    """

    lowers: str
    least: float
    ec50_m: float
    hill: float
    rows: str


COMPOUNDS = {
    "smaller": Compound("ripeness", 0.5, 1e-7, 1.2, "BCDE"),
    "fewer": Compound("droplets", 0.3, 3e-7, 1.0, "FGHI"),
}


@dataclass(frozen=True)
class Well:
    """What a well was given: a compound, "" in the controls without one; its line of the map."""

    compound: str
    line: str
    factor: float

    def conditions(self, density: float) -> Conditions:
        """Of its culture, of so many cells, under the compound."""
        lowered = {COMPOUNDS[self.compound].lowers: self.factor} if self.compound else {}
        return replace(Conditions(density=density), **lowered)


def wells() -> dict[str, Well]:
    """All wells of the plate, by name."""
    plate = {f"A{column:02d}": Well("", "negative,,", 1.0) for column in range(1, 7)}
    for name, compound in COMPOUNDS.items():
        full, *rows = compound.rows
        for column in range(1, 7):
            plate[f"{full}{column:02d}"] = Well(name, "positive,,", compound.least)
        for column, dose in enumerate(DOSES_M, start=1):
            factor = 1 + (compound.least - 1) / (1 + (compound.ec50_m / dose) ** compound.hill)
            for row in rows:
                line = f"treated,{name},{dose:g} M"
                plate[f"{row}{column:02d}"] = Well(name, line, float(factor))
    return plate


def make(out: Path, bundle: Path | None, number_and_well: tuple[int, str]) -> None:
    """Write the stains of a well, those of the microscope and those that the *bundle* paints.

    And what the simulation knows of its droplets.
    """
    number, well = number_and_well
    density = np.random.default_rng((7, number)).uniform(0.8, 1.2)
    field = simulate_field(
        MAGNIFICATION,
        (SIDE_PX, SIDE_PX),
        seed=(7, number),
        conditions=wells()[well].conditions(density),
    )
    images = {"true": field.targets}
    if bundle:
        images["painted"] = Stainer(bundle).stain(field.planes, MAGNIFICATION).images
    for name, stains in images.items():
        no_planes = np.empty((0, 0, 0), np.uint16)
        write_field(out / name, FieldKey(MAGNIFICATION, well, 1), RawField(no_planes, stains))
    write_json(out / CELLS / f"{well}.json", known(field))


def make_plate_to_learn(folder: Path) -> None:
    """Write a raw plate of other cells, each well under both compounds at some strength."""
    random = np.random.default_rng(8)
    for well in tqdm(WELLS_TO_LEARN, desc="simulate", unit="well"):
        conditions = Conditions(density=random.uniform(0.8, 1.2))
        for compound in COMPOUNDS.values():
            factor = random.uniform(compound.least, 1)
            conditions = replace(conditions, **{compound.lowers: factor})
        for fov in (1, 2, 3):
            seed = (8, int(random.integers(2**31)))
            field = simulate_field(MAGNIFICATION, (512, 512), seed=seed, conditions=conditions)
            key = FieldKey(MAGNIFICATION, well, fov)
            write_field(folder, key, RawField(field.planes, field.targets))


def known(field: SimulatedField) -> dict[str, float]:
    """What the simulation knows of a field, under the names of the tables' columns."""
    return {
        SHOWN["diameter"]: float(2 * np.median(field.radii_um)),
        SHOWN["area"]: float(np.pi * np.mean(field.radii_um**2)),
        SHOWN["number"]: len(field.radii_um) / int(field.nuclei.max()),
        SHOWN["lipid"]: float(np.pi * np.sum(field.radii_um**2)) / int(field.nuclei.max()),
    }


def tables(
    out: Path, name: str, plate_map: Path
) -> tuple[Sequence[Row], Sequence[Row], Sequence[Row]]:
    """Rows of wells, controls and curves, of the stains *name* or of what is known (CELLS)."""
    if name != CELLS:
        measured = measure_plate(
            out / name,
            out / f"{name}-measured",
            magnification=0,
            labels=False,
            csv=False,
            plate_map=plate_map,
            crew=here(2),
        )
        return measured.wells, measured.controls, measured.doses
    of_plate = {"Metadata_Plate": "simulated", "Metadata_Magnification": MAGNIFICATION}
    rows: list[Row] = [
        {**of_plate, "Metadata_Well": well, **read_json(out / CELLS / f"{well}.json")}
        for well in wells()
    ]
    treatments = read_plate_map(plate_map, wells())
    return rows, control_rows(rows, treatments), dose_rows(rows, treatments)


def figures_of(out: Path, compound: str, names: Sequence[str]) -> dict[str, float]:
    """What the stains of all *names* say of a compound, beside what is known of the cells."""
    plate = {name: well for name, well in wells().items() if well.compound in ("", compound)}
    plate_map = out / f"{compound}.csv"
    lines = [f"{name},{well.line}" for name, well in plate.items()]
    plate_map.write_text("\n".join(["well,role,compound,concentration", *lines]))
    factors = np.array([well.factor for well in plate.values()])
    ec50_m = COMPOUNDS[compound].ec50_m
    known_of: dict[str, NDArray[np.float64]] = {}
    figures = {}
    for name in (CELLS, *names):
        rows, controls, doses = tables(out, name, plate_map)
        row_of = {str(row["Metadata_Well"]): row for row in rows}
        for shown, column in SHOWN.items():
            values = np.array([float(row_of[well][column]) for well in plate])
            known_values = known_of.setdefault(shown, values)  # those of CELLS, which come first
            [control] = [row for row in controls if row["Feature"] == column]
            [curve] = [row for row in doses if row["Feature"] == column]
            what = f"{compound} {shown} {name}"
            figures |= {
                f"{what} r": float(np.corrcoef(factors, values)[0, 1]),
                f"{what} r with the cells": float(np.corrcoef(known_values, values)[0, 1]),
                f"{what} Z'": float(control["Z_prime"]),
                f"{what} EC50 / true": float(curve["EC50"]) / ec50_m,
                f"{what} EC50 low / true": float(curve["EC50_low"]) / ec50_m,
                f"{what} EC50 high / true": float(curve["EC50_high"]) / ec50_m,
                f"{what} R2": float(curve["R2"]),
            }
    return figures


def time_field() -> dict[str, float]:
    """Seconds of one core and the most memory of a field of the real size, in this process."""
    images = full_field(MAGNIFICATION)
    simulation_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    forget_memory()
    before_mb, begin = memory_mb(), time.process_time()
    tables_of(measure(images, MAGNIFICATION))
    took_s, took_mb = time.process_time() - begin, memory_mb() - before_mb
    return {
        "field_s": took_s,
        "peak_mb": max(simulation_mb, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "memory_bytes_per_px": took_mb * 1e6 / images["A1"].size,
        f"hours of a core for {N_EXTRAPOLATED} fields": took_s * N_EXTRAPOLATED / 3600,
    }


def main() -> int:
    """Make the plate where it is not there, measure it, print the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--out", type=Path, default=Path("measuring"))
    arguments.add_argument("--bundle", type=Path, help="of a network that paints the plate, too")
    arguments.add_argument("--learn", type=Path, help="only write a plate to learn from, here")
    given = arguments.parse_args()
    if given.learn:
        make_plate_to_learn(given.learn)
        return 0
    names = ["true", *["painted"] * bool(given.bundle)]
    if not all((given.out / name).exists() for name in (CELLS, *names)):
        work = [*enumerate(wells())]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            made = pool.map(partial(make, given.out, given.bundle), work)
            list(tqdm(made, total=len(work), desc="simulate", unit="well"))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        figures = pool.submit(time_field).result()
    for compound in COMPOUNDS:
        figures |= figures_of(given.out, compound, names)
    return report(figures, given.check, at_most=AT_MOST, at_least=AT_LEAST)


if __name__ == "__main__":
    sys.exit(main())
