"""The pixels of one field: read from a raw plate, or written under the challenge's names."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import UM_PER_PX, FieldKey
from adipocyte.errors import PlateError
from adipocyte.plate.names import brightfield_name, magnification_folder, target_name
from adipocyte.plate.planes import Fingerprint, fingerprints, read_images, read_stack
from adipocyte.plate.tiff import write_image


@dataclass(frozen=True)
class FieldFiles:
    """The files of one field.

    `planes` is a file, or a path into an array (see `planes`), for each z-plane, or one stack of
    all `n_z_planes`; `targets` holds those that are there. `shape` is (Y, X) in pixels, of
    `um_per_px` each.
    """

    key: FieldKey
    plate: str
    planes: tuple[Path, ...]
    targets: dict[str, Path]
    n_z_planes: int
    shape: tuple[int, int]
    um_per_px: float

    @property
    def paths(self) -> tuple[Path, ...]:
        return (*self.planes, *self.targets.values())

    @property
    def fingerprints(self) -> list[Fingerprint]:
        """What tells that a file was replaced, for each."""
        return fingerprints(self.paths)


@dataclass(frozen=True)
class RawField:
    """The pixels of one field: `planes` (Z, Y, X) and each of `targets` (Y, X), in counts."""

    planes: NDArray[np.uint16]
    targets: dict[str, NDArray[np.uint16]]


def read_field(files: FieldFiles, targets: tuple[str, ...]) -> RawField:
    """Read the z-planes and *targets* of one field.

    Raises PlateError for images of two sizes, ImageError for an image that cannot be used; both
    name the file.
    """
    singles = files.planes if len(files.planes) > 1 else ()
    paths = [*singles, *(files.targets[target] for target in targets)]
    images = list(zip(paths, read_images(paths), strict=True))
    if singles:
        planes = np.stack(_alike(images[: len(singles)]))
    else:
        planes = read_stack(files.planes[0], files.n_z_planes)
    stains = _alike([(files.planes[0], planes[0]), *images[len(singles) :]])[1:]
    return RawField(planes, dict(zip(targets, stains, strict=True)))


def write_field(
    folder: Path, key: FieldKey, field: RawField, um_per_px: float | None = None
) -> None:
    """Write a field into the plate *folder*, under the challenge's names.

    Its pixels are of *um_per_px*; None: as is usual at its magnification.
    """
    images = folder / magnification_folder(key.magnification)
    um_per_px = um_per_px or UM_PER_PX[key.magnification]
    for z, plane in enumerate(field.planes, start=1):
        write_image(images / str(brightfield_name(key, z)), plane, um_per_px)
    for target, image in field.targets.items():
        write_image(images / str(target_name(key, target)), image, um_per_px)


def stained_name(files: FieldFiles, target: str) -> str:
    """The name of a field's painted *target* in a stained plate, its folder included."""
    name = target_name(files.key, target, files.plate)
    return f"{magnification_folder(files.key.magnification)}/{name}"


def interval_names(files: FieldFiles, target: str) -> tuple[str, str]:
    """The names of the lowest and the highest counts of a field's painted *target*."""
    stem = stained_name(files, target).removesuffix(".tif")
    return f"{stem}_low.tif", f"{stem}_high.tif"


def _alike(images: list[tuple[Path, NDArray[np.uint16]]]) -> list[NDArray[np.uint16]]:
    """The images, without their paths. Raises PlateError when they have several sizes."""
    first_path, first = images[0]
    for path, image in images:
        if image.shape != first.shape:
            raise PlateError(
                f"{path} is {image.shape}, but {first_path.name} is {first.shape}",
                "all images of a field must have one size; export the field again",
            )
    return [image for _, image in images]
