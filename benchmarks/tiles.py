"""How much a tiled field differs from the same field in one piece.

    python -m benchmarks.tiles [--check]        # a minute and a half on two cores

A simulated field at 20x, mirrored to 2400 x 512 pixels, through random networks (ResNet-18 as in
the fast recipe, and ResNet-152 with 5x5 convolutions everywhere, which see farthest of the
report's), in float32, in the smallest tiles that the chain takes by itself. Outputs are stretched
to a range of 4000 counts, as stains have. `mean_percent` is the mean difference in percent of
that range, `worst_counts` the largest; `near_counts` is the mean within 32 pixels of where one
tile passes to the next, `elsewhere_counts` the mean between the first and the last such border,
but not near one. (Before the first and after the last, tiles and the whole begin at the same
pixel and round alike.)
"""

import itertools
import sys

import numpy as np
import torch
from tqdm import tqdm

from adipocyte.networks.predictor import make_ready
from adipocyte.networks.tiles import Tiling, predict_windows, smallest_tile_px
from adipocyte.networks.unet import UNetSpec
from adipocyte.simulation import simulate_field
from benchmarks.report import parser, report
from tests.support.bundles import random_network

SHAPE_PX = (2400, 512)
RANGE_COUNTS = 4000
NETWORKS = {
    "resnet18": UNetSpec(encoder="resnet18", in_channels=7, wide_convolutions="last"),
    "resnet152": UNetSpec(encoder="resnet152", in_channels=7, wide_convolutions="all"),
}
MOST_PERCENT = 0.2
MOST_TIMES = 1.2
NOTHING_COUNTS = 1e-4  # equal to the last bit, but for how tiles fade into each other


def near_a_border(side_px: int, tiling: Tiling) -> np.ndarray:
    """Which rows of a field of *side_px* lie within 32 pixels of a border between tiles."""
    starts = [*range(0, side_px - tiling.side_px, tiling.step_px), side_px - tiling.side_px]
    near = np.zeros(side_px, dtype=bool)
    for before, after in itertools.pairwise(starts):
        middle = (before + tiling.side_px + after) // 2
        near[middle - 32 : middle + 32] = True
    return near


def measure(spec: UNetSpec) -> dict[str, float]:
    """The figures of one network."""
    torch.manual_seed(0)
    predict = make_ready(
        random_network(spec), spec.in_channels, torch.device("cpu"), "32", compiled=False
    )
    piece = simulate_field(20, (800, SHAPE_PX[1]), seed=0).planes.astype(np.float32)
    source = np.pad(
        (piece - piece.mean()) / piece.std(),
        ((0, 0), (0, SHAPE_PX[0] - 800), (0, 0)),
        mode="symmetric",
    )
    [whole] = predict_windows(predict, lambda window: source[(slice(None), *window)], SHAPE_PX)
    scale = RANGE_COUNTS / np.ptp(whole)
    figures: dict[str, float] = {"halo_px": predict.halo_px}
    for name, halo_px in (("", figures["halo_px"]), ("halo_64_", 64)):
        tiling = Tiling(smallest_tile_px(halo_px), halo_px)
        [tiled] = predict_windows(
            predict, lambda window: source[(slice(None), *window)], SHAPE_PX, tiling
        )
        off, near = scale * np.abs(tiled - whole), near_a_border(SHAPE_PX[0], tiling)
        between = slice(near.argmax(), len(near) - near[::-1].argmax())
        figures |= {
            f"{name}mean_percent": 100 * off.mean() / RANGE_COUNTS,
            f"{name}worst_counts": off.max(),
            f"{name}near_counts": off[near].mean(),
            f"{name}elsewhere_counts": off[between][~near[between]].mean(),
        }
    return figures


def main() -> int:
    """Print the figures; with --check, compare them with what is required."""
    check = parser(__doc__).parse_args().check
    measured, at_most = {}, {}
    for name, spec in tqdm(NETWORKS.items(), unit="network"):
        found = measure(spec)
        measured |= {f"{name}.{key}": value for key, value in found.items()}
        at_most[f"{name}.mean_percent"] = MOST_PERCENT
        at_most[f"{name}.near_counts"] = max(MOST_TIMES * found["elsewhere_counts"], NOTHING_COUNTS)
    return report(measured, check, at_most=at_most)


if __name__ == "__main__":
    sys.exit(main())
