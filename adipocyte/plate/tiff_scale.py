"""How large a TIFF says its pixels are, in the words of ImageJ or OME.

A resolution in inches or centimetres alone says nothing: programs fill in that of a screen.
"""

import math
import re

from tifffile import TiffPage

from adipocyte.domain import MOST_UM_PER_PX
from adipocyte.plate.tiff_axes import imagej_values
from adipocyte.plate.tiff_ome import ome_um_per_px

_MICRONS = re.compile(r"um|[µμ]m|\\u00b5m|microns?|micrometers?", re.IGNORECASE)


def told_um_per_px(page: TiffPage) -> float | None:
    """The side of a page's pixels in µm; None where it tells none, or an impossible one."""
    found = ome_um_per_px(page.description) if page.is_ome else _imagej(page)
    return found if found is not None and 0 < found <= MOST_UM_PER_PX else None


def _imagej(page: TiffPage) -> float | None:
    """Pixels per unit, the unit in words."""
    if not _MICRONS.fullmatch(imagej_values(page).get("unit", "")):
        return None
    match page.tags.valueof("XResolution"):
        case (int(px), int(units)) if px > 0 and units > 0:
            return units / px
        case int() | float() as px_per_um if math.isfinite(px_per_um) and px_per_um > 0:
            return 1 / px_per_um
    return None
