"""Which fields of view a raw plate holds, and the pixels of one of them."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adipocyte.config import N_Z_PLANES, TARGETS
from adipocyte.errors import PlateError
from adipocyte.plate.names import ImageName, brightfield_name, magnification_folder, parse_magnification, parse_name, target_name
from adipocyte.plate.tiff import read_image, write_image

_LAYOUT = "a plate is a folder with 20x_images/, 40x_images/ or 60x_images/ in it, which hold the challenge's TIFFs"
_PLANES = tuple(f"Z{z}" for z in range(1, N_Z_PLANES + 1))


@dataclass(frozen=True, order=True)
class FieldKey:
    """One field of view, by what names it."""

    magnification: int
    well: str
    fov: int

    def __str__(self) -> str:
        return f"{self.magnification}x {self.well} F{self.fov:03d}"


@dataclass(frozen=True)
class FieldFiles:
    """The files of one field: `paths` by label ("Z1"…"Z7", then those of "A1", "A2", "A3" that are there)."""

    key: FieldKey
    plate: str
    paths: dict[str, Path]

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(target for target in TARGETS if target in self.paths)


@dataclass(frozen=True)
class RawField:
    """The pixels of one field: `planes` (Z, Y, X) and each of `targets` (Y, X), uint16, in counts."""

    planes: NDArray[np.uint16]
    targets: dict[str, NDArray[np.uint16]]


def scan_plate(folder: Path) -> list[FieldFiles]:
    """List the fields of a raw plate by magnification, well and field of view. Opens no image.

    Raises PlateError when there is no such folder, no image in it, a field without all its z-planes or with planes or channels
    beyond Z1…Z7 and A1…A3, or two files for one image.
    """
    if not folder.is_dir():
        raise PlateError(f"there is no plate at {folder}: {_LAYOUT}. Give it with -P plate=<folder>, or make one: mlflow run . -e simulate")
    found: dict[FieldKey, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    plates: dict[FieldKey, str] = {}
    for images in sorted(path for path in folder.iterdir() if path.is_dir()):
        magnification = parse_magnification(images.name)
        for path in sorted(images.glob("*.tif*")) if magnification else ():
            try:
                name = parse_name(path.name)
            except PlateError:
                continue  # thumbnails and exports lie beside the images on many instruments
            key = FieldKey(magnification, name.well, name.fov)
            found[key][name.label].append(path)
            plates[key] = name.plate
    if not found:
        raise PlateError(f"{folder} holds no image of the challenge's form: {_LAYOUT}, named like {brightfield_name('B03', 1, 1)}")
    _check_complete(found)
    return [FieldFiles(key, plates[key], {label: paths[0] for label, paths in found[key].items()}) for key in sorted(found)]


def read_field(files: FieldFiles, targets: tuple[str, ...]) -> RawField:
    """Read the z-planes and *targets* of one field.

    Raises PlateError for a missing target or images of two sizes, ImageError for an image that cannot be used; both name the file.
    """
    for target in targets:
        if target not in files.paths:
            name = target_name(files.key.well, files.key.fov, target, files.plate)
            raise PlateError(f"field {files.key} has no {target} image: needed {name} beside {files.paths['Z1']}")
    labels = (*_PLANES, *targets)
    images = {label: read_image(files.paths[label]) for label in labels}
    for label in labels:
        if images[label].shape != images["Z1"].shape:
            sizes = f"{images[label].shape}, but {files.paths['Z1'].name} is {images['Z1'].shape}"
            raise PlateError(f"{files.paths[label]} is {sizes}: all images of a field must have one size")
    return RawField(np.stack([images[label] for label in _PLANES]), {target: images[target] for target in targets})


def write_field(folder: Path, key: FieldKey, field: RawField) -> None:
    """Write a field under the challenge's names into *folder*, its plate."""
    images = folder / magnification_folder(key.magnification)
    for z, plane in enumerate(field.planes, start=1):
        write_image(images / str(brightfield_name(key.well, key.fov, z)), plane)
    for target, image in field.targets.items():
        write_image(images / str(target_name(key.well, key.fov, target)), image)


def stained_path(folder: Path, files: FieldFiles, target: str) -> Path:
    """Where the painted *target* of a field lies in a stained plate *folder*."""
    name: ImageName = target_name(files.key.well, files.key.fov, target, files.plate)
    return folder / magnification_folder(files.key.magnification) / str(name)


def _check_complete(found: dict[FieldKey, dict[str, list[Path]]]) -> None:
    problems = []
    for key, images in sorted(found.items()):
        missing = [label for label in _PLANES if label not in images]
        extra = [label for label in images if label not in _PLANES and label not in TARGETS]
        if missing:
            folder = next(iter(images.values()))[0].parent
            wanted = brightfield_name(key.well, key.fov, int(missing[0][1:]))
            problems.append(f"field {key} lacks {', '.join(missing)} (looked for *{str(wanted)[-28:]} in {folder})")
        if extra:
            problems.append(f"field {key} has {', '.join(extra)} beyond Z1…Z{N_Z_PLANES} and A1…A3 ({images[extra[0]][0].name})")
        problems += [f"{paths[0]} and {paths[1]} are the same image" for paths in images.values() if len(paths) > 1]
    if problems:
        more = f" … and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise PlateError(f"the plate is not whole: {'; '.join(problems[:5])}{more}. Add the files, or move those fields elsewhere")
