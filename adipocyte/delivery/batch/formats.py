"""The formats that a stained plate may have: which files a field becomes, and when it is there."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from adipocyte.delivery.batch import tiffs
from adipocyte.delivery.batch.output import Output
from adipocyte.errors import ConfigError
from adipocyte.plate.fields import FieldFiles
from adipocyte.staining.stainer import Stained

TIFF, OME_ZARR = "tiff", "ome-zarr"


@dataclass(frozen=True)
class Format:
    """How painted fields become files.

    `names` are those of a field's files, by its targets and whether it has intervals; `files` is
    their content, in the order in which they are written. `is_there` says whether a file in an
    output is a whole one, by its name. `described` are the files that tell of all painted fields.
    """

    names: Callable[[FieldFiles, Sequence[str], bool], list[str]]
    files: Callable[[FieldFiles, Stained], dict[str, bytes]]
    is_there: Callable[[Output, str, FieldFiles], bool]
    described: Callable[[Iterable[FieldFiles], Sequence[str]], dict[str, bytes]]


def format_named(name: str) -> Format:
    """The format TIFF or OME_ZARR. Raises ConfigError when its packages are not installed."""
    if name == TIFF:
        return Format(tiffs.names, tiffs.files, _is_image, tiffs.described)
    try:  # TIFFs must not need its packages
        from adipocyte.delivery.batch import zarr_plate
    except ImportError as error:
        raise ConfigError(
            f"OME-Zarr takes packages that are not here ({error})",
            "pip install zarr ome-zarr, or -P format=tiff",
        ) from error
    return Format(zarr_plate.names, zarr_plate.files, _is_held, zarr_plate.described)


def _is_image(out: Output, name: str, field: FieldFiles) -> bool:
    return out.holds_image(name, field.shape)


def _is_held(out: Output, name: str, field: FieldFiles) -> bool:
    return out.holds(name)
