r"""A dose series through `measure`: what is known of the cells, and what the tables say of it.

    OMP_NUM_THREADS=1 python -m benchmarks.measuring --out measuring [--bundle folder] [--check]

A plate of simulated wells at 20x: controls with droplets of the usual size and of half of it, and a
compound that makes them smaller by a four-parameter curve, eight doses in three wells each; each
well is another culture in number and look of its cells. The stains that the microscope saw are
measured, and with --bundle those that it paints from brightfield, too. For droplets' median
diameter, mean area and number in a cell: r over wells with the known size, Z' between the controls,
and the EC50 over the true one. Seconds of one core for a field of the real size, and its memory.
"""

import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from adipocyte.domain import FieldKey
from adipocyte.evaluation.cellprofiler import measure
from adipocyte.evaluation.cellprofiler.objects import AREA, DIAMETER, N_DROPLETS, tables_of
from adipocyte.measuring.plate import CONTROLS, DOSES, WELLS, here, measure_plate
from adipocyte.plate.fields import RawField, write_field
from adipocyte.simulation import Conditions, simulate_field
from adipocyte.staining.stainer import Stainer
from benchmarks.evaluation import full_field
from benchmarks.report import parser, report
from tests.support.tiff_fuzz import forget_memory, memory_mb

SIDE_PX, MAGNIFICATION = 1024, 20
SMALLEST, EC50_M, HILL = 0.5, 1e-7, 1.2  # of the compound: droplets' size at the highest doses, …
DOSES_M = np.logspace(-8.5, -5, 8)
SHOWN = {
    "diameter": f"LipidDroplets_Median_{DIAMETER}",
    "area": f"LipidDroplets_Mean_{AREA}",
    "number in a cell": f"Cells_Mean_{N_DROPLETS}",
}
AT_MOST = {"field_s": 30.0}
AT_LEAST = {"true diameter r": 0.9, "painted diameter r": 0.9}
N_EXTRAPOLATED = 96 * 4


def treatments() -> dict[str, tuple[str, str, float]]:
    """By well: its role, its line of the plate map, and the size of its droplets."""
    wells: dict[str, tuple[str, str, float]] = {}
    for column in range(1, 7):
        wells[f"A{column:02d}"] = ("negative", "negative,,", 1.0)
        wells[f"B{column:02d}"] = ("positive", "positive,,", SMALLEST)
    for column, dose in enumerate(DOSES_M, start=1):
        size = 1 + (SMALLEST - 1) / (1 + (EC50_M / dose) ** HILL)
        for row in "CDE":
            wells[f"{row}{column:02d}"] = ("treated", f"treated,x,{dose:g} M", float(size))
    return wells


def make(out: Path, bundle: Path | None, number_and_well: tuple[int, str]) -> None:
    """Write the stains of a well, those of the microscope and those that the *bundle* paints."""
    number, well = number_and_well
    random = np.random.default_rng((7, number))
    conditions = Conditions(ripeness=treatments()[well][2], density=random.uniform(0.8, 1.2))
    field = simulate_field(
        MAGNIFICATION, (SIDE_PX, SIDE_PX), seed=(7, number), conditions=conditions
    )
    images = {"true": field.targets}
    if bundle:
        images["painted"] = Stainer(bundle).stain(field.planes, MAGNIFICATION).images
    for name, stains in images.items():
        no_planes = np.empty((0, 0, 0), np.uint16)
        write_field(out / name, FieldKey(MAGNIFICATION, well, 1), RawField(no_planes, stains))


def figures_of(out: Path, name: str) -> dict[str, float]:
    """What the tables of the stains *name* say of the known sizes."""
    measured = measure_plate(
        out / name,
        out / f"{name}-measured",
        magnification=0,
        labels=False,
        csv=False,
        plate_map=out / "map.csv",
        crew=here(2),
    )
    tables = {table: pd.read_parquet(measured.tables[table]) for table in (WELLS, CONTROLS, DOSES)}
    sizes = [treatments()[well][2] for well in tables[WELLS]["Metadata_Well"]]
    figures = {}
    for shown, column in SHOWN.items():
        controls = tables[CONTROLS].set_index("Feature").loc[column]
        curve = tables[DOSES].set_index("Feature").loc[column]
        figures |= {
            f"{name} {shown} r": float(np.corrcoef(sizes, tables[WELLS][column])[0, 1]),
            f"{name} {shown} Z'": float(controls["Z_prime"]),
            f"{name} {shown} EC50 / true": float(curve["EC50"]) / EC50_M,
            f"{name} {shown} EC50 low / true": float(curve["EC50_low"]) / EC50_M,
            f"{name} {shown} EC50 high / true": float(curve["EC50_high"]) / EC50_M,
            f"{name} {shown} R2": float(curve["R2"]),
        }
    return figures


def time_field() -> dict[str, float]:
    """Seconds of one core and the most memory of a field of the real size, in this process."""
    images = full_field(MAGNIFICATION)
    simulation_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    forget_memory()
    before_mb, begin = memory_mb(), time.process_time()
    tables_of(measure(images, MAGNIFICATION), MAGNIFICATION)
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
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--bundle", type=Path, help="of a network that paints the plate, too")
    given = arguments.parse_args()
    names = ["true", *["painted"] * bool(given.bundle)]
    if not all((given.out / name).exists() for name in names):
        work = [*enumerate(treatments())]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            made = pool.map(partial(make, given.out, given.bundle), work)
            list(tqdm(made, total=len(work), desc="simulate", unit="well"))
    lines = [f"{well},{line}" for well, (_, line, _) in treatments().items()]
    (given.out / "map.csv").write_text("\n".join(["well,role,compound,concentration", *lines]))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        figures = pool.submit(time_field).result()
    for name in names:
        figures |= figures_of(given.out, name)
    return report(figures, given.check, at_most=AT_MOST, at_least=AT_LEAST)


if __name__ == "__main__":
    sys.exit(main())
