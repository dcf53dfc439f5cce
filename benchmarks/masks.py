"""How clean nuclei masks are on simulated fields with hot pixels and debris.

python -m benchmarks.masks [--check] [--picture docs/masks.png]

`--picture` draws the report's Figure 2.1: a part of a field, its threshold, superpixels and mask.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import find_boundaries

from adipocyte.config import PreprocessConfig
from adipocyte.domain import UM_PER_PX
from adipocyte.imaging.grey import display_range, to_grey
from adipocyte.imaging.masks import superpixels
from adipocyte.preparation.field import mask_of
from adipocyte.preparation.prepare import masking_of
from adipocyte.simulation import SimulatedField, simulate_field
from benchmarks.report import parser, report

AT_LEAST = {"cleaner": 10.0, "iou": 0.8}
SIDE_PX = {20: 512, 40: 768, 60: 1024}
SEEDS = range(4)
SHIPPED = PreprocessConfig(plate=Path())


def soiled(image: NDArray[np.uint16], magnification: int, seed: int) -> NDArray[np.uint16]:
    """A stain, (Y, X) in counts, with 20 hot pixels and 30 specks in a million pixels.

    The specks of debris are 2 to 6 pixels across at 20x.
    """
    random, zoom = np.random.default_rng(seed), magnification / 20
    y, x = np.indices(image.shape, dtype=np.float32)
    light = image.astype(np.float32)
    for _ in range(random.poisson(30e-6 * image.size)):
        distance_px = np.hypot(
            y - random.uniform(0, image.shape[0]), x - random.uniform(0, image.shape[1])
        )
        light += random.uniform(1000, 5000) * np.clip(
            random.uniform(1, 3) * zoom + 0.5 - distance_px, 0, 1
        )
    hot = random.choice(image.size, random.poisson(20e-6 * image.size), replace=False)
    light.flat[hot] = random.uniform(2000, 20000, hot.size)
    return np.clip(light, 0, 65535).astype(np.uint16)


def shipped_mask(image: NDArray[np.uint16], magnification: int) -> NDArray[np.bool_]:
    """The mask that `preprocess` makes by default."""
    return mask_of(image, magnification, UM_PER_PX[magnification], masking_of(SHIPPED))


def pieces_outside(mask: NDArray[np.bool_], nuclei: NDArray[np.int32]) -> int:
    """How many connected pieces of a *mask* touch none of the true *nuclei*, both (Y, X)."""
    pieces, n = ndimage.label(mask, np.ones((3, 3)))
    return n - int(np.count_nonzero(np.unique(pieces[nuclei > 0])))


def iou(mask: NDArray[np.bool_], nuclei: NDArray[np.int32]) -> float:
    """Overlap of a *mask* with the true *nuclei*, both (Y, X)."""
    return float((mask & (nuclei > 0)).sum() / (mask | (nuclei > 0)).sum())


def n_missed(mask: NDArray[np.bool_], nuclei: NDArray[np.int32]) -> int:
    """How many of the *nuclei* the *mask* covers less than a fifth of."""
    return int(np.sum(np.asarray(ndimage.mean(mask, nuclei, np.unique(nuclei)[1:])) < 0.2))


def draw_field(magnification: int, seed: int) -> tuple[NDArray[np.uint16], SimulatedField]:
    """A soiled nuclei stain, and the field it is of."""
    field = simulate_field(
        magnification, (SIDE_PX[magnification], SIDE_PX[magnification]), seed=seed
    )
    return soiled(field.targets["A1"], magnification, seed), field


def measure(magnification: int) -> dict[str, float]:
    """One magnification, over SEEDS; `cleaner`: how many times fewer pieces lie off the nuclei."""
    figures: dict[str, list[float]] = {
        "n_nuclei": [],
        "pieces_plain": [],
        "pieces": [],
        "iou_plain": [],
        "iou": [],
        "missed": [],
    }
    for seed in SEEDS:
        image, field = draw_field(magnification, seed)
        mask, plain = (
            shipped_mask(image, magnification),
            image > SHIPPED.mask_threshold * image.mean(),
        )
        figures["n_nuclei"].append(int(field.nuclei.max()))
        figures["pieces_plain"].append(pieces_outside(plain, field.nuclei))
        figures["pieces"].append(pieces_outside(mask, field.nuclei))
        figures["iou_plain"].append(iou(plain, field.nuclei))
        figures["iou"].append(iou(mask, field.nuclei))
        figures["missed"].append(n_missed(mask, field.nuclei))
    found = {
        name: float(np.mean(values)) if name.startswith("iou") else sum(values)
        for name, values in figures.items()
    }
    return found | {"cleaner": found["pieces_plain"] / max(found["pieces"], 1)}


def paint(path: Path) -> None:
    """The report's Figure 2.1 at 20x."""
    image, _ = draw_field(20, seed=1)
    limit = SHIPPED.mask_threshold * image.mean()
    labels = superpixels(
        np.minimum(image, limit, dtype=np.float32),
        ndimage.binary_dilation(image > limit, iterations=2),
        10,
    )
    part = np.s_[: image.shape[0] // 2, : image.shape[1] // 2]
    grey = to_grey(image, *display_range(image))[part]
    edges = np.kron(
        np.stack([grey] * 3, axis=-1), np.ones((3, 3, 1), dtype=np.uint8)
    )  # finer than pixels, so that lines hide little
    edges[find_boundaries(np.kron(labels[part], np.ones((3, 3), dtype=np.int32)), mode="inner")] = (
        255,
        200,
        0,
    )
    panels = {
        "nuclei stain": grey,
        "plain threshold": (image > limit)[part],
        "superpixels": edges,
        "mask": shipped_mask(image, 20)[part],
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(14, 3.8), layout="constrained")
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        axis.imshow(panel, cmap="gray", interpolation="nearest")
        axis.set_title(title)
        axis.set_axis_off()
    figure.savefig(path, dpi=110)


def main() -> int:
    """Print the figures; with --check, compare them with what is required."""
    arguments = parser(__doc__)
    arguments.add_argument("--picture", type=Path)
    given = arguments.parse_args()
    if given.picture:
        paint(given.picture)
    measured, at_least = {}, {}
    for magnification in SIDE_PX:
        for name, value in measure(magnification).items():
            measured[f"{magnification}x.{name}"] = value
        for name, least in AT_LEAST.items():
            at_least[f"{magnification}x.{name}"] = least
    return report(measured, given.check, at_least=at_least)


if __name__ == "__main__":
    sys.exit(main())
