"""True stains and anyone's predictions of them, two folders paired field by field."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from adipocyte.domain import SMALLEST_PX, FieldKey
from adipocyte.errors import ImageError, PlateError
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.plate.listing import list_folders, list_images, named, same_image
from adipocyte.plate.names import parse_magnification
from adipocyte.plate.problems import Problem
from adipocyte.plate.tiff import Header, read_header, read_image

PREDICTION = "prediction"  # the way of images that somebody else painted
_AS_UINT16 = "predictions: clip to 0…65535, round and save as uint16"

Files = dict[str, list[Path]]  # of a field, by target
Listed = dict[FieldKey, Files]


@dataclass(frozen=True)
class Pairs:
    """The `fields` that are whole in both folders, and the `problems` of all others."""

    fields: list[FieldPaths]
    problems: list[Problem] = field(default_factory=list)


def pair(truth: Path, prediction: Path, magnification: int = 0) -> Pairs:
    """Pair the images of two folders by magnification, well, field and channel, never by position.

    A folder holds `20x_images/`, `40x_images/` and/or `60x_images/`, or is one of them; or it holds
    images of one *magnification*, which its name does not state. Both of the challenge's forms of
    names are read; brightfield is ignored. A field is whole when it has the same channels in both
    folders, each a one-page uint16 image of one size, and every channel that other fields of its
    magnification have.

    Raises PlateError when a folder does not exist or has no stained image of the challenge's form.
    """
    true, painted = (
        _listed(truth, "truth", magnification),
        _listed(prediction, "prediction", magnification),
    )
    pairs = Pairs([])
    for key in tqdm(sorted(true.keys() | painted.keys()), desc="pair", unit="field"):
        files = true.get(key, {}), painted.get(key, {})
        found = list(_problems(key, *files))
        pairs.problems.extend(found)
        if not found:
            first, second = ({target: paths[0] for target, paths in of.items()} for of in files)
            pairs.fields.append(FieldPaths(key, first, {PREDICTION: second}))
    return _alike(pairs)


def _alike(pairs: Pairs) -> Pairs:
    """Leave out fields that lack a stain which others of their magnification have.

    Otherwise the score would be of other fields for that stain than for the rest.
    """
    stains: dict[int, set[str]] = defaultdict(set)
    for one in pairs.fields:
        stains[one.key.magnification].update(one.truth)
    found = Pairs([], list(pairs.problems))
    for one in pairs.fields:
        m = one.key.magnification
        if missing := sorted(stains[m] - one.truth.keys()):
            lacks = (
                f"{', '.join(missing)} is in neither folder, though other fields of {m}x have it"
            )
            remedy = "add it to both folders, or take the field out of both"
            found.problems.append(Problem(str(one.key), lacks, remedy))
        else:
            found.fields.append(one)
    return found


def _listed(folder: Path, name: str, magnification: int) -> Listed:
    """The stained images of a folder by field and target."""
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
                    "put it into a folder named 20x_images, 40x_images or 60x_images, "
                    "or give -P magnification=20, 40 or 60",
                )
            listed[FieldKey(known, image.well, image.fov)][image.target].append(path)
    if not listed:
        example = "AssayPlate_Greiner_#655090_B03_T0001F001L01A01Z01C01.tif"
        raise PlateError(
            f"{folder} holds no stained image of the challenge's form"
            + (f", only {named(others)}" if others else ""),
            f"its files must be named like {example}",
        )
    return listed


def _problems(key: FieldKey, truth: Files, painted: Files) -> Iterator[Problem]:
    """Everything that keeps a field from being scored."""
    where = str(key)
    for has, lacks, name in ((truth, painted, "prediction"), (painted, truth, "truth")):
        if missing := sorted(has.keys() - lacks.keys()):
            file = has[missing[0]][0].name
            remedy = f"add {file} to the {name}, or take its counterpart out"
            yield Problem(where, f"{', '.join(missing)} has no {name}", remedy)
    headers = {}
    for path in (path for paths in (*truth.values(), *painted.values()) for path in paths):
        try:
            headers[path] = read_header(path)
            if headers[path].n_planes == 1:
                read_image(path)  # otherwise damaged pixels would end the evaluation halfway
        except ImageError as error:
            yield Problem(where, error.found, f"{error.remedy}; {_AS_UINT16}")
    for paths in (*truth.values(), *painted.values()):
        if len(paths) > 1:
            yield Problem(where, *same_image(paths))
    if headers:
        yield from _unlike(where, headers)


def _unlike(where: str, headers: dict[Path, Header]) -> Iterator[Problem]:
    """Images that are not one uint16 plane, are too small, or differ in size from the first."""
    first, of_first = next(iter(headers.items()))
    for path, header in headers.items():
        if header.n_planes > 1:
            yield Problem(where, f"{path} has {header.n_planes} pages", "save one plane to a file")
        if header.dtype != "uint16":
            remedy = "save raw counts as uint16, because the features' thresholds are in counts"
            yield Problem(where, f"{path} is {header.dtype}", remedy)
        if header.shape != of_first.shape:
            sizes = f"{path} is {_size(header)} pixels, {first} {_size(of_first)}"
            yield Problem(where, sizes, "all images of a field must have one size, in both folders")
    if min(of_first.shape) < SMALLEST_PX:
        found = f"{first} is {of_first.shape} pixels"
        yield Problem(where, found, f"a side must be at least {SMALLEST_PX}")


def _size(header: Header) -> str:
    return f"{header.shape[0]} x {header.shape[1]}"
