"""What a folder of painted images says of itself, in files beside the images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adipocyte.errors import PlateError
from adipocyte.system.files import read_json
from adipocyte.system.forms import require_form

# By which model and settings; what became of each field; what measurements of the images are worth.
PLATE_ORIGIN, PLATE_MANIFEST, GRADES = "stained.json", "manifest.json", "grades.json"
IMAGE_TABLE = "images.csv"  # the painted images of each field, for CellProfiler


@dataclass(frozen=True)
class Told:
    """What a `folder` of painted images tells: their raw `plate` and their `intensities`.

    `warnings` are what the painter had to say of each field, by its key as text, and `trusts`
    whether to believe it, as JSON, where that was asked for; `resampled` were painted in pixels of
    another objective; `grades` is the content of GRADES, None where the model had none.
    """

    folder: Path
    plate: Path
    intensities: str
    warnings: dict[str, list[str]]
    trusts: dict[str, Any]
    resampled: frozenset[str]
    grades: Any


def told_by(images: Path) -> Told | None:
    """What the folder *images* tells, or the one that it lies in; None: nobody says it is painted.

    Raises PlateError when a file of it holds something else.
    """
    for folder in (images, images.parent):
        if (folder / PLATE_ORIGIN).is_file():
            return _read(folder)
    return None


def _read(folder: Path) -> Told:
    name = PLATE_ORIGIN
    try:
        origin = read_json(folder / name)
        require_form(origin, {"plate": str, "intensities": str}, name)
        fields, grades = {}, None
        name = PLATE_MANIFEST
        if (folder / name).is_file():
            manifest = read_json(folder / name)
            require_form(manifest, {"fields": {...: {"warnings": [str]}}}, name)
            fields = manifest["fields"]
        trusts = {key: one["trust"] for key, one in fields.items() if "trust" in one}
        name = GRADES
        if (folder / name).is_file():
            grades = read_json(folder / name)
        warnings = {key: one["warnings"] for key, one in fields.items()}
        resampled = frozenset(key for key, one in fields.items() if one.get("resampled") is True)
        plate, way = Path(origin["plate"]), origin["intensities"]
        return Told(folder, plate, way, warnings, trusts, resampled, grades)
    except (OSError, ValueError) as error:
        raise damaged(folder / name, error) from error


def damaged(path: Path, error: Exception) -> PlateError:
    """What to say of one of the files that does not hold what it should."""
    return PlateError(
        f"{path} is damaged ({error})",
        "stain the plate again into another folder, or remove the file and measure without it",
    )
