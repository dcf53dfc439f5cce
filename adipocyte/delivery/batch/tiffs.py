"""A stained plate as TIFFs under the challenge's names, and the table of them for CellProfiler."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from adipocyte.domain import TIMEPOINT, has_times
from adipocyte.plate.fields import FieldFiles, interval_names, stained_name
from adipocyte.plate.stained import IMAGE_TABLE
from adipocyte.plate.tiff import encode_image
from adipocyte.staining.stainer import Stained


def names(field: FieldFiles, targets: Sequence[str], with_intervals: bool) -> list[str]:
    """The names of all images of a field."""
    found = []
    for target in targets:
        found.append(stained_name(field, target))
        found += interval_names(field, target) if with_intervals else ()
    return found


def files(field: FieldFiles, stained: Stained) -> dict[str, bytes]:
    """A painted field as TIFFs."""
    images = {stained_name(field, target): image for target, image in stained.images.items()}
    for target, bounds in stained.intervals.items():
        images |= dict(zip(interval_names(field, target), bounds, strict=True))
    return {name: encode_image(image, field.um_per_px) for name, image in images.items()}


def described(fields: Iterable[FieldFiles], targets: Sequence[str]) -> dict[str, bytes]:
    """The file beside the images of *fields* that says which they are, for CellProfiler.

    Its columns are those that the module LoadData reads
    (https://github.com/CellProfiler/CellProfiler, cellprofiler/modules/loaddata.py): a row for each
    field, and for each of *targets* the name of its image and its folder. A folder that is relative
    is looked for in LoadData's "Base image location", so a plate may be moved.
    """
    text = io.StringIO()
    fields = list(fields)
    with_time = has_times(field.key for field in fields)
    images = [f"Image_{part}_{target}" for target in targets for part in ("FileName", "PathName")]
    metadata = [f"Metadata_{name}" for name in ("Plate", "Magnification", "Well", "Site")]
    metadata += [TIMEPOINT] if with_time else []
    writer = csv.DictWriter(text, [*images, *metadata], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row(field, targets, with_time) for field in fields)
    return {IMAGE_TABLE: text.getvalue().encode()}


def _row(field: FieldFiles, targets: Sequence[str], with_time: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "Metadata_Plate": field.plate,
        "Metadata_Magnification": field.key.magnification,
        "Metadata_Well": field.key.well,
        "Metadata_Site": field.key.fov,
    }
    row |= {TIMEPOINT: field.key.time} if with_time else {}
    for target in targets:
        folder, _, name = stained_name(field, target).rpartition("/")
        row |= {f"Image_FileName_{target}": name, f"Image_PathName_{target}": folder}
    return row
