"""The formats that a stained plate may have: which files a field becomes, and when it is there."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from adipocyte.delivery.batch import tiffs
from adipocyte.delivery.batch.output import Output
from adipocyte.errors import ConfigError
from adipocyte.plate.fields import FieldFiles
from adipocyte.staining.stainer import Stained

TIFF, OME_ZARR = "tiff", "ome-zarr"


@dataclass(frozen=True)
class Format:
    """How painted fields become files.

    `names` are those of a field's files, by its targets and whether it has intervals; `files` are
    these names with their contents, in the order in which they are written, of what was painted and
    of the planes, (Z, Y, X) in counts, that it was painted from. `is_there` says whether a file in
    an output is a whole one, by its name. `described` are the files that tell of all painted
    fields.
    """

    names: Callable[[FieldFiles, Sequence[str], bool], list[str]]
    files: Callable[[FieldFiles, Stained, NDArray[np.uint16]], Iterable[tuple[str, bytes]]]
    is_there: Callable[[Output, str, FieldFiles], bool]
    described: Callable[[Iterable[FieldFiles], Sequence[str]], dict[str, bytes]]


def format_named(name: str, *, brightfield: bool = False) -> Format:
    """The format TIFF or OME_ZARR, which also holds *brightfield* if asked to.

    Raises ConfigError when its packages are not installed, and for TIFFs with brightfield.
    """
    if name == TIFF and brightfield:
        raise ConfigError(
            "brightfield is copied beside the stains in OME-Zarr alone, not as TIFFs",
            "add -P format=ome-zarr, or leave brightfield out: the raw plate holds it",
        )
    if name == TIFF:
        return Format(tiffs.names, _tiffs, _is_image, tiffs.described)
    try:  # TIFFs must not need its packages
        from adipocyte.delivery.batch import zarr_plate
    except ImportError as error:
        raise ConfigError(
            f"OME-Zarr takes packages that are not here ({error})",
            "pip install zarr ome-zarr, or -P format=tiff",
        ) from error
    return Format(
        partial(zarr_plate.names, brightfield=brightfield),
        partial(zarr_plate.files, brightfield=brightfield),
        _is_held,
        zarr_plate.described,
    )


def _tiffs(
    field: FieldFiles, stained: Stained, planes: NDArray[np.uint16]
) -> Iterable[tuple[str, bytes]]:
    return tiffs.files(field, stained).items()


def _is_image(out: Output, name: str, field: FieldFiles) -> bool:
    return out.holds_image(name, field.shape)


def _is_held(out: Output, name: str, field: FieldFiles) -> bool:
    return out.holds(name)
