"""A plate in OME-Zarr (NGFF 0.4 in zarr 2, 0.5 in zarr 3): rows, columns, fields, arrays.

The folder is such a plate, or holds some: a prepared store has one for each magnification.
"""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from adipocyte.domain import BRIGHTFIELD, TARGETS, FieldKey, bound_names
from adipocyte.errors import ImageError, PlateError
from adipocyte.plate.layouts.listed import WELL, Channel, Image, Listed, plate_called, well_named
from adipocyte.plate.listing import is_odd
from adipocyte.plate.names import parse_magnification
from adipocyte.plate.planes import plane_in
from adipocyte.plate.problems import Problem
from adipocyte.plate.zarr_arrays import open_array
from adipocyte.system.files import read_json
from adipocyte.system.forms import NUMBER, require_form

OME_ZARR = "ome-zarr"
_SUFFIX = ".zarr"
_AXES = "tczyx"
_MOST_UM = 1e6
_UM = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "meter": 1e6}
_PLANE = re.compile(r"Z([0-9]{1,2})", re.ASCII)  # a channel of a prepared store or stained plate
_NUMBER = re.compile(r"([0-9]{1,4})(?:T([0-9]{4}))?", re.ASCII)  # of a field, its time in a store
_STORED = {BRIGHTFIELD: BRIGHTFIELD} | {target: target for target in TARGETS}
_BOUNDS = {name for target in TARGETS for name in bound_names(target)}  # of a stained plate
_AGAIN = "copy the plate again, whole, or save it again"


@dataclass(frozen=True)
class _Field:
    """What a field's metadata say: its `axes` and their lengths, and the labels of its channels.

    Without labels these are empty. `um` is how long a step along z, y and x is, where it is told.
    """

    array: Path
    axes: str
    lengths: dict[str, int]
    um: dict[str, float]
    labels: list[str]

    @property
    def is_stored(self) -> bool:
        """Whether the channels are planes and stains, as a store or a stained plate has them."""
        known = (*TARGETS, *_BOUNDS)
        is_known = all(_PLANE.fullmatch(label) or label in known for label in self.labels)
        return is_known and "z" not in self.axes


def has_plates(plate: Path) -> bool:
    """Whether the folder is an OME-Zarr plate or holds one. Raises OSError."""
    return bool(_plates(plate))


def list_ome_zarr(plate: Path) -> Listed:
    """The planes of all fields that the plate's metadata name.

    Raises OSError; PlateError where there is no plate, for metadata of plate or wells that are
    damaged or lead out of the plate, and for several acquisitions. What is wrong with one field is
    among the problems.
    """
    images: list[Image] = []
    problems: list[Problem] = []
    labels: dict[str, set[str]] = defaultdict(set)
    roots = _plates(plate)
    if not roots:
        raise PlateError(
            f"{plate} is no OME-Zarr plate and holds none",
            "give the folder whose .zattrs or zarr.json names the wells, or the one it lies in",
        )
    for root in roots:
        name = _plate_name(plate, root)
        # Plates of one folder are told apart by name, those of several objectives are one.
        folder = root if parse_magnification(root.stem) else plate
        for where, well, fov, own_time in _fields(root, problems):
            try:
                field = _field(where)
                planes = _planes(folder, name, well, fov, field)
                images += [replace(one, time=own_time or one.time) for one in planes]
            except (ImageError, PlateError) as error:
                key = _key(root, well, fov, own_time or 1)
                problems.append(Problem(key, error.found, error.remedy))
                continue
            for number, label in _channels(field):
                labels[number].add(label)
    channels = tuple(
        Channel(number, " or ".join(sorted(labels[number] - {"", number})))
        for number in sorted(labels, key=lambda one: (len(one), one))
    )
    others = [path for path in plate.iterdir() if not path.is_dir()] if plate not in roots else []
    is_stored = {*labels} <= {*_STORED, *_BOUNDS}
    return Listed(
        OME_ZARR,
        tuple(images),
        channels,
        {"files beside the plates": others},
        problems=tuple(problems),
        roles=_STORED if is_stored else None,
    )


def _plates(folder: Path) -> list[Path]:
    """The OME-Zarr plates that a folder is or holds. Raises OSError."""
    if _is_plate(folder):
        return [folder]
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not is_odd(path.name))
    return [path for path in inner if _is_plate(path)]


def _has_attributes(folder: Path) -> bool:
    return (folder / ".zattrs").is_file() or (folder / "zarr.json").is_file()


def _is_plate(folder: Path) -> bool:
    try:
        return _has_attributes(folder) and "plate" in _attributes(folder)
    except PlateError:
        return folder.suffix == _SUFFIX  # to say what is wrong with it


def _attributes(folder: Path) -> dict[str, Any]:
    """What OME-Zarr says of a group. Raises PlateError."""
    path = folder / "zarr.json"
    try:
        if path.exists():
            told = read_json(path)
            require_form(told, {"attributes": dict}, path.name)
            told = told["attributes"].get("ome", {})
            require_form(told, dict, f"ome of {path.name}")
            return told
        path = folder / ".zattrs"
        told = read_json(path)
        require_form(told, dict, path.name)
        return told
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PlateError(f"{path} cannot be read ({reason})", _AGAIN) from error


def _part(told: dict[str, Any], key: str, form: Any, folder: Path) -> Any:
    """One entry of a group's attributes, which has the *form*. Raises PlateError."""
    try:
        require_form(told, {key: form}, "it")
    except ValueError as error:
        raise PlateError(f"the metadata of {folder} are damaged ({error})", _AGAIN) from error
    return told[key]


def _below(folder: Path, path: str) -> Path:
    """The folder that metadata name by a *path*. Raises PlateError when it leads out."""
    inner = PurePosixPath(path)
    if inner.is_absolute() or ".." in inner.parts or not inner.parts:
        raise PlateError(f"the metadata of {folder} lead to {path[:100]!r}, out of it", _AGAIN)
    return folder / inner


def _plate_name(plate: Path, root: Path) -> str:
    """The name of a plate: its own, or its folder's, unless that only tells the magnification."""
    told = _attributes(root)["plate"].get("name")
    stem = "" if parse_magnification(root.stem) else root.stem
    return plate_called(plate, told if isinstance(told, str) else stem)


def _fields(root: Path, problems: list[Problem]) -> Iterator[tuple[Path, str, int, int]]:
    """The folder, well and number of each field, counted from 1 where the plate counts from 0.

    And its time where the folder's name tells it, as in a prepared store, else 0.
    """
    named: list[tuple[Path, str, str]] = []
    acquisitions = set()
    for one in _part(_attributes(root), "plate", {"wells": [{"path": str}]}, root)["wells"]:
        folder, well = _below(root, one["path"]), one["path"].replace("/", "")
        if not re.fullmatch(WELL, well, re.IGNORECASE | re.ASCII):
            raise PlateError(
                f"the metadata of {root} have a well {one['path'][:40]!r}",
                "name it by its row and column, such as B/3",
            )
        try:
            form = {"images": [{"path": str}]}
            listed = _part(_attributes(folder), "well", form, folder)["images"]
        except PlateError as error:
            problems.append(Problem(well_named(well), error.found, error.remedy))
            continue
        acquisitions |= {str(image.get("acquisition")) for image in listed}
        paths = [image["path"] for image in listed]
        named += [(_below(folder, path), well_named(well), path) for path in paths]
        problems += _unlisted(folder, well_named(well), {*paths})
    if len(acquisitions) > 1:
        raise PlateError(
            f"{root} holds {len(acquisitions)} acquisitions",
            "one is due: save one alone",
        )
    by_well: dict[str, list[str]] = defaultdict(list)
    for _, well, path in named:
        by_well[well].append(path)
    is_from_0 = any(path == "0" for _, _, path in named)
    for folder, well, path in named:
        told = _NUMBER.fullmatch(path)
        fov = int(told[1]) + is_from_0 if told else by_well[well].index(path) + 1
        yield folder, well, fov, int(told[2] or 0) if told else 0


def _unlisted(folder: Path, well: str, listed: set[str]) -> list[Problem]:
    """A problem of a well that has fields which its metadata do not name."""
    found = {path.name for path in folder.iterdir() if _has_attributes(path)} - listed
    if not found:
        return []
    some = ", ".join(sorted(found)[:3])
    return [
        Problem(
            well,
            f"{len(found)} fields that its metadata do not name: {some}",
            "save the plate again, or move them out of it",
        )
    ]


def _key(root: Path, well: str, fov: int, time: int) -> str:
    """A field, as problems call it."""
    magnification = parse_magnification(root.stem)
    key = str(FieldKey(magnification or 0, well, fov, time))
    return key if magnification else key.removeprefix("0x ")


def _field(folder: Path) -> _Field:
    """What the metadata of a field say. Raises PlateError, ImageError."""
    attributes = _attributes(folder)
    form = {"datasets": [{"path": str}], "axes": [{"name": str}]}
    told = _part(attributes, "multiscales", [form], folder)
    if not told or not told[0]["datasets"]:
        raise PlateError(f"{folder} has no image", _AGAIN)
    image, largest = told[0], told[0]["datasets"][0]
    axes = "".join(axis["name"] for axis in image["axes"])
    if not axes.endswith("yx") or len({*axes}) < len(axes) or {*axes} - {*_AXES}:
        raise PlateError(
            f"{folder} has the axes {axes[:40]!r}",
            "t, c and z are read, in any order, before y and x; save it again",
        )
    array = _below(folder, largest["path"])
    shape = open_array(array).shape
    if len(shape) != len(axes):
        raise PlateError(f"{array} has {len(shape)} axes, not {axes}", _AGAIN)
    lengths = dict(zip(axes, shape, strict=True))
    scales = [*_scales(largest, folder, len(axes)), *_scales(image, folder, len(axes))]
    um = {axis["name"]: _UM.get(str(axis.get("unit"))) for axis in image["axes"]}
    sizes = {
        axis: um[axis] * math.prod(scale[axes.index(axis)] for scale in scales)
        for axis in axes
        if um[axis] and scales
    }
    channels = attributes.get("omero") and _part(attributes, "omero", {"channels": [dict]}, folder)
    labels = [str(one.get("label", "")) for one in channels["channels"]] if channels else []
    n_channels = lengths.get("c", 1)
    return _Field(array, axes, lengths, sizes, [*labels, *[""] * n_channels][:n_channels])


def _scales(told: dict[str, Any], folder: Path, n_axes: int) -> Iterator[list[float]]:
    """The scales among the transformations of an image, or of one of its sizes."""
    steps = told.get("coordinateTransformations") or []
    try:
        require_form(steps, [{"type": str}], "coordinateTransformations")
        for step in steps:
            if step["type"] == "scale":
                require_form(step, {"scale": (NUMBER,) * n_axes}, "scale")
                yield step["scale"]
    except ValueError as error:
        raise PlateError(f"the metadata of {folder} are damaged ({error})", _AGAIN) from error


def _channels(field: _Field) -> list[tuple[str, str]]:
    """The number and the label of each channel of a field, the planes of a store as one channel."""
    if field.is_stored:
        return [(BRIGHTFIELD if _PLANE.fullmatch(one) else one, "") for one in field.labels]
    return [(str(number), label) for number, label in enumerate(field.labels, start=1)]


def _planes(folder: Path, name: str, well: str, fov: int, field: _Field) -> Iterator[Image]:
    """An image for each plane of a field's array."""
    n_times, n_z_planes = field.lengths.get("t", 1), field.lengths.get("z", 1)
    channels = list(enumerate(_channels(field)))
    size = field.um.get("x", 0)
    for (c, (channel, _)), time, z in itertools.product(
        channels, range(n_times), range(n_z_planes)
    ):
        at = {"t": time, "c": c, "z": z}
        stored = _PLANE.fullmatch(field.labels[c]) if field.is_stored else None
        z_plane = z + 1 if "z" in field.axes else None
        yield Image(
            path=plane_in(field.array, tuple(at[axis] for axis in field.axes[:-2])),
            folder=folder,
            plate=name,
            well=well,
            fov=fov,
            channel=channel,
            time=time + 1,
            z_plane=int(stored[1]) if stored else z_plane,
            magnification=parse_magnification(folder.stem),
            um_per_px=size if 0 < size < _MOST_UM else None,
            z_um=z * field.um["z"] if "z" in field.um else None,
        )
