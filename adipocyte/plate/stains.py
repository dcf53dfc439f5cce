"""The stained images of a folder, true or painted, field by field."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import SMALLEST_PX, UM_PER_PX, FieldKey
from adipocyte.errors import ImageError, PlateError
from adipocyte.plate.listing import list_folders, list_images, named
from adipocyte.plate.names import in_zarr_plate, magnification_folder, parse_magnification
from adipocyte.plate.problems import Problem
from adipocyte.plate.tiff import Header, read_header, read_stack
from adipocyte.plate.times import has_several, numbered

Files = dict[str, list[Path]]  # of a field, by target
Listed = dict[FieldKey, Files]


def list_stains(folders: Mapping[str, Path], magnification: int) -> list[Listed]:
    """The stained images of each of *folders*, by field and target. Brightfield is ignored.

    A folder holds `20x_images/`, `40x_images/`, …, or is one of them; or it holds
    images of one *magnification*, which its name does not state. A folder's name is that
    of the setting which gives it. Times are told apart where one of the folders has a stain at
    several, so that fields of two folders have the same keys.

    Raises PlateError when a folder does not exist, has no stained image of the challenge's form
    or does not tell the magnification.
    """
    listed = [_list_stains(folder, name, magnification) for name, folder in folders.items()]
    several = any(
        has_several(
            ((replace(key, time=1), target), key.time) for key in fields for target in fields[key]
        )
        for fields in listed
    )
    return [_at_numbered_times(fields, several) for fields in listed]


def _at_numbered_times(fields: Listed, several: bool) -> Listed:
    times = numbered({key.time for key in fields}, several=several)
    found: Listed = defaultdict(lambda: defaultdict(list))
    for key, files in fields.items():
        for target, paths in files.items():
            found[replace(key, time=times[key.time])][target] += paths
    return found


def _list_stains(folder: Path, name: str, magnification: int) -> Listed:
    """The stained images of a folder, at times as their names tell them."""
    if not folder.is_dir():
        raise PlateError(f"there is no folder {folder}", f"give the {name} with -P {name}=<folder>")
    listed: Listed = defaultdict(lambda: defaultdict(list))
    others: list[Path] = []
    for images in list_folders(folder):
        known = parse_magnification(images.name) or (magnification if images == folder else None)
        found = list_images(images)
        others += [*found.similar, *found.others]
        for path, image in found.images.items():
            if image.target is None:
                continue
            if not known:
                raise PlateError(
                    f"the magnification of {path} cannot be told",
                    "put it into a folder named 20x_images, say, or give -P magnification=20",
                )
            key = FieldKey(known, image.well, image.fov, image.time)
            listed[key][image.target].append(path)
    if not listed and any(in_zarr_plate(path.name) for path in (folder, *folder.iterdir())):
        raise PlateError(
            f"{folder} holds images as OME-Zarr, which cannot be measured",
            "stain the plate once more with -P format=tiff, into another folder, and measure that",
        )
    if not listed:
        example = "AssayPlate_Greiner_#655090_B03_T0001F001L01A01Z01C01.tif"
        raise PlateError(
            f"{folder} holds no stained image of the challenge's form"
            + (f", only {named(others)}" if others else ""),
            f"its files must be named like {example}",
        )
    return listed


def middle_plane(folders: Iterable[Path], key: FieldKey) -> NDArray[np.uint16] | None:
    """The middle focal plane of a field, (Y, X) in counts, from the first of *folders* that has it.

    None where no folder has one that can be read: it is only looked at.
    """
    for folder in folders:
        try:
            images = folder / magnification_folder(key.magnification)
            of_field = {
                path: name
                for path, name in list_images(images if images.is_dir() else folder).images.items()
                if (name.well, name.fov, name.target) == (key.well, key.fov, None)
            }
            told = {name.time for name in of_field.values()}
            times = numbered(told, several=len(told) > 1 or key.time != 1)
            planes = {
                name.z_plane or 0: path
                for path, name in of_field.items()
                if times[name.time] == key.time
            }
            if planes:
                path = planes[sorted(planes)[len(planes) // 2]]
                stack = read_stack(path, read_header(path).n_planes)
                return stack[len(stack) // 2]
        except (OSError, ImageError):
            continue
    return None


def um_per_px_of(key: FieldKey, headers: Iterable[Header], given: float) -> float:
    """The size of a field's pixels in µm: as *given*, if not 0; as the first of its images tells
    that does; or as is usual.

    Raises PlateError where nothing tells.
    """
    told = next((one.um_per_px for one in headers if one.um_per_px), None)
    found = given or told or UM_PER_PX.get(key.magnification)
    if found is None:
        raise PlateError(
            f"nothing tells how large the pixels are at {key.magnification}x",
            "give it in µm with -P um_per_px=0.5, say",
        )
    return found


def unlike(where: str, headers: Mapping[Path, Header], among: str) -> Iterator[Problem]:
    """Images that are not one uint16 plane, are too small, or differ in size from the first.

    *among* says which images must be of one size: "in both folders".
    """
    first, of_first = next(iter(headers.items()))
    for path, header in headers.items():
        if header.n_planes > 1:
            yield Problem(where, f"{path} has {header.n_planes} pages", "save one plane to a file")
        if header.dtype != "uint16":
            remedy = "save raw counts as uint16, because the features' thresholds are in counts"
            yield Problem(where, f"{path} is {header.dtype}", remedy)
        if header.shape != of_first.shape:
            sizes = f"{path} is {_size(header)} pixels, {first} {_size(of_first)}"
            yield Problem(where, sizes, f"all images of a field must have one size, {among}")
    if min(of_first.shape) < SMALLEST_PX:
        found = f"{first} is {of_first.shape} pixels"
        yield Problem(where, found, f"a side must be at least {SMALLEST_PX}")


def _size(header: Header) -> str:
    return f"{header.shape[0]} x {header.shape[1]}"
