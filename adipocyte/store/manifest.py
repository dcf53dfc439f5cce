"""The manifest of a prepared store. It is written last: a store is whole when it has one."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adipocyte.domain import FieldKey
from adipocyte.errors import StoreError
from adipocyte.imaging.limits import Limits
from adipocyte.plate.problems import Problem
from adipocyte.store.alignments import (
    Alignments,
    Registrations,
    parse_alignments,
    parse_registrations,
)

STORE_FORMAT = 2
STORE_MANIFEST = "manifest.json"
_NEXT = "prepare one with: mlflow run . -e preprocess -P plate=<folder of the raw plate>"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a store came from: the folder of the raw `plate`, a name for its `files`, and the `settings` of its preparation."""

    plate: str
    files: str
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FieldEntry:
    """One field: its `shape` (Y, X) in pixels, figures of `quality` (see `imaging.quality`), a sentence for each that is out of limits."""

    shape: tuple[int, int]
    quality: dict[str, float]
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StoreManifest:
    """What a store holds and how it came about.

    `scalings` maps magnification ("20") and channel ("brightfield", "A1", "A2", "A3") to [mean, std], and `medians` to the median, in
    counts, over the training wells; `limits` maps magnification and figure of quality to [low, high]. `split` lists the wells of
    "train", "validation" and "test". `alignments` says how fluorescence lies against brightfield, `registrations` how that was found,
    where it was measured. `problems` are the plate's fields that were left out; `n_ignored` files belong to no field. `digest` names
    all of it.
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
    format: int = STORE_FORMAT


def write_manifest(folder: Path, manifest: StoreManifest) -> None:
    """Write *manifest* into *folder*, whole or not at all."""
    fields = [asdict(key) | asdict(entry) for key, entry in manifest.fields.items()]
    content = asdict(replace(manifest, fields={})) | {"fields": fields}
    partial = folder / f".{STORE_MANIFEST}.partial"
    partial.write_text(json.dumps(content, indent=1))
    os.replace(partial, folder / STORE_MANIFEST)


def read_manifest(folder: Path) -> StoreManifest:
    """Read the manifest of the store in *folder*. Raises StoreError when there is no whole store, or one of another format than this
    code's."""
    if not (folder / STORE_MANIFEST).is_file():
        state = "not whole (its preprocessing did not finish)" if folder.is_dir() else "not there"
        raise StoreError(f"the prepared store {folder} is {state}; {_NEXT}")
    try:
        content = json.loads((folder / STORE_MANIFEST).read_text())
        found = content["format"]
        if found == STORE_FORMAT:
            return _manifest(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{folder / STORE_MANIFEST} is damaged ({error!r}); remove {folder} and {_NEXT}"
        ) from error
    raise StoreError(
        f"the prepared store {folder} has format {found}, this code reads format {STORE_FORMAT}; {_NEXT}"
    )


def _manifest(content: dict[str, Any]) -> StoreManifest:
    fields = {
        FieldKey(one["magnification"], one["well"], one["fov"]): FieldEntry(
            shape=tuple(one["shape"]), quality=one["quality"], flags=tuple(one["flags"])
        )
        for one in content["fields"]
    }
    return StoreManifest(
        **content
        | {
            "origin": Origin(**content["origin"]),
            "targets": tuple(content["targets"]),
            "split": {part: tuple(wells) for part, wells in content["split"].items()},
            "fields": fields,
            "alignments": parse_alignments(content["alignments"]),
            "registrations": parse_registrations(content["registrations"]),
            "problems": tuple(Problem(**problem) for problem in content["problems"]),
        }
    )
