"""What a raw plate holds: its whole fields, and what is wrong with the others.

No pixel is read for it.
"""

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from adipocyte.domain import BRIGHTFIELD, N_Z_PLANES, TARGETS, FieldKey
from adipocyte.errors import ImageError, PlateError
from adipocyte.plate.fields import FieldFiles
from adipocyte.plate.listing import (
    Listing,
    list_folders,
    list_images,
    named,
    same_image,
    similar_problem,
)
from adipocyte.plate.names import (
    BRIGHTFIELD_CHANNEL,
    brightfield_name,
    parse_magnification,
    target_name,
)
from adipocyte.plate.problems import Problem, problem_of
from adipocyte.plate.tiff import Header, read_header

T = TypeVar("T")
Headers = dict[Path, Header]  # of the images that can be read
Wrong = list[tuple[str, str]]  # what was found in a field, and the remedy

_MOST_NAMED = 5
_LAYOUT = (
    "a plate is a folder with 20x_images/, 40x_images/ or 60x_images/ in it, which hold the "
    "challenge's TIFFs"
)


@dataclass(frozen=True)
class Plate:
    """A scanned plate: its whole `fields` in order, and the `problems` of all others.

    `partial` fields have problems too, but lack nothing except some of the stains. `n_z_planes` is
    what most fields have; a field with another number is not whole. `ignored` are the files that
    belong to no field.
    """

    fields: tuple[FieldFiles, ...]
    partial: tuple[FieldFiles, ...]
    problems: tuple[Problem, ...]
    n_z_planes: int
    targets: tuple[str, ...]
    ignored: tuple[Path, ...]

    @property
    def n_ignored(self) -> int:
        """How many files belong to no field."""
        return len(self.ignored)


@dataclass
class _Images:
    """The images of one field by their names, each with every file that has that name.

    `planes` is by z-plane (None: a stack, by its name), `targets` by target.
    """

    folder: Path
    plate: str
    planes: dict[int | None, list[Path]] = field(default_factory=lambda: defaultdict(list))
    targets: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    def of_kind(self, kind: str) -> list[Path]:
        """All files of brightfield, or of a target."""
        if kind == BRIGHTFIELD:
            return list(chain(*self.planes.values()))
        return self.targets.get(kind, [])

    def paths(self) -> list[Path]:
        return list(chain(*self.planes.values(), *self.targets.values()))


@dataclass(frozen=True)
class _Usual:
    """What the fields of a plate have in common.

    `z_planes` are the numbers of their planes in names; those of a stack count from 1. `dtypes` is
    by kind: brightfield or a target.
    """

    z_planes: range
    targets: tuple[str, ...]
    dtypes: dict[str, str]

    @property
    def n_z_planes(self) -> int:
        return len(self.z_planes)


def scan_plate(
    folder: Path, targets: tuple[str, ...] = TARGETS, *, plate_name: str = "", stain_z: int = 0
) -> Plate:
    """Look through a raw plate. Reads the header of every brightfield image and of *targets*.

    Of several plates in the folder *plate_name* tells which is meant, as their files' names begin;
    of stains at several z *stain_z* tells which, by the number in the names, if it is not 0.

    Raises PlateError when there is no such folder, no image of the challenge's form in it, or
    images of several plates and none is named. All else that is wrong is listed in
    `Plate.problems`.
    """
    if not folder.is_dir():
        raise PlateError(
            f"there is no plate at {folder}",
            f"{_LAYOUT}. Give it with -P plate=<folder>, or make one: mlflow run . -e simulate",
        )
    try:
        listings = {images: list_images(images) for images in list_folders(folder)}
    except OSError as error:
        raise PlateError(
            f"{error.filename} cannot be looked into ({error.strerror})",
            "give this user the right to read the plate",
        ) from error
    _check_one_plate(listings, plate_name)
    ignored = tuple(chain(*(one.others for one in listings.values())))
    images, problems = _by_field(folder, listings, targets, plate_name, stain_z)
    if not images:
        others = "".join(f"; {one.where} {one.found}: {one.remedy}" for one in problems)
        raise PlateError(
            f"{folder} holds no image of the challenge's form" + _beside(ignored),
            f"{_LAYOUT}, named like {brightfield_name('B03', 1, 1)}{others}",
        )
    headers, errors = _read_headers(list(chain(*(one.paths() for one in images.values()))))
    usual = _usual(list(images.values()), headers, targets)
    fields, partial = [], []
    for key, one in sorted(images.items()):
        wrong = _problems(key, one, headers, errors, usual)
        lacks = _missing_targets(key, one, usual.targets)
        problems += wrong + [Problem(str(key), found, remedy) for found, remedy in lacks]
        has_any = len(lacks) < len(usual.targets) or not usual.targets
        if not wrong and has_any:
            (partial if lacks else fields).append(_field_files(key, one, headers, usual))
    return Plate(
        tuple(fields),
        tuple(partial),
        tuple(problems),
        usual.n_z_planes,
        usual.targets,
        ignored,
    )


def _usual(fields: list[_Images], headers: Headers, targets: tuple[str, ...]) -> _Usual:
    """What most fields have; a target is the plate's when at least half of the fields have it."""
    spans = [span for one in fields if (span := _span(one, headers))]
    n_having = Counter(chain(*(one.targets for one in fields)))
    kinds = (BRIGHTFIELD, *targets)
    return _Usual(
        z_planes=_most_frequent_span(spans),
        targets=tuple(target for target in targets if 2 * n_having[target] >= len(fields)),
        dtypes={kind: _most_frequent(_dtypes(fields, headers, kind), default="") for kind in kinds},
    )


def _field_files(key: FieldKey, images: _Images, headers: Headers, usual: _Usual) -> FieldFiles:
    """The files of a field, with the stains that it has."""
    planes = tuple(images.planes[z][0] for z in sorted(images.planes, key=lambda z: z or 0))
    stains = {t: images.targets[t][0] for t in usual.targets if t in images.targets}
    shape = headers[planes[0]].shape
    return FieldFiles(key, images.plate, planes, stains, usual.n_z_planes, shape)


def _check_one_plate(listings: dict[Path, Listing], plate_name: str) -> None:
    """Raise PlateError when a folder holds several plates and none is named, or another one is."""
    for folder, listing in listings.items():
        counts = Counter(name.plate for name in listing.images.values())
        if len(counts) > 1 and not plate_name:
            raise PlateError(f"{folder} holds images of {len(counts)} plates", _take_one(counts))
    counts = Counter(name.plate for one in listings.values() for name in one.images.values())
    if counts and plate_name and plate_name not in counts:
        raise PlateError(f"no image is of a plate named {plate_name!r}", _take_one(counts))


def _take_one(counts: Counter[str]) -> str:
    """The plates that there are, by their numbers of images, and how to take one."""
    plates = ", ".join(f"{plate} ({n} images)" for plate, n in sorted(counts.items())[:_MOST_NAMED])
    setting = shlex.quote(f"plate_name={min(counts)}")
    return f"there are {plates}: take one with -P {setting}, or give each a folder of its own"


def _beside(ignored: tuple[Path, ...]) -> str:
    return f", only {len(ignored)} other files: {named(ignored)}" if ignored else ""


def _by_field(
    plate: Path,
    listings: dict[Path, Listing],
    targets: tuple[str, ...],
    plate_name: str,
    stain_z: int,
) -> tuple[dict[FieldKey, _Images], list[Problem]]:
    """The images of each field, and what is wrong with folders."""
    found: dict[FieldKey, _Images] = {}
    problems: list[Problem] = []
    for folder, listing in listings.items():
        magnification = parse_magnification(folder.name) if folder != plate else None
        if magnification is None:
            problems += [_untold(folder, len(listing.images))] if listing.images else []
            continue
        if listing.similar:
            problems.append(similar_problem(folder, listing.similar))
        for path, name in listing.images.items():
            if plate_name not in ("", name.plate):
                continue
            key = FieldKey(magnification, name.well, name.fov)
            one = found.setdefault(key, _Images(folder, name.plate))
            if name.channel == BRIGHTFIELD_CHANNEL:
                one.planes[name.z_plane].append(path)
            elif name.target in targets and (not stain_z or name.z_plane in (stain_z, None)):
                one.targets[name.target].append(path)
    return {key: images for key, images in found.items() if images.paths()}, problems


def _untold(folder: Path, n: int) -> Problem:
    return Problem(
        f"{folder.name}/",
        f"{n} images whose magnification cannot be told by the folder's name",
        "put them into a folder named 20x_images, 40x_images or 60x_images inside the plate, or "
        "move them out of it; where this is such a folder, the plate is the one above it",
    )


def _read_headers(paths: list[Path]) -> tuple[Headers, dict[Path, ImageError]]:
    """The headers of the images that can be read, and why the others cannot be."""
    headers: Headers = {}
    errors: dict[Path, ImageError] = {}
    for path in tqdm(paths, desc="scan", unit="file"):
        try:
            headers[path] = read_header(path)
        except ImageError as error:
            errors[path] = error
    return headers, errors


def _span(images: _Images, headers: Headers) -> range:
    """The numbers of a field's z-planes, as it seems: those of its stack, or from first to last."""
    if n_stacked := _n_stacked(images, headers):
        return range(1, n_stacked + 1)
    numbers = [z for z in images.planes if z is not None]
    return range(min(numbers), max(numbers) + 1) if numbers else range(0)


def _n_stacked(images: _Images, headers: Headers) -> int | None:
    """The number of pages of a field's stack; None when its planes are single, or unreadable.

    A field's one brightfield file is a stack when it is named so, or has several pages.
    """
    paths = images.of_kind(BRIGHTFIELD)
    if len(paths) != 1 or (header := headers.get(paths[0])) is None:
        return None
    return header.n_planes if header.n_planes > 1 or None in images.planes else None


def _dtypes(fields: Iterable[_Images], headers: Headers, kind: str) -> list[str]:
    """The dtypes of all images of one *kind*, brightfield or a target, that can be read."""
    paths = [path for one in fields for path in one.of_kind(kind)]
    return [headers[path].dtype for path in paths if path in headers]


def _most_frequent_span(spans: list[range]) -> range:
    """The most frequent of the fields' spans of z, and the longest of several."""
    counted = Counter(spans)
    default = range(1, N_Z_PLANES + 1)
    return max(counted, key=lambda one: (counted[one], len(one), -one.start), default=default)


def _most_frequent(values: list[T], default: T) -> T:
    """The most frequent value, and the largest of several that are equally frequent."""
    counted = Counter(values)
    return max(counted, key=lambda value: (counted[value], value), default=default)


def _problems(
    key: FieldKey,
    images: _Images,
    headers: Headers,
    errors: dict[Path, ImageError],
    usual: _Usual,
) -> list[Problem]:
    """Everything that is wrong with one field, apart from stains that it lacks.

    Images are compared with each other only when all can be read and no name is missing or doubled.
    """
    unreadable = [problem_of(key, errors[path]) for path in images.paths() if path in errors]
    wrong = _doubled(images) + _missing_planes(key, images, headers, usual.z_planes)
    if not unreadable and not wrong:
        wrong = _unlike(images, headers, usual)
    return unreadable + [Problem(str(key), found, remedy) for found, remedy in wrong]


def _doubled(images: _Images) -> Wrong:
    files = chain(images.planes.values(), images.targets.values())
    return [same_image(paths) for paths in files if len(paths) > 1]


def _missing_planes(key: FieldKey, images: _Images, headers: Headers, usual: range) -> Wrong:
    """Planes that a field lacks, or has beyond those that others have.

    Their order counts, so numbers without a gap may begin at another one.
    """
    paths = images.of_kind(BRIGHTFIELD)
    if len(paths) == 1 and paths[0] not in headers:
        return []  # it may be a stack of them all
    if (n_stacked := _n_stacked(images, headers)) is not None:
        if n_stacked == len(usual):
            return []
        found = f"{paths[0].name} has {n_stacked} z-planes, others {len(usual)}"
        return [(found, f"export it again with {len(usual)}, or move it elsewhere")]
    own = _span(images, headers)
    if images.planes.keys() == {*own} and len(own) == len(usual):
        return []
    wrong = []
    if missing := [z for z in usual if z not in images.planes]:
        found = f"lacks {', '.join(f'Z{z}' for z in missing)}"
        name = brightfield_name(key.well, key.fov, missing[0], images.plate)
        wrong.append((found, _add(str(name), images)))
    for z in sorted(images.planes.keys() - {*usual}, key=lambda z: z or 0):
        beyond = f"a plane beyond Z{usual[0]}…Z{usual[-1]}, which others have"
        what = "a stack beside single planes" if z is None else beyond
        wrong.append((f"{images.planes[z][0].name} is {what}", "move it elsewhere"))
    return wrong


def _missing_targets(key: FieldKey, images: _Images, targets: tuple[str, ...]) -> Wrong:
    wrong = []
    for target in targets:
        if target not in images.targets:
            name = target_name(key.well, key.fov, target, images.plate)
            found = f"has no {target} image, which others have"
            wrong.append((found, _add(str(name), images)))
    return wrong


def _add(name: str, images: _Images) -> str:
    return f"add {name} to {images.folder}, or move the field elsewhere"


def _unlike(images: _Images, headers: Headers, usual: _Usual) -> Wrong:
    """Images unlike the others.

    They have another size than the field's first image, another dtype than the plate's images, or
    several pages where one is due.
    """
    wrong = []
    first = images.of_kind(BRIGHTFIELD)[0]
    is_stack = _n_stacked(images, headers) is not None
    for kind in (BRIGHTFIELD, *usual.targets):
        for path in images.of_kind(kind):
            header, name = headers[path], path.name
            if header.n_planes > 1 and not (is_stack and kind == BRIGHTFIELD):
                found = f"{name} has {header.n_planes} pages"
                wrong.append((found, "export one plane to a file"))
            if header.shape != headers[first].shape:
                found = f"{name} is {header.shape}, but {first.name} is {headers[first].shape}"
                remedy = "all images of a field must have one size: export the field again"
                wrong.append((found, remedy))
            if header.dtype != usual.dtypes[kind]:
                found = f"{name} is {header.dtype}, others {usual.dtypes[kind]}"
                wrong.append((found, "export all images alike, in raw counts"))
    return wrong
