"""What a raw plate holds: its whole fields, and everything that is wrong with the others, before a pixel is read."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from adipocyte.domain import N_Z_PLANES, TARGETS, FieldKey
from adipocyte.errors import ImageError, PlateError
from adipocyte.plate.fields import FieldFiles
from adipocyte.plate.names import (
    BRIGHTFIELD_CHANNEL,
    ImageName,
    brightfield_name,
    parse_magnification,
    parse_name,
    target_name,
)
from adipocyte.plate.problems import Problem, problem_of
from adipocyte.plate.tiff import Header, read_header

T = TypeVar("T")

_LAYOUT = "a plate is a folder with 20x_images/, 40x_images/ or 60x_images/ in it, which hold the challenge's TIFFs"
_BRIGHTFIELD = "brightfield"


@dataclass(frozen=True)
class Plate:
    """A scanned plate: its whole `fields` in order, the `problems` of all others, and how many files belong to no field.

    `n_z_planes` is what most fields have; a field with another number is not whole.
    """

    fields: tuple[FieldFiles, ...]
    problems: tuple[Problem, ...]
    n_z_planes: int
    targets: tuple[str, ...]
    n_ignored: int


@dataclass
class _Images:
    """The images of one field by their names: z-planes (None: a stack, by its name) and targets, each with every file that is it."""

    folder: Path
    plate: str
    planes: dict[int | None, list[Path]] = field(default_factory=lambda: defaultdict(list))
    targets: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    def of_kind(self, kind: str) -> list[Path]:
        """All files of brightfield, or of a target."""
        return (
            list(chain(*self.planes.values()))
            if kind == _BRIGHTFIELD
            else self.targets.get(kind, [])
        )

    def paths(self) -> list[Path]:
        return list(chain(*self.planes.values(), *self.targets.values()))


@dataclass(frozen=True)
class _Usual:
    """What the fields of a plate have in common: z-planes, targets, and the dtype of brightfield and of each target."""

    n_z_planes: int
    targets: tuple[str, ...]
    dtypes: dict[str, str]


Headers = dict[Path, Header | ImageError]


def scan_plate(folder: Path, targets: tuple[str, ...] = TARGETS) -> Plate:
    """Look through a raw plate, reading the header of every image: brightfield, and of the stains *targets* alone.

    Raises PlateError when there is no such folder or no image of the challenge's form in it. All else that is wrong stands in
    `Plate.problems`.
    """
    if not folder.is_dir():
        raise PlateError(
            f"there is no plate at {folder}: {_LAYOUT}. Give it with -P plate=<folder>, or make one: mlflow run . -e simulate"
        )
    try:
        images, problems, n_ignored = _list(folder, targets)
    except OSError as error:
        raise PlateError(
            f"{error.filename} cannot be looked into ({error.strerror}): this user must be let read the plate"
        ) from error
    if not images:
        found = "".join(
            f"; {problem.where} {problem.found}: {problem.remedy}" for problem in problems
        )
        example = brightfield_name("B03", 1, 1)
        raise PlateError(
            f"{folder} holds no image of the challenge's form: {_LAYOUT}, named like {example}{found}"
        )
    headers = _read_headers(
        [path for field_images in images.values() for path in field_images.paths()]
    )
    usual = _Usual(
        n_z_planes=_most_frequent(
            [n for one in images.values() if (n := _n_planes(one, headers))], default=N_Z_PLANES
        ),
        targets=tuple(
            target
            for target in targets
            if 2 * sum(target in one.targets for one in images.values()) >= len(images)
        ),
        dtypes={
            kind: _most_frequent(_dtypes(images.values(), headers, kind), default="")
            for kind in (_BRIGHTFIELD, *targets)
        },
    )
    fields = []
    for key, one in sorted(images.items()):
        if wrong := _problems(key, one, headers, usual):
            problems += wrong
        else:
            planes = tuple(one.planes[z][0] for z in sorted(one.planes, key=lambda z: z or 0))
            stains = {target: one.targets[target][0] for target in usual.targets}
            fields.append(
                FieldFiles(
                    key, one.plate, planes, stains, usual.n_z_planes, headers[planes[0]].shape
                )
            )
    return Plate(tuple(fields), tuple(problems), usual.n_z_planes, usual.targets, n_ignored)


def _list(
    folder: Path, targets: tuple[str, ...]
) -> tuple[dict[FieldKey, _Images], list[Problem], int]:
    """The images of each field by name, folders whose magnification cannot be told, and how many other files there are."""
    found: dict[FieldKey, _Images] = {}
    problems: list[Problem] = []
    n_ignored = 0
    for images in [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]:
        paths = sorted(
            path for path in images.iterdir() if not path.name.startswith(".") and not path.is_dir()
        )
        names = {path: name for path in paths if (name := _parsed(path)) is not None}
        n_ignored += len(paths) - len(names)
        magnification = parse_magnification(images.name) if images != folder else None
        if magnification is None:
            problems += [_untold(images, len(names))] if names else []
            continue
        for path, name in names.items():
            one = found.setdefault(
                FieldKey(magnification, name.well, name.fov), _Images(images, name.plate)
            )
            if name.channel == BRIGHTFIELD_CHANNEL:
                one.planes[name.z_plane].append(path)
            elif name.target in targets:
                one.targets[name.target].append(path)
    return {key: images for key, images in found.items() if images.paths()}, problems, n_ignored


def _parsed(path: Path) -> ImageName | None:
    """The name of an image; None for thumbnails, exports and channels of other kinds, which lie beside the images on many instruments."""
    try:
        name = parse_name(path.name)
    except PlateError:
        return None
    return name if name.target or name.channel == BRIGHTFIELD_CHANNEL else None


def _untold(folder: Path, n: int) -> Problem:
    remedy = (
        "put them into a folder named 20x_images, 40x_images or 60x_images inside the plate, or move them out of it; where this is such a "
        "folder, the plate is the one above it"
    )
    return Problem(
        f"{folder.name}/",
        f"{n} images whose magnification cannot be told by the folder's name",
        remedy,
    )


def _read_headers(paths: list[Path]) -> Headers:
    headers: Headers = {}
    for path in tqdm(paths, desc="scan", unit="file"):
        try:
            headers[path] = read_header(path)
        except ImageError as error:
            headers[path] = error
    return headers


def _n_planes(images: _Images, headers: Headers) -> int:
    """How many z-planes a field seems to have: the pages of its stack, or its highest plane."""
    return _n_stacked(images, headers) or max((z or 0 for z in images.planes), default=0)


def _n_stacked(images: _Images, headers: Headers) -> int | None:
    """How many pages the one brightfield file of a field has, when it is a stack: named so, or of several pages."""
    paths = images.of_kind(_BRIGHTFIELD)
    if len(paths) != 1 or not isinstance(header := headers[paths[0]], Header):
        return None
    return header.n_planes if header.n_planes > 1 or None in images.planes else None


def _dtypes(fields: Iterable[_Images], headers: Headers, kind: str) -> list[str]:
    """The dtypes of all images of one *kind*, brightfield or a target, that can be read."""
    paths = [path for one in fields for path in one.of_kind(kind)]
    return [header.dtype for path in paths if isinstance(header := headers[path], Header)]


def _most_frequent(values: list[T], default: T) -> T:
    """Of several equally frequent ones, the largest."""
    counted = Counter(values)
    return max(counted, key=lambda value: (counted[value], value), default=default)


def _problems(key: FieldKey, images: _Images, headers: Headers, usual: _Usual) -> list[Problem]:
    """Everything that is wrong with one field. What hides behind an unreadable or doubled file comes to light once that is mended."""
    unreadable = [
        problem_of(key, error)
        for path in images.paths()
        if isinstance(error := headers[path], ImageError)
    ]
    named = (
        _doubled(images)
        + _missing_planes(key, images, headers, usual.n_z_planes)
        + _missing_targets(key, images, usual.targets)
    )
    others = named if unreadable or named else _unlike(images, headers, usual)
    return unreadable + [Problem(str(key), found, remedy) for found, remedy in others]


def _doubled(images: _Images) -> list[tuple[str, str]]:
    doubled = [
        paths for paths in (*images.planes.values(), *images.targets.values()) if len(paths) > 1
    ]
    return [
        (
            f"{paths[0].name} and {paths[1].name} are the same image",
            "keep one: time points are not told apart",
        )
        for paths in doubled
    ]


def _missing_planes(
    key: FieldKey, images: _Images, headers: Headers, n_z_planes: int
) -> list[tuple[str, str]]:
    paths = images.of_kind(_BRIGHTFIELD)
    if len(paths) == 1 and isinstance(headers[paths[0]], ImageError):
        return []  # it may be a stack of them all
    if (n_stacked := _n_stacked(images, headers)) is not None:
        if n_stacked == n_z_planes:
            return []
        return [
            (
                f"{paths[0].name} has {n_stacked} z-planes, others {n_z_planes}",
                f"export it again with {n_z_planes}, or move it elsewhere",
            )
        ]
    wrong = []
    wanted = range(1, n_z_planes + 1)
    if missing := [z for z in wanted if z not in images.planes]:
        name = str(brightfield_name(key.well, key.fov, missing[0], images.plate))
        wrong.append(
            (
                f"lacks {', '.join(f'Z{z}' for z in missing)}",
                f"add {name} to {images.folder}, or move the field elsewhere",
            )
        )
    for z in sorted(images.planes.keys() - set(wanted), key=lambda z: z or 0):
        what = (
            "a stack beside single planes"
            if z is None
            else f"a plane beyond Z1…Z{n_z_planes}, which others have"
        )
        wrong.append((f"{images.planes[z][0].name} is {what}", "move it elsewhere"))
    return wrong


def _missing_targets(
    key: FieldKey, images: _Images, targets: tuple[str, ...]
) -> list[tuple[str, str]]:
    missing = [target for target in targets if target not in images.targets]
    names = [str(target_name(key.well, key.fov, target, images.plate)) for target in missing]
    return [
        (
            f"has no {target} image, which others have",
            f"add {name} to {images.folder}, or move the field elsewhere",
        )
        for target, name in zip(missing, names, strict=True)
    ]


def _unlike(images: _Images, headers: Headers, usual: _Usual) -> list[tuple[str, str]]:
    """Images of another size than the field's first, of another dtype than the plate's, or of several planes where one is due."""
    wrong = []
    first = images.of_kind(_BRIGHTFIELD)[0]
    is_stack = _n_stacked(images, headers) is not None
    for kind in (_BRIGHTFIELD, *usual.targets):
        for path in images.of_kind(kind):
            header = headers[path]
            if header.n_planes > 1 and not (is_stack and kind == _BRIGHTFIELD):
                wrong.append(
                    (f"{path.name} has {header.n_planes} pages", "export one plane to a file")
                )
            if header.shape != headers[first].shape:
                sizes = f"{header.shape}, but {first.name} is {headers[first].shape}"
                wrong.append(
                    (
                        f"{path.name} is {sizes}",
                        "all images of a field must have one size: export the field again",
                    )
                )
            if header.dtype != usual.dtypes[kind]:
                wrong.append(
                    (
                        f"{path.name} is {header.dtype}, others {usual.dtypes[kind]}",
                        "export all images alike, in raw counts",
                    )
                )
    return wrong
