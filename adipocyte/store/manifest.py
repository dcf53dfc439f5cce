"""The manifest of a prepared store. It is written last: a store is whole when it has one."""

import json
import os
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from adipocyte.errors import StoreError
from adipocyte.plate.reader import FieldKey

FORMAT = 1
_NAME = "manifest.json"
_NEXT = "prepare one with: mlflow run . -e preprocess -P plate=<folder of the raw plate>"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store holds and how it came about.

    `fields` maps each field to its (Y, X) shape in pixels. `scalings` maps magnification ("20") and channel ("brightfield", "A1",
    "A2", "A3") to [mean, std], and `medians` to the median, in counts, over the training wells. `split` lists the wells of
    "train", "validation" and "test". `settings` and `source` tell what it was made with and from; `digest` names all of it.
    """

    digest: str
    source: dict[str, str]
    settings: dict[str, Any]
    n_z_planes: int
    targets: tuple[str, ...]
    split: dict[str, tuple[str, ...]]
    fields: dict[FieldKey, tuple[int, int]]
    scalings: dict[str, dict[str, tuple[float, float]]]
    medians: dict[str, dict[str, float]]
    format: int = FORMAT


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write *manifest* into *folder*, whole or not at all."""
    content = vars(manifest) | {"fields": [[*astuple(key), *shape] for key, shape in manifest.fields.items()]}
    partial = folder / f".{_NAME}.partial"
    partial.write_text(json.dumps(content, indent=1))
    os.replace(partial, folder / _NAME)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the store in *folder*. Raises StoreError when there is no whole store, or a newer one than this code knows."""
    if not (folder / _NAME).is_file():
        state = "not whole (its preprocessing did not finish)" if folder.is_dir() else "not there"
        raise StoreError(f"the prepared store {folder} is {state}; {_NEXT}")
    try:
        content = json.loads((folder / _NAME).read_text())
        found = content["format"]
        if found == FORMAT:
            content["fields"] = {FieldKey(magnification, well, fov): (y, x) for magnification, well, fov, y, x in content["fields"]}
            content["targets"] = tuple(content["targets"])
            content["split"] = {part: tuple(wells) for part, wells in content["split"].items()}
            return Manifest(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{folder / _NAME} is damaged ({error!r}); remove {folder} and {_NEXT}") from error
    raise StoreError(f"the prepared store {folder} has format {found}, this code reads format {FORMAT}; {_NEXT}")
