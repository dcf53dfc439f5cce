"""Whether the values of a page are counts as the camera wrote them."""

import re

from tifffile import TiffPage

from adipocyte.errors import ImageError
from adipocyte.plate.tiff_axes import imagej_values

_PHOTOMETRIC, _BLACK_IS_ZERO = 262, 1
_GDAL, _MD_GEL = 42112, 33445
_MAX_GDAL_BYTES = 100_000
_GDAL_ITEM = re.compile(rb'role="(offset|scale)"[^>]*>([^<]*)<')
_GDAL_PLAIN = {b"offset": 0.0, b"scale": 1.0}
_STRAIGHT, _NONE = "0", "20"  # ImageJ's calibration functions


def check_counts(page: TiffPage, name: str) -> None:
    """Refuse values that mean something else than counts.

    Raises ImageError, on *name*, when white is zero, for palettes, masks and other colours, and
    when the file says that counts follow from its values by a function.
    """
    photometric = page.tags.valueof(_PHOTOMETRIC, _BLACK_IS_ZERO)
    if photometric != _BLACK_IS_ZERO:
        raise ImageError(
            f"{name} has values of another meaning than grey counts "
            f"({getattr(photometric, 'name', photometric)})",
            "zero must be black (MINISBLACK); save it as grey counts, not inverted and without "
            "a palette",
        )
    if function := _function(page):
        raise ImageError(
            f"{name} has calibrated values ({function})",
            "it must have raw camera counts; save it without the calibration",
        )


def _function(page: TiffPage) -> str:
    """What makes other numbers of a page's values; "" for nothing."""
    values = imagej_values(page)
    kind = values.get("cf", _NONE)
    coefficients = (values.get("c0", "0"), values.get("c1", "1"))
    is_identity = kind == _STRAIGHT and _numbers(*coefficients) == [0, 1]
    if kind != _NONE and not is_identity:
        return f"ImageJ: cf={kind[:9]}, c0={coefficients[0][:20]}, c1={coefficients[1][:20]}"
    if _MD_GEL in page.tags:
        return "Molecular Dynamics"
    if _GDAL in page.tags:
        return _gdal_function(page)
    return ""


def _gdal_function(page: TiffPage) -> str:
    tag, file = page.tags[_GDAL], page.parent.filehandle
    file.seek(tag.valueoffset)
    items = _GDAL_ITEM.findall(file.read(min(tag.count, _MAX_GDAL_BYTES)))
    changed = [role for role, value in items if _numbers(value) != [_GDAL_PLAIN[role]]]
    return f"GDAL: {changed[0].decode()}" if changed else ""


def _numbers(*texts: str | bytes) -> list[float]:
    """The numbers that *texts* are; none where one is no number."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        return []
