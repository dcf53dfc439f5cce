"""Small fields, and raw plates of noise."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from adipocyte.domain import FieldKey
from adipocyte.plate.fields import RawField, write_field
from adipocyte.simulation import simulate_field

SHAPE_PX = (96, 80)


def planes(seed: int = 0, shape_px: tuple[int, int] = SHAPE_PX) -> np.ndarray:
    """A simulated field's brightfield at 20x, (Z, Y, X) in counts."""
    return simulate_field(20, shape_px, seed=seed).planes


def write_plate(folder: Path, fovs: Iterable[int], shape_px: tuple[int, int] = SHAPE_PX) -> Path:
    """Brightfield at 20x of fields of well B03, no two alike."""
    for fov in fovs:
        noise = np.random.default_rng(fov).integers(1000, 3000, (7, *shape_px), dtype=np.uint16)
        write_field(folder, FieldKey(20, "B03", fov), RawField(noise, {}))
    return folder


def images(folder: Path) -> dict[str, bytes]:
    """The content of every TIFF in a stained plate, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.tif")}


def plane(plate: Path, fov: int, z: int) -> Path:
    """The file of one brightfield plane."""
    [path] = plate.glob(f"20x_images/*F{fov:03d}*Z{z:02d}C04.tif")
    return path
