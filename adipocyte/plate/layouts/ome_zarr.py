"""A plate in OME-Zarr (NGFF 0.4 in zarr 2, 0.5 in zarr 3): rows, columns, fields, arrays.

The folder is such a plate, or holds some: a prepared store has one for each magnification. Where a
plate has several acquisitions, each is a plate of its own name.
"""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
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
_MOST_LETTERS = 50  # of a plate's name, before that of an acquisition
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


@dataclass(frozen=True)
class _Place:
    """Where a field lies, of which plate and well, and its number.

    Fields that the plate counts from 0 are counted from 1. `time` is told by the folder's name, as
    in a prepared store, else it is 0.
    """

    folder: Path
    plate: str
    well: str
    fov: int
    time: int


def has_plates(plate: Path) -> bool:
    """Whether the folder is an OME-Zarr plate or holds one. Raises OSError."""
    return bool(_plates(plate))


def list_ome_zarr(plate: Path) -> Listed:
    """The planes of all fields that the plate's metadata name.

    Raises OSError; PlateError where there is no plate, and for metadata of plate or wells that are
    damaged or lead out of the plate. What is wrong with one field is among the problems.
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
        # Plates of one folder are told apart by name, those of several objectives are one.
        folder = root if parse_magnification(root.stem) else plate
        for place in _places(plate, root, problems):
            try:
                field = _field(place.folder)
                images += _planes(folder, place, field)
            except (ImageError, PlateError) as error:
                problems.append(Problem(_key(root, place), error.found, error.remedy))
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


def _places(plate: Path, root: Path, problems: list[Problem]) -> Iterator[_Place]:
    """Where the fields of a plate lie, by its metadata and its wells'."""
    named: list[tuple[Path, str, str, str]] = []  # folder, well, its name there, acquisition
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
        named += [
            (
                _below(folder, image["path"]),
                well_named(well),
                image["path"],
                str(image.get("acquisition", "")),
            )
            for image in listed
        ]
        problems += _unlisted(folder, well_named(well), {image["path"] for image in listed})
    by_well: dict[str, list[str]] = defaultdict(list)
    for _, well, path, _ in named:
        by_well[well].append(path)
    is_from_0 = any(path == "0" for _, _, path, _ in named)
    names = _names(plate, root, {acquisition for *_, acquisition in named})
    for folder, well, path, acquisition in named:
        told = _NUMBER.fullmatch(path)
        fov = int(told[1]) + is_from_0 if told else by_well[well].index(path) + 1
        yield _Place(folder, names[acquisition], well, fov, int(told[2] or 0) if told else 0)


def _names(plate: Path, root: Path, acquisitions: Collection[str]) -> dict[str, str]:
    """The name of the plate by acquisition; of several each has the acquisition's behind it.

    That is the acquisition's number, unless the plate names them and no two alike.
    """
    name = _plate_name(plate, root)
    if len(acquisitions) < 2:
        return dict.fromkeys(acquisitions, name)
    begin = name[:_MOST_LETTERS]  # so that what tells them apart is never cut off
    told = _attributes(root)["plate"]
    listed = _part(told, "acquisitions", [{"id": int}], root) if "acquisitions" in told else []
    called = {str(one["id"]): one["name"] for one in listed if isinstance(one.get("name"), str)}
    names = {one: plate_called(plate, f"{begin} {called.get(one, one)}") for one in acquisitions}
    if len({*names.values()}) == len(names):
        return names
    return {one: plate_called(plate, f"{begin} {one}") for one in acquisitions}


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


def _key(root: Path, place: _Place) -> str:
    """A field, as problems call it."""
    magnification = parse_magnification(root.stem)
    key = str(FieldKey(magnification or 0, place.well, place.fov, place.time or 1))
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


def _planes(folder: Path, place: _Place, field: _Field) -> Iterator[Image]:
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
            plate=place.plate,
            well=place.well,
            fov=place.fov,
            channel=channel,
            time=place.time or time + 1,
            z_plane=int(stored[1]) if stored else z_plane,
            magnification=parse_magnification(folder.stem),
            um_per_px=size if 0 < size < _MOST_UM else None,
            z_um=z * field.um["z"] if "z" in field.um else None,
        )
