"""Which layout a plate's folder has."""

from collections.abc import Callable
from pathlib import Path

from adipocyte.errors import PlateError
from adipocyte.plate.layouts.challenge import CHALLENGE, has_folders, list_challenge
from adipocyte.plate.layouts.imagexpress import IMAGEXPRESS, has_marks, list_imagexpress
from adipocyte.plate.layouts.listed import Listed
from adipocyte.plate.layouts.ome_zarr import OME_ZARR, has_plates, list_ome_zarr
from adipocyte.plate.layouts.pattern import list_pattern
from adipocyte.plate.layouts.phenix import PHENIX, has_index, list_phenix
from adipocyte.plate.layouts.yokogawa import YOKOGAWA, has_records, list_yokogawa

AUTO = "auto"
_LAYOUTS: dict[str, Callable[[Path], Listed]] = {
    CHALLENGE: list_challenge,
    YOKOGAWA: list_yokogawa,
    IMAGEXPRESS: list_imagexpress,
    PHENIX: list_phenix,
    OME_ZARR: list_ome_zarr,
}


def list_plate(plate: Path, layout: str) -> Listed:
    """List a plate's folder in its *layout*: a layout's name, a pattern, or "auto".

    Raises OSError; PlateError when a folder has two layouts, or metadata that cannot be used;
    ConfigError when *layout* is none.
    """
    if layout in _LAYOUTS:
        return _LAYOUTS[layout](plate)
    if layout != AUTO:
        return list_pattern(plate, layout)
    marks = {
        YOKOGAWA: has_records,
        IMAGEXPRESS: has_marks,
        PHENIX: has_index,
        OME_ZARR: has_plates,
    }
    found = [name for name, is_in in marks.items() if is_in(plate)]
    if found and has_folders(plate):
        found = [CHALLENGE, *found]
    if len(found) > 1:
        raise PlateError(
            f"{plate} has the layouts {' and '.join(found)}",
            f"take one with -P layout={found[0]}, or give each a folder of its own",
        )
    if found:
        return _LAYOUTS[found[0]](plate)
    listed = list_challenge(plate)
    if not listed.images and (exported := list_imagexpress(plate)).images:
        return exported  # without the folders and the description that mark it
    return listed
