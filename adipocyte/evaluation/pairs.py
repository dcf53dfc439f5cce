"""True stains and anyone's predictions of them, two folders paired field by field."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from adipocyte.domain import FieldKey
from adipocyte.errors import ImageError
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.plate.choice import check_one_objective
from adipocyte.plate.listing import same_image
from adipocyte.plate.planes import image_name, read_header, read_image
from adipocyte.plate.problems import Problem
from adipocyte.plate.stains import Files, list_stains, um_per_px_of, unlike
from adipocyte.plate.tiff import Header

PREDICTION = "prediction"  # the way of images that somebody else painted
_AS_UINT16 = "predictions: clip to 0…65535, round and save as uint16"


@dataclass(frozen=True)
class Pairs:
    """The `fields` that are whole in both folders, and the `problems` of all others."""

    fields: list[FieldPaths]
    problems: list[Problem] = field(default_factory=list)


def pair(truth: Path, prediction: Path, magnification: int = 0, um_per_px: float = 0) -> Pairs:
    """Pair the images of two folders by field and channel, never by position.

    A folder holds `20x_images/`, `40x_images/`, …, or is one of them; or it holds images of one
    *magnification*, which its name does not state. Pixels are of *um_per_px*; 0: as the images
    tell, or as is usual. Both of the challenge's forms of names are read; brightfield is ignored. A
    field is whole when it has the same channels in both folders, each a one-page uint16 image of
    one size, and every channel that other fields of its magnification have.

    Raises PlateError for one size of several magnifications, when a folder does not exist or has no
    stained image of the challenge's form.
    """
    true, painted = list_stains({"truth": truth, "prediction": prediction}, magnification)
    check_one_objective((key.magnification for key in true.files), um_per_px)
    pairs = Pairs([], [*true.problems, *painted.problems])
    for key in tqdm(sorted(true.files.keys() | painted.files.keys()), desc="pair", unit="field"):
        files = true.files.get(key, {}), painted.files.get(key, {})
        headers: dict[Path, Header] = {}
        found = list(_problems(key, *files, headers))
        pairs.problems.extend(found)
        if not found:
            first, second = ({target: paths[0] for target, paths in of.items()} for of in files)
            told = true.um_per_px.get(key) or painted.um_per_px.get(key, 0)
            size = um_per_px_of(key, headers.values(), um_per_px or told)
            pairs.fields.append(FieldPaths(key, first, {PREDICTION: second}, size))
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


def _problems(
    key: FieldKey, truth: Files, painted: Files, headers: dict[Path, Header]
) -> Iterator[Problem]:
    """Everything that keeps a field from being scored. Fills in the *headers* of its images."""
    where = str(key)
    for has, lacks, name in ((truth, painted, "prediction"), (painted, truth, "truth")):
        if missing := sorted(has.keys() - lacks.keys()):
            file = image_name(has[missing[0]][0])
            remedy = f"add {file} to the {name}, or take its counterpart out"
            yield Problem(where, f"{', '.join(missing)} has no {name}", remedy)
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
        yield from unlike(where, headers, "in both folders")
