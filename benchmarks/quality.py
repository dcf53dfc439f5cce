"""Which faults the measures of quality find, and how many good fields they flag.

python -m benchmarks.quality        # five minutes on one core

For each magnification, limits are learnt from 8 simulated fields of 512 x 512 pixels. 24 others
are judged as they are, and 6 of these again with each fault; 4 more are simulated with the focus
moved.
"""

import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.imaging.limits import flags, learn_limits
from adipocyte.imaging.quality import measure_quality
from adipocyte.simulation import Conditions, simulate_field
from adipocyte.simulation.camera import EXPOSURES, expose

MAGNIFICATIONS = (20, 40, 60)
SHAPE_PX = (512, 512)
N_TRAINING, N_GOOD, N_BAD, N_MOVED = 8, 24, 6, 4
FOCUS_UM = (-8, -4, 4, 8)


def photographed(light: NDArray, magnification: int) -> NDArray[np.uint16]:
    """Counts of *light*, itself in counts, with the noise that this many electrons have."""
    exposure = dataclasses.replace(EXPOSURES[magnification]["brightfield"], gain=1, offset=0)
    return expose(light.astype(np.float32), exposure, np.random.default_rng(0))


def faults(
    planes: NDArray[np.uint16], magnification: int
) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """The (Z, Y, X) *planes* with one fault each, and its name."""
    light = planes.astype(np.float32)
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in planes.shape[1:]), indexing="ij")
    border = (y**2 + x**2) / 2
    one_constant = planes.copy()
    one_constant[3] = 2000
    yield "a tenth of the light", photographed(light / 10, magnification)
    yield "a third of the light", photographed(light / 3, magnification)
    yield (
        "blurred, sigma 2 pixels",
        photographed(ndimage.gaussian_filter(light, (0, 2, 2)), magnification),
    )
    yield (
        "blurred, sigma 3 pixels",
        photographed(ndimage.gaussian_filter(light, (0, 3, 3)), magnification),
    )
    yield "all 0", np.zeros_like(planes)
    yield "all 65535", np.full_like(planes, 65535)
    yield "half of the pixels saturated", np.minimum(planes, np.uint16(np.median(planes)))
    yield "1 % of the pixels saturated", np.minimum(planes, np.uint16(np.percentile(planes, 99)))
    yield "one plane constant", one_constant
    yield "light falling to 50 % in the corners", (light * (1 - 0.5 * border)).astype(np.uint16)
    yield (
        "no cells",
        photographed(planes.mean() * (1.03 - 0.1 * border) * np.ones_like(light), magnification),
    )
    yield "planes in reverse order", planes[::-1]


def moved(magnification: int, focus_um: float, seed: int) -> NDArray[np.uint16]:
    """The planes of a field whose focus series lies *focus_um* higher."""
    return simulate_field(
        magnification,
        SHAPE_PX,
        seed=(magnification, seed),
        conditions=Conditions(defocus_um=focus_um),
    ).planes


def main() -> None:
    """Print a table of flagged fields: a row for each fault, a column for each magnification."""
    fields = {
        magnification: [
            simulate_field(magnification, SHAPE_PX, seed=(magnification, seed))
            for seed in range(N_TRAINING + N_GOOD)
        ]
        for magnification in MAGNIFICATIONS
    }
    seconds = []
    table = defaultdict(lambda: {magnification: [] for magnification in MAGNIFICATIONS})
    for magnification, simulated in fields.items():
        limits = learn_limits(
            [measure_quality(field.planes, field.targets) for field in simulated[:N_TRAINING]]
        )
        for field in simulated[N_TRAINING:]:
            table["good"][magnification].append(
                flags(measure_quality(field.planes, field.targets), limits)
            )
        for field in simulated[N_TRAINING : N_TRAINING + N_BAD]:
            for name, planes in faults(field.planes, magnification):
                table[name][magnification].append(flags(measure_quality(planes), limits))
        for focus_um in FOCUS_UM:
            for seed in range(N_MOVED):
                planes = moved(magnification, focus_um, N_TRAINING + N_GOOD + seed)
                table[f"focus moved by {focus_um:+} µm"][magnification].append(
                    flags(measure_quality(planes), limits)
                )
        for other in set(MAGNIFICATIONS) - {magnification}:
            for field in fields[other][N_TRAINING : N_TRAINING + N_BAD]:
                light = field.planes * (simulated[0].planes.mean() / field.planes.mean())
                table[f"{other}x, as it is"][magnification].append(
                    flags(measure_quality(field.planes), limits)
                )
                table[f"{other}x, brightness made equal"][magnification].append(
                    flags(measure_quality(light.astype(np.uint16)), limits)
                )
    full = np.random.default_rng(0).integers(500, 4000, (7, 2154, 2554), dtype=np.uint16)
    for _ in range(5):
        start = time.perf_counter()
        measure_quality(full)
        seconds.append(time.perf_counter() - start)

    print(
        "| field | "
        + " | ".join(f"{magnification}x" for magnification in MAGNIFICATIONS)
        + " |\n|---|---|---|---|"
    )
    for name, row in table.items():
        cells = (
            f"{sum(map(bool, found))} of {len(found)}" if found else "" for found in row.values()
        )
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"\na stack of 7 x 2154 x 2554 takes {np.median(seconds):.2f} s")


if __name__ == "__main__":
    main()
