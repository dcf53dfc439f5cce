"""The manifest of a prepared store. It is written last, so a store that has one is whole."""

import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from adipocyte.domain import (
    MAGNIFICATIONS,
    MOST_MAGNIFICATION,
    MOST_UM_PER_PX,
    ROWS,
    TARGETS,
    UM_PER_PX,
    FieldKey,
)
from adipocyte.errors import StoreError
from adipocyte.imaging.limits import Limits
from adipocyte.plate.problems import Problem
from adipocyte.store.alignments import (
    Alignments,
    Registrations,
    parse_alignments,
    parse_registrations,
)
from adipocyte.system.files import read_json, write_json
from adipocyte.system.forms import NUMBER, require_form

STORE_FORMAT = 2
_ANY_OBJECTIVE = 3  # that of stores with objectives that older code does not know
STORE_MANIFEST = "manifest.json"
_WELL = re.compile(rf"({'|'.join(ROWS)})[0-9]{{1,2}}")
_MOST_PX = 1_000_000  # of a side
_MOST_TIMES = 10_000
_FIELD = {
    "magnification": int,
    "well": str,
    "fov": int,
    "shape": (int, int),
    "quality": {...: NUMBER},
    "flags": [str],
}
_FORM = {
    "digest": str,
    "origin": {"plate": str, "files": str, "settings": {"flagged": str, "normalisation": str}},
    "n_z_planes": int,
    "targets": [str],
    "split": {"train": [str], "validation": [str], "test": [str]},
    "fields": [_FIELD],
    "scalings": {...: {...: (NUMBER, NUMBER)}},
    "medians": {...: {...: NUMBER}},
    "limits": {...: {...: (NUMBER | None, NUMBER | None)}},
    "alignments": {...: {...: {...: NUMBER}}},
    "registrations": {...: {...: {}}},
    "problems": [{...: str}],
    "n_ignored": int,
}
_NEXT = "prepare one with mlflow run . -e preprocess -P plate=<folder of the raw plate>"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a store came from.

    `plate` is the folder of the raw plate, `files` a name for its files, `settings` are those of
    the preparation.
    """

    plate: str
    files: str
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FieldEntry:
    """One field: its `shape` (Y, X) in pixels, its `quality` (see `imaging.quality`), its `flags`.

    A flag is a sentence about a measure of quality beyond its limits. `lacks` are the store's
    targets that this field has no image of; a field without A1 has no nuclei mask either.
    `scalings` maps its channels ("brightfield", "A1", …) to (mean, std) in counts under
    normalisation=field, else it is empty. `um_per_px` is the size of its pixels, where it is not
    that of its magnification.
    """

    shape: tuple[int, int]
    quality: dict[str, float]
    flags: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    scalings: dict[str, tuple[float, float]] = field(default_factory=dict)
    um_per_px: float | None = None


@dataclass(frozen=True, kw_only=True)
class StoreManifest:
    """What a store holds and how it was made.

    `scalings` maps magnification ("20") and channel ("brightfield", "A1", "A2", "A3") to
    (mean, std), under normalisation=field those of a typical field, and `medians` to the median, in
    counts, over the training wells. `limits` maps
    magnification and measure of quality to [low, high]. `split` lists the wells of "train",
    "validation" and "test". `alignments` says how fluorescence lies against brightfield;
    `registrations` says how that was measured, where it was. `problems` are what was left out of
    the plate; `n_ignored` files belong to no field, `ignored` names some of them. `um_per_px` is
    the size of pixels by magnification, where it is not the usual one. `digest` names the pixels
    and all of this.
    """

    digest: str
    origin: Origin
    n_z_planes: int
    targets: tuple[str, ...]
    split: dict[str, tuple[str, ...]]
    fields: dict[FieldKey, FieldEntry]
    scalings: dict[str, dict[str, tuple[float, float]]]
    medians: dict[str, dict[str, float]]
    limits: dict[str, Limits]
    alignments: Alignments
    registrations: Registrations
    problems: tuple[Problem, ...]
    n_ignored: int
    ignored: str = ""
    um_per_px: dict[str, float] = field(default_factory=dict)
    format: int = STORE_FORMAT


def write_manifest(folder: Path, manifest: StoreManifest) -> None:
    """Write *manifest* into *folder*, whole or not at all."""
    fields = [
        key.columns(with_time=key.time != 1) | asdict(entry)
        for key, entry in manifest.fields.items()
    ]
    content = asdict(replace(manifest, fields={})) | {"fields": fields}
    if manifest.um_per_px or {key.magnification for key in manifest.fields} - {*MAGNIFICATIONS}:
        content["format"] = _ANY_OBJECTIVE
    else:
        del content["um_per_px"]
    write_json(folder / STORE_MANIFEST, content)


def read_manifest(folder: Path) -> StoreManifest:
    """Read the manifest of the store in *folder*.

    Raises StoreError when there is no whole store, or one of another format than this code's.
    """
    path = folder / STORE_MANIFEST
    if not path.is_file():
        state = "not whole (its preprocessing did not finish)" if folder.is_dir() else "not there"
        raise StoreError(f"the prepared store {folder} is {state}", _NEXT)
    try:
        content = read_json(path)
        require_form(content, {"format": int}, "the store's")
        if content["format"] in (STORE_FORMAT, _ANY_OBJECTIVE):
            require_form(content, _FORM, "the store's")
            return _parse(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path} is damaged ({error!r})", f"remove {folder} and {_NEXT}"
        ) from error
    raise StoreError(
        f"the prepared store {folder} has format {content['format']}, "
        f"but this code reads formats {STORE_FORMAT} and {_ANY_OBJECTIVE}",
        _NEXT,
    )


def _scalings(one: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """The scalings of a field's own channels; older stores have none."""
    scalings = one.get("scalings", {})
    require_form(scalings, {...: (NUMBER, NUMBER)}, "a field's scalings")
    return scalings


def _parse(content: dict[str, Any]) -> StoreManifest:
    if not set(content["targets"]) <= set(TARGETS):
        raise ValueError("a target is unknown")
    sizes = content.get("um_per_px", {})
    require_form(sizes, {...: NUMBER}, "the sizes of pixels")
    own = [size for one in content["fields"] if (size := one.get("um_per_px")) is not None]
    require_form(own, [NUMBER], "the fields' sizes of pixels")
    if not all(0 < size <= MOST_UM_PER_PX for size in (*sizes.values(), *own)):
        raise ValueError("pixels have an impossible size")
    known: set[object] = {*UM_PER_PX, *sizes}
    for one in content["fields"]:
        if not 0 < one["magnification"] <= MOST_MAGNIFICATION or not _WELL.fullmatch(one["well"]):
            raise ValueError("a field lies at no magnification or well that can be")
        if not {one["magnification"], str(one["magnification"])} & known:
            raise ValueError("nothing tells how large the pixels of a field are")
        if min(one["fov"], *one["shape"]) < 0 or max(one["shape"]) > _MOST_PX:
            raise ValueError("a field has an impossible number or size")
        require_form(one.get("time", 1), int, "a field's time")
        if not 0 <= one.get("time", 1) <= _MOST_TIMES:
            raise ValueError("a field has an impossible time")
        if not set(one.get("lacks", ())) < set(content["targets"]):
            raise ValueError("a field lacks all stains, or one that the store has not")
    fields = {
        FieldKey(one["magnification"], one["well"], one["fov"], one.get("time", 1)): FieldEntry(
            shape=tuple(one["shape"]),
            quality=one["quality"],
            flags=tuple(one["flags"]),
            lacks=tuple(one.get("lacks", ())),  # older stores have whole fields alone
            scalings={name: (mean, std) for name, (mean, std) in _scalings(one).items()},
            um_per_px=one.get("um_per_px"),
        )
        for one in content["fields"]
    }
    parsed: dict[str, Any] = {
        **content,
        "origin": Origin(**content["origin"]),
        "targets": tuple(content["targets"]),
        "split": {part: tuple(wells) for part, wells in content["split"].items()},
        "fields": fields,
        "alignments": parse_alignments(content["alignments"]),
        "registrations": parse_registrations(content["registrations"]),
        "problems": tuple(Problem(**problem) for problem in content["problems"]),
    }
    return StoreManifest(**parsed)
