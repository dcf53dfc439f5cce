"""Two folders of images brought together: true stains and anyone's predictions of them, field by field."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from adipocyte.domain import SMALLEST_PX, FieldKey
from adipocyte.errors import ImageError, PlateError
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.plate.names import parse_magnification, parse_name
from adipocyte.plate.problems import Problem
from adipocyte.plate.tiff import Header, read_header, read_image

PREDICTION = "prediction"  # the way of images that somebody else painted

Listed = dict[FieldKey, dict[str, list[Path]]]


@dataclass(frozen=True)
class Pairs:
    """The `fields` that are whole in both folders, and the `problems` of all others."""

    fields: list[FieldPaths]
    problems: list[Problem] = field(default_factory=list)


def pair(truth: Path, prediction: Path, magnification: int = 0) -> Pairs:
    """Pair the images of two folders by magnification, well, field and channel, never by position.

    A folder holds `20x_images/`, `40x_images/` and/or `60x_images/`, or is one of them; or holds images of one *magnification* that its
    name does not tell. Both of the challenge's name forms are read, and brightfield is passed over. A field is whole when it has the same
    channels in both folders, each a one-page uint16 image of one size, and every channel that others of its magnification have.

    Raises PlateError when a folder is not there or has no stained image of the challenge's form, or no field is in both.
    """
    listed = {
        name: _listed(folder, name, magnification)
        for name, folder in (("truth", truth), ("prediction", prediction))
    }
    pairs = Pairs([])
    for key in tqdm(
        sorted(listed["truth"].keys() | listed["prediction"].keys()), desc="pair", unit="field"
    ):
        true, painted = listed["truth"].get(key, {}), listed["prediction"].get(key, {})
        found = list(_problems(key, true, painted))
        pairs.problems.extend(found)
        if not found:
            paths = {target: paths[0] for target, paths in true.items()}
            pairs.fields.append(
                FieldPaths(
                    key, paths, {PREDICTION: {target: painted[target][0] for target in paths}}
                )
            )
    return _alike(pairs)


def _alike(pairs: Pairs) -> Pairs:
    """Without the fields that lack a stain which others of their magnification have: the score would do without that stain in all."""
    stains: dict[int, set[str]] = defaultdict(set)
    for one in pairs.fields:
        stains[one.key.magnification].update(one.truth)
    found = Pairs([], list(pairs.problems))
    for one in pairs.fields:
        if missing := sorted(stains[one.key.magnification] - one.truth.keys()):
            has = f"{', '.join(missing)} is in neither folder, though other fields of {one.key.magnification}x have it"
            found.problems.append(
                Problem(str(one.key), has, "add it to both folders, or take the field out of both")
            )
        else:
            found.fields.append(one)
    return found


def _listed(folder: Path, name: str, magnification: int) -> Listed:
    """The stained images of a folder by field and target."""
    if not folder.is_dir():
        raise PlateError(f"there is no folder {folder}: give the {name} with -P {name}=<folder>")
    listed: Listed = defaultdict(lambda: defaultdict(list))
    for images in [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]:
        known = parse_magnification(images.name) or (magnification if images == folder else None)
        for path in sorted(images.iterdir()):
            try:
                image = parse_name(path.name)
            except PlateError:
                continue
            if image.target is None:
                continue
            if not known:
                needed = "put it into a folder named 20x_images, 40x_images or 60x_images, or give -P magnification=20, 40 or 60"
                raise PlateError(f"the magnification of {path} cannot be told: {needed}")
            listed[FieldKey(known, image.well, image.fov)][image.target].append(path)
    if not listed:
        example = "AssayPlate_Greiner_#655090_B03_T0001F001L01A01Z01C01.tif"
        raise PlateError(
            f"{folder} holds no stained image of the challenge's form: its files must be named like {example}"
        )
    return listed


def _problems(
    key: FieldKey, truth: dict[str, list[Path]], painted: dict[str, list[Path]]
) -> Iterator[Problem]:
    """All that keeps a field from being scored."""
    where = str(key)
    for has, lacks, name in ((truth, painted, "prediction"), (painted, truth, "truth")):
        if missing := sorted(has.keys() - lacks.keys()):
            file = has[missing[0]][0].name
            yield Problem(
                where,
                f"{', '.join(missing)} has no {name}",
                f"add {file} to the {name}, or take its counterpart out",
            )
    headers = {}
    for path in (path for paths in (*truth.values(), *painted.values()) for path in paths):
        try:
            headers[path] = read_header(path)
            if headers[path].n_planes == 1:
                read_image(path)  # damaged pixels would otherwise end the evaluation in its middle
        except ImageError as error:
            found, _, remedy = str(error).partition(": ")
            yield Problem(
                where, found, f"{remedy}; predictions: clip to 0…65535, round and save as uint16"
            )
    for paths in (*truth.values(), *painted.values()):
        if len(paths) > 1:
            yield Problem(
                where, f"{paths[0].name} and {paths[1].name} are the same image", "keep one"
            )
    yield from _unlike(where, headers)


def _unlike(where: str, headers: dict[Path, Header]) -> Iterator[Problem]:
    """Images that are no single uint16 plane, too small, or of another size than the field's first."""
    first = next(iter(headers), None)
    for path, header in headers.items():
        if header.n_planes > 1:
            yield Problem(where, f"{path} has {header.n_planes} pages", "save one plane to a file")
        if header.dtype != "uint16":
            yield Problem(
                where,
                f"{path} is {header.dtype}",
                "save raw counts as uint16: the features' thresholds are in them",
            )
        if header.shape != headers[first].shape:
            sizes = f"{path} is {header.shape[0]} x {header.shape[1]} pixels, {first} {headers[first].shape[0]} x {headers[first].shape[1]}"
            yield Problem(where, sizes, "all images of a field must have one size, in both folders")
    if first and min(headers[first].shape) < SMALLEST_PX:
        yield Problem(
            where,
            f"{first} is {headers[first].shape} pixels",
            f"a side must be at least {SMALLEST_PX}",
        )
