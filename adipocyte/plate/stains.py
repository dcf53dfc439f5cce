"""The stained images of a folder, true or painted, field by field."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import SMALLEST_PX, TARGETS, UM_PER_PX, FieldKey
from adipocyte.errors import ImageError, PlateError
from adipocyte.plate.layouts.ome_zarr import has_plates, list_ome_zarr
from adipocyte.plate.listing import few, list_folders, list_images, named
from adipocyte.plate.names import in_zarr_plate, magnification_folder, parse_magnification
from adipocyte.plate.problems import Problem
from adipocyte.plate.tiff import Header, read_header, read_stack
from adipocyte.plate.times import has_several, numbered

Files = dict[str, list[Path]]  # of a field, by target: files, or paths into arrays (see `planes`)


@dataclass(frozen=True)
class Stains:
    """The stained images of a folder: the `files` of each field, and the name of its plate.

    `um_per_px` is the size of a field's pixels, where that is told beside its images. `problems`
    are those of fields whose images cannot be listed.
    """

    files: dict[FieldKey, Files]
    plates: dict[FieldKey, str]
    um_per_px: dict[FieldKey, float]
    problems: Sequence[Problem]


@dataclass(frozen=True)
class _Stain:
    """One stained image, at the time that its name tells."""

    key: FieldKey
    target: str
    path: Path
    plate: str
    um_per_px: float | None = None


def list_stains(folders: Mapping[str, Path], magnification: int) -> list[Stains]:
    """The stained images of each of *folders*, by field and target. Brightfield is ignored.

    A folder holds `20x_images/`, `40x_images/`, …, or is one of them; or it holds images of one
    *magnification*, which its name does not state; or OME-Zarr plates with channels A1, A2 or A3,
    or it is one. A folder's name is that of the setting which gives it. Times are told apart where
    one of the folders has a stain at several, so that fields of two folders have the same keys.

    Raises PlateError when a folder does not exist, has no stained image of the challenge's form
    or does not tell the magnification, and for metadata of OME-Zarr that are damaged.
    """
    listed = [_list_stains(folder, name, magnification) for name, folder in folders.items()]
    several = any(
        has_several(((replace(one.key, time=1), one.target), one.key.time) for one in stains)
        for stains, _ in listed
    )
    return [_by_field(stains, problems, several) for stains, problems in listed]


def _by_field(stains: Sequence[_Stain], problems: Sequence[Problem], several: bool) -> Stains:
    times = numbered({one.key.time for one in stains}, several=several)
    files: dict[FieldKey, Files] = defaultdict(lambda: defaultdict(list))
    plates: dict[FieldKey, str] = {}
    um_per_px: dict[FieldKey, float] = {}
    for one in sorted(stains, key=lambda one: one.target):
        key = replace(one.key, time=times[one.key.time])
        files[key][one.target].append(one.path)
        plates.setdefault(key, one.plate)
        if one.um_per_px:
            um_per_px[key] = one.um_per_px
    return Stains(files, plates, um_per_px, problems)


def _list_stains(
    folder: Path, name: str, magnification: int
) -> tuple[list[_Stain], Sequence[Problem]]:
    """The stained images of a folder, and problems of fields."""
    if not folder.is_dir():
        raise PlateError(f"there is no folder {folder}", f"give the {name} with -P {name}=<folder>")
    stains, others = _list_tiffs(folder, magnification)
    if stains:
        return stains, ()
    if has_plates(folder):
        return _list_arrays(folder, magnification)
    if any(in_zarr_plate(path.name) for path in (folder, *folder.iterdir())):
        raise PlateError(
            f"{folder} holds an OME-Zarr plate that does not list its wells yet",
            "it was not painted to its end: run the same command that stains it again",
        )
    example = "AssayPlate_Greiner_#655090_B03_T0001F001L01A01Z01C01.tif"
    raise PlateError(
        f"{folder} holds no stained image of the challenge's form"
        + (f", only {named(others)}" if others else ""),
        f"its files must be named like {example}",
    )


def _list_tiffs(folder: Path, magnification: int) -> tuple[list[_Stain], list[Path]]:
    """The stained TIFFs of a folder and of those in it, and what else is there."""
    stains: list[_Stain] = []
    others: list[Path] = []
    for images in list_folders(folder):
        known = parse_magnification(images.name) or (magnification if images == folder else 0)
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
            stains.append(_Stain(key, image.target, path, image.plate))
    return stains, others


def _list_arrays(folder: Path, magnification: int) -> tuple[list[_Stain], Sequence[Problem]]:
    """The stains in the OME-Zarr plates of a folder, and problems of their fields."""
    listed = list_ome_zarr(folder)
    stains: list[_Stain] = []
    for image in listed.images:
        if image.channel not in TARGETS:
            continue
        known = image.magnification or magnification
        if not known:
            raise PlateError(
                f"the magnification of {image.path} cannot be told",
                "rename its plate to 20x.zarr, say, or give -P magnification=20",
            )
        key = FieldKey(known, image.well, image.fov, image.time)
        stains.append(_Stain(key, image.channel, image.path, image.plate, image.um_per_px))
    if not stains and not listed.problems:
        raise PlateError(
            f"{folder} is OME-Zarr without a channel A1, A2 or A3: it has " + few(listed.channels),
            "stain the plate, or label its channels so",
        )
    return stains, listed.problems


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
