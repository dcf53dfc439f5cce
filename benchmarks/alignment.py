"""How well the misalignment of simulated plates is found.

OMP_NUM_THREADS=1 python -m benchmarks.alignment [--check]

Plates with the challenge's own misalignment, in full light and in a tenth of it, and plates
without any. The figure is the displacement's error at the worst corner of a field and the worst
site, in pixels.
"""

import sys
from functools import partial
from itertools import product

import numpy as np
from tqdm import tqdm

from adipocyte.imaging.alignment import Alignment
from adipocyte.imaging.registration import Field, register
from adipocyte.simulation import Conditions, Misalignment, misalignment_at, simulate_field
from benchmarks.report import parser, report

# By magnification: sites of a well, sites that are tried, side of a field in pixels. At 60x a
# field of 512 pixels would hold one or two cells.
PLATES = {20: (6, (1, 2, 3, 4, 5, 6), 512), 40: (8, (1, 3, 5, 7), 512), 60: (12, (1, 5, 9), 1024)}
N_FIELDS = 4
CASES = {
    "full_light": (1.0, True),
    "tenth_of_the_light": (0.1, True),
    "no_misalignment": (1.0, False),
}
AT_MOST = {"full_light": 0.3, "tenth_of_the_light": 0.5, "no_misalignment": 0.1}


def load(
    magnification: int,
    side_px: int,
    site: int,
    number: int,
    light: float,
    misalignment: Misalignment | None,
) -> Field:
    """One simulated field, as the registration takes it."""
    field = simulate_field(
        magnification,
        (side_px, side_px),
        seed=(7, magnification, site, number),
        misalignment=misalignment,
        conditions=Conditions(light=light),
    )
    return field.planes, field.targets


def error_px(found: Alignment, truth: Misalignment, side_px: int) -> float:
    """How far *found* puts a corner of a field from where it is, at the worst corner."""
    corners = np.array(list(product((-side_px / 2, side_px / 2), repeat=2)))
    shift = np.array([found.dy_px - truth.dy_px, found.dx_px - truth.dx_px])
    return float(np.linalg.norm((found.scale - truth.scale) * corners + shift, axis=1).max())


def measure() -> dict[str, float]:
    """The worst error by magnification and case ("20x.full_light")."""
    figures = {}
    for (magnification, (n_sites, sites, side_px)), (case, (light, moved)) in tqdm(
        list(product(PLATES.items(), CASES.items()))
    ):
        truths = {
            site: misalignment_at(magnification, site, n_sites) if moved else Misalignment(0.0, 0.0)
            for site in sites
        }
        loaders = {
            site: [
                partial(
                    load,
                    magnification,
                    side_px,
                    site,
                    number,
                    light,
                    truths[site] if moved else None,
                )
                for number in range(N_FIELDS)
            ]
            for site in sites
        }
        found = register(loaders)
        figures[f"{magnification}x.{case}"] = max(
            error_px(found[site].alignment, truths[site], side_px) for site in sites
        )
    return figures


def main() -> int:
    """Print the figures; with --check, compare them with what is required."""
    check = parser(__doc__).parse_args().check
    measured = measure()
    at_most = {name: AT_MOST[name.partition(".")[2]] for name in measured}
    return report(measured, check, at_most=at_most)


if __name__ == "__main__":
    sys.exit(main())
