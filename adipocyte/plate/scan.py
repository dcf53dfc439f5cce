"""What a raw plate holds: its whole fields, and what is wrong with the others.

No pixel is read for it.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from statistics import median
from typing import TypedDict, TypeVar, Unpack

from tqdm import tqdm

from adipocyte.domain import BRIGHTFIELD, N_Z_PLANES, TARGETS, UM_PER_PX, FieldKey
from adipocyte.errors import ImageError, PlateError
from adipocyte.plate.choice import Choice, Understood, choose, sized
from adipocyte.plate.fields import FieldFiles
from adipocyte.plate.layouts.auto import AUTO, list_plate
from adipocyte.plate.layouts.challenge import CHALLENGE
from adipocyte.plate.layouts.listed import Image, LeftAlone
from adipocyte.plate.listing import doubled, named
from adipocyte.plate.names import EXAMPLE, brightfield_name, target_name
from adipocyte.plate.planes import holder, read_header
from adipocyte.plate.problems import Problem, problem_of
from adipocyte.plate.tiff import Header

T = TypeVar("T")
Headers = dict[Path, Header]  # of the images that can be read
Wrong = list[tuple[str, str]]  # what was found in a field, and the remedy

_READERS = 8
_FIRST = 100  # images by which it is seen whether the disk is waited for
_STEP_TOLERANCE = 0.1  # a stage does not come to rest where it should to the last digit
_AT_ONCE = 1000

_LAYOUT = (
    "a plate is a folder with 20x_images/, 40x_images/, … in it, which hold the challenge's TIFFs"
)


class Meant(TypedDict, total=False):
    """What may be said of a plate beside its folder; `find_images` has the defaults."""

    plate_name: str
    stain_z: int
    layout: str
    channels: str
    magnification: int
    um_per_px: float


@dataclass(frozen=True)
class Plate:
    """A scanned plate: its whole `fields` in order, and the `problems` of all others.

    `partial` fields have problems too, but lack nothing except some of the stains. `n_z_planes` is
    what most fields have; a field with another number is not whole. `z_steps_um` is how far their
    planes lie apart, by magnification, where the plate tells it. `left_alone` is what belongs to
    no field, by what it is.
    """

    fields: tuple[FieldFiles, ...]
    partial: tuple[FieldFiles, ...]
    problems: tuple[Problem, ...]
    n_z_planes: int
    targets: tuple[str, ...]
    z_steps_um: dict[int, float]
    left_alone: LeftAlone
    understood: Understood

    @property
    def ignored(self) -> list[Path]:
        """The files that belong to no field, in order."""
        return _in_order(self.left_alone)

    @property
    def n_ignored(self) -> int:
        """How many files belong to no field."""
        return len(self.ignored)


@dataclass
class _Images:
    """The images of one field by what they show, each with every file that shows it.

    `planes` is by z-plane (None: a stack, by its name), `targets` by target; `absent`, by kind, has
    those whose files are missing. `is_usual`: files are named as the challenge's.
    """

    folder: Path
    plate: str
    is_usual: bool
    planes: dict[int | None, list[Image]] = field(default_factory=lambda: defaultdict(list))
    targets: dict[str, list[Image]] = field(default_factory=lambda: defaultdict(list))
    absent: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    def of_kind(self, kind: str) -> list[Path]:
        """All files of brightfield, or of a target."""
        images = chain(*self.planes.values()) if kind == BRIGHTFIELD else self.targets.get(kind, [])
        return [image.path for image in images]

    def paths(self) -> list[Path]:
        images = chain(*self.planes.values(), *self.targets.values())
        return [image.path for image in images]


@dataclass(frozen=True)
class _Usual:
    """What the fields of a plate have in common.

    `z_planes` are the numbers of their planes in names; those of a stack count from 1. `z_steps_um`
    is how far planes lie apart, by magnification, where it is told. `dtypes` is by kind:
    brightfield or a target.
    """

    z_planes: range
    z_steps_um: dict[int, float]
    targets: tuple[str, ...]
    dtypes: dict[str, str]

    @property
    def n_z_planes(self) -> int:
        return len(self.z_planes)


@dataclass(frozen=True)
class Found:
    """The images of each field of a plate, of which none was opened, and `problems` so far."""

    choice: Choice
    images: dict[FieldKey, _Images]
    problems: list[Problem]


def scan_plate(folder: Path, targets: tuple[str, ...] = TARGETS, **meant: Unpack[Meant]) -> Plate:
    """Look through a raw plate. Reads the header of every brightfield image and of *targets*.

    What else may be *meant* and what is raised: see `find_images`. All else that is wrong is listed
    in `Plate.problems`.
    """
    seen = find_images(folder, targets, **meant)
    paths = list(chain(*(one.paths() for one in seen.images.values())))
    headers, errors = _read_headers(paths)
    usual, told = _usual(seen.images, headers, targets), _understood(seen, headers)
    fields, partial = [], []
    problems = seen.problems
    for key, one in sorted(seen.images.items()):
        wrong = _problems(key, one, headers, errors, usual)
        lacks = _missing_targets(key, one, usual.targets)
        problems += wrong + [Problem(str(key), found, remedy) for found, remedy in lacks]
        has_any = any(target in one.targets for target in usual.targets) or not usual.targets
        if not wrong and has_any:
            (partial if lacks else fields).append(_field_files(key, one, headers, usual, told))
    return Plate(
        tuple(fields),
        tuple(partial),
        tuple(problems),
        usual.n_z_planes,
        usual.targets,
        usual.z_steps_um,
        seen.choice.others,
        told,
    )


def find_images(
    folder: Path,
    targets: tuple[str, ...] = TARGETS,
    *,
    plate_name: str = "",
    stain_z: int = 0,
    layout: str = AUTO,
    channels: str = "",
    magnification: int = 0,
    um_per_px: float = 0,
) -> Found:
    """Find the images of a raw plate, brightfield and *targets*, and open none.

    *layout* is how the folder is laid out (see `layouts`), *channels* what its channels show (see
    `channels`; "": as the plate tells), *magnification* and *um_per_px* those of a plate which does
    not tell them.
    Of several plates in the folder *plate_name* tells which is meant, as their files' names begin;
    of stains at several z *stain_z* tells which, by the number in the names, if it is not 0.

    Raises PlateError when there is no such folder, no image in it, or images of several plates and
    none is named; or as `list_plate` and `choose` do.
    """
    if not folder.is_dir():
        raise PlateError(
            f"there is no plate at {folder}",
            f"{_LAYOUT}. Give it with -P plate=<folder>, or make one: mlflow run . -e simulate",
        )
    try:
        listed = list_plate(folder, layout)
    except OSError as error:
        raise PlateError(
            f"{error.filename} cannot be looked into ({error.strerror})",
            "give this user the right to read the plate",
        ) from error
    choice = choose(
        listed,
        targets,
        plate_name=plate_name,
        channels=channels,
        magnification=magnification,
        um_per_px=um_per_px,
    )
    images = _by_field(choice, targets, stain_z)
    problems = [*listed.problems, *_untold(choice.images)]
    if not any(one.paths() for one in images.values()):
        raise _nothing(folder, choice, problems)
    return Found(choice, images, problems)


def _in_order(others: LeftAlone) -> list[Path]:
    return sorted(chain(*others.values()), key=lambda path: (path.parent, path))


def _nothing(folder: Path, choice: Choice, problems: list[Problem]) -> PlateError:
    """What to say of a folder without images."""
    told = "".join(f"; {one.where} {one.found}: {one.remedy}" for one in problems)
    others = _in_order(choice.others)
    beside = f", only {len(others)} other files: {named(others)}" if others else ""
    if choice.understood.layout != CHALLENGE:
        return PlateError(
            f"{folder} holds no image that is asked for, in its layout {choice.understood.layout}"
            + beside,
            f"see that its channels are named rightly (-P channels=) and its files are there{told}",
        )
    return PlateError(
        f"{folder} holds no image of the challenge's form{beside}",
        f"{_LAYOUT}, named like {EXAMPLE}{told}. docs/data.md has the "
        "layouts of instruments, and -P layout= for names of your own",
    )


def _usual(by_key: dict[FieldKey, _Images], headers: Headers, targets: tuple[str, ...]) -> _Usual:
    """What most fields have; a target is the plate's when at least half of the fields have it."""
    fields = list(by_key.values())
    steps: dict[int, list[float]] = defaultdict(list)
    for key, one in by_key.items():
        steps[key.magnification] += _z_step_um(one)
    spans = [span for one in fields if (span := _span(one, headers))]
    n_having = Counter(chain(*(one.targets for one in fields)))
    kinds = (BRIGHTFIELD, *targets)
    return _Usual(
        z_planes=_most_frequent_span(spans),
        z_steps_um={one: _most_frequent(some, default=0) for one, some in steps.items() if some},
        targets=tuple(target for target in targets if 2 * n_having[target] >= len(fields)),
        dtypes={kind: _most_frequent(_dtypes(fields, headers, kind), default="") for kind in kinds},
    )


def _field_files(
    key: FieldKey, images: _Images, headers: Headers, usual: _Usual, told: Understood
) -> FieldFiles:
    """The files of a field, with the stains that it has."""
    planes = tuple(images.planes[z][0].path for z in sorted(images.planes, key=lambda z: z or 0))
    stains = {t: images.targets[t][0].path for t in usual.targets if t in images.targets}
    shape = headers[planes[0]].shape
    by_layout = images.planes[min(images.planes, key=lambda z: z or 0)][0].um_per_px
    um_per_px = (
        by_layout
        or headers[planes[0]].um_per_px
        or told.um_per_px.get(key.magnification)
        or UM_PER_PX[key.magnification]
    )
    return FieldFiles(key, images.plate, planes, stains, usual.n_z_planes, shape, um_per_px)


def _understood(seen: Found, headers: Headers) -> Understood:
    """What was understood, with the size of pixels as the images tell it."""
    sizes = (
        (key.magnification, headers[path].um_per_px, path)
        for key, images in seen.images.items()
        for path in images.of_kind(BRIGHTFIELD)
        if path in headers
    )
    return sized(seen.choice.understood, sizes)


def _by_field(choice: Choice, targets: tuple[str, ...], stain_z: int) -> dict[FieldKey, _Images]:
    """The images of each field that is told of."""
    found: dict[FieldKey, _Images] = {}
    roles, is_usual = choice.understood.roles, choice.understood.is_usual
    for images, is_absent in ((choice.images, False), (choice.absent, True)):
        for image in images:
            if image.magnification is None:
                continue
            key = FieldKey(image.magnification, image.well, image.fov, image.time)
            one = found.setdefault(key, _Images(image.folder, image.plate, is_usual))
            kind = roles[image.channel]
            is_stain = kind in targets and (not stain_z or image.z_plane in (stain_z, None))
            if is_absent and (is_stain or kind == BRIGHTFIELD):
                one.absent[kind].append(image.path)
            elif kind == BRIGHTFIELD:
                one.planes[image.z_plane].append(image)
            elif is_stain:
                one.targets[kind].append(image)
    return {key: images for key, images in found.items() if images.paths() or images.absent}


def _untold(images: Iterable[Image]) -> list[Problem]:
    """A problem for each folder whose images do not tell their magnification."""
    counts = Counter(image.folder for image in images if image.magnification is None)
    return [
        Problem(
            f"{folder.name}/",
            f"{n} images whose magnification cannot be told by the folder's name",
            "put them into a folder named 20x_images, say, inside the plate, "
            "or move them out of it; where this is such a folder, the plate is the one above it; "
            "or give it with -P magnification=20, say",
        )
        for folder, n in counts.items()
    ]


def _read_headers(paths: list[Path]) -> tuple[Headers, dict[Path, ImageError]]:
    """The headers of the images that can be read, and why the others cannot be."""
    held: dict[Path, list[Path]] = defaultdict(list)  # the planes of an array have one header
    for path in paths:
        held[holder(path)].append(path)
    headers: Headers = {}
    errors: dict[Path, ImageError] = {}
    with tqdm(total=len(held), desc="scan", unit="file") as bar:
        firsts = [alike[0] for alike in held.values()]
        for alike, told in zip(held.values(), _told_by(firsts), strict=True):
            if isinstance(told, Header):
                headers |= dict.fromkeys(alike, told)
            else:
                errors |= dict.fromkeys(alike, told)
            bar.update()
    return headers, errors


def _told_by(paths: list[Path]) -> Iterator[Header | ImageError]:
    """The header of each image, or why it has none, in order.

    Where the disk or server is waited for longer than this process computes, threads wait for
    several answers at once; else they would only wait for each other. A part is given to them at a
    time, because each image that waits for its turn takes memory.
    """
    began_s, computed_s = time.perf_counter(), time.thread_time()
    first = [_header(path) for path in paths[:_FIRST]]
    computed_s = time.thread_time() - computed_s
    is_waited_for = time.perf_counter() - began_s > 2 * computed_s
    yield from first
    if not is_waited_for:
        yield from map(_header, paths[_FIRST:])
        return
    with ThreadPoolExecutor(_READERS) as readers:
        for start in range(_FIRST, len(paths), _AT_ONCE):
            yield from readers.map(_header, paths[start : start + _AT_ONCE])


def _header(path: Path) -> Header | ImageError:
    try:
        return read_header(path)
    except ImageError as error:
        return error


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
        wrong = _unlike(images, headers, usual) + _unlike_steps(key, images, usual)
    return unreadable + [Problem(str(key), found, remedy) for found, remedy in wrong]


def _z_step_um(images: _Images) -> list[float]:
    """How far a field's planes lie apart, in one number; none where their places are not told."""
    planes = [images.planes[z][0].z_um for z in sorted(images.planes, key=lambda z: z or 0)]
    places = [place for place in planes if place is not None]
    steps = [abs(after - before) for before, after in pairwise(places)]
    return [round(median(steps), 3)] if steps and len(places) == len(planes) else []


def _unlike_steps(key: FieldKey, images: _Images, usual: _Usual) -> Wrong:
    """Planes that lie farther apart than those of other fields, or closer."""
    due = usual.z_steps_um.get(key.magnification, 0)
    return [
        (f"its z-planes lie {step:g} µm apart, others {due:g} µm", "move it elsewhere")
        for step in _z_step_um(images)
        if abs(step - due) > _STEP_TOLERANCE * max(step, due)
    ]


def _doubled(images: _Images) -> Wrong:
    planes = [_same(some, None) for some in images.planes.values() if len(some) > 1]
    stains = [_same(some, target) for target, some in images.targets.items() if len(some) > 1]
    return planes + stains


def _same(images: list[Image], target: str | None) -> tuple[str, str]:
    paths = [image.path for image in images]
    return doubled(paths, [image.z_plane or 0 for image in images], target)


def _missing_planes(key: FieldKey, images: _Images, headers: Headers, usual: range) -> Wrong:
    """Planes that a field lacks, or has beyond those that others have.

    Their order counts, so numbers without a gap may begin at another one.
    """
    if absent := images.absent.get(BRIGHTFIELD):
        found = f"{len(absent)} files that the instrument recorded are missing: {named(absent)}"
        return [(found, f"copy them to {images.folder}, or move the field elsewhere")]
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
        name = brightfield_name(key, missing[0], images.plate)
        wrong.append((found, _add(str(name), images)))
    for z in sorted(images.planes.keys() - {*usual}, key=lambda z: z or 0):
        beyond = f"a plane beyond Z{usual[0]}…Z{usual[-1]}, which others have"
        what = "a stack beside single planes" if z is None else beyond
        wrong.append((f"{images.planes[z][0].path.name} is {what}", "move it elsewhere"))
    return wrong


def _missing_targets(key: FieldKey, images: _Images, targets: tuple[str, ...]) -> Wrong:
    wrong = []
    for target in dict.fromkeys((*targets, *images.absent)):
        if target not in (BRIGHTFIELD, *images.targets):
            name = target_name(key, target, images.plate)
            found = f"has no {target} image, which others have"
            if absent := images.absent.get(target):
                found = f"has no {target} image, though the instrument recorded {named(absent)}"
            wrong.append((found, _add(str(name), images)))
    return wrong


def _add(name: str, images: _Images) -> str:
    if not images.is_usual:
        return "export the field again, whole, or move it elsewhere"
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
