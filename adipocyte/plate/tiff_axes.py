"""Which planes a TIFF says it holds, in whatever form its maker wrote that down.

Nothing that a description names is opened, and only its beginning is read.
"""

import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from tifffile import TiffPage

from adipocyte.errors import ImageError
from adipocyte.plate.tiff_ome import ome_order

_IMAGEJ_AXES = {"frames": "time", "slices": "depth", "channels": "channel"}
_LETTERS = {"T": "time", "Z": "depth", "C": "channel", "P": "position", "M": "tile"}
_OLYMPUS_AXES = {"Time": "time", "Z": "depth", "Band": "colour"}
_LSM_AXES = ((16, "depth"), (24, "time"), (264, "position"), (268, "tile"))  # at which byte
_FLUOVIEW_AXES = {"Z": "depth", "T": "time", "TIME": "time", "CH": "colour", "WAVELENGTH": "colour"}
_MAX_CHARACTERS = 10_000  # of a description that is no XML: ImageJ and tifffile write some lines
_MAX_DIGITS = 9
_SHAPE = re.compile(r'shape"?\s*[:=]\s*[\[(]([\d,\s]+)[\])]')
_SHAPE_AXES = re.compile(r'"axes":\s*"([A-Z]*)"')
_DIMENSION = re.compile(r"\[Dimension\]([^\[]*)")
_METAMORPH_TABLES = (33629, 33630)  # UIC2 and UIC3 have an entry for each plane
_OLYMPUS, _FLUOVIEW, _LSM, _NIH = 33471, 34361, 34412, 43314
_SIZES = {1: 1, 2: 1, 7: 1, 3: 2, 4: 4}  # bytes of a value, by its type
_COLOURS = ("composite", "color")  # ImageJ's modes for channels that are no planes
# Files of these kinds order their pages by rules of their own.
_OTHERS = {
    "is_scanimage": "ScanImage",
    "is_ndpi": "a Hamamatsu slide scanner",
    "is_svs": "an Aperio slide scanner",
    "is_scn": "a Leica slide scanner",
    "is_qpi": "a PerkinElmer slide scanner",
    "is_bif": "a Ventana slide scanner",
    "is_avs": "an Argos slide scanner",
    "is_philips": "a Philips slide scanner",
    "is_indica": "an Indica slide scanner",
    "is_eer": "an electron counter",
}

Axes = list[tuple[str, int]]


@dataclass(frozen=True)
class Told:
    """The planes that a TIFF tells of, in words of its `source`.

    `axes` are those of more than one plane, by name and length. `order` is the places of the pages
    in z order, where they may lie otherwise. `is_behind` says that such files keep planes behind
    their one page, and `is_exact` that they have a page for each plane else.
    """

    source: str
    axes: Axes
    order: tuple[int, ...] = ()
    is_behind: bool = False
    is_exact: bool = True

    @property
    def n_planes(self) -> int:
        return math.prod(n for _, n in self.axes)


def told_by(pages: list[TiffPage], n_pages: int, name: str) -> Told | None:
    """What a file of *n_pages* tells of its *pages*, which are all but reduced copies.

    Returns None where it tells nothing. Raises ImageError, on *name*, for what cannot be z-planes.
    """
    page = pages[0]
    if page.is_ome:
        axes, order = ome_order(page.description, [p.index for p in pages], n_pages, name)
        if axes or order:
            return Told("OME-XML", axes, tuple(order))
    for tell in (_metamorph, _shaped, _imagej, _nih, _lsm, _fluoview, _olympus):
        if told := tell(page):
            return told
    if len(pages) > 1:
        _refuse_others(page, name)
    return None


def _refuse_others(page: TiffPage, name: str) -> None:
    for kind, maker in _OTHERS.items():
        if getattr(page, kind):
            raise ImageError(
                f"{name} has several pages, ordered as {maker} does it",
                "save its z-planes as a plain TIFF or OME-TIFF",
            )


def imagej_values(page: TiffPage) -> dict[str, str]:
    """The keys and values of ImageJ's description; {} where there is none."""
    lines = (page.imagej_description or "")[:_MAX_CHARACTERS].splitlines()
    pairs = [line.split("=", 1) for line in lines if "=" in line]
    return {key.strip(): value.strip() for key, value in pairs}


def _metamorph(page: TiffPage) -> Told | None:
    numbers = {page.tags[code].count for code in _METAMORPH_TABLES if code in page.tags}
    if not numbers:
        return None
    return Told("MetaMorph's tables", _axes([("plane", max(numbers))]), is_behind=True)


def _shaped(page: TiffPage) -> Told | None:
    """tifffile's own description: the lengths of all axes, sometimes their letters."""
    text = (page.shaped_description or "")[:_MAX_CHARACTERS]
    found = _SHAPE.search(text)
    if not found:
        return None
    shape = [_number(one.strip()) or 0 for one in found[1].split(",")]
    letters = _SHAPE_AXES.search(text)
    named = letters[1] if letters and len(letters[1]) == len(shape) else "?" * len(shape)
    long = [(letter, n) for letter, n in zip(named, shape, strict=True) if n != 1]
    within = [n for n in page.shape if n != 1]
    n_before = len(long) - len(within)
    if n_before < 0 or [n for _, n in long[n_before:]] != within:
        return None  # of another image
    axes = [(_LETTERS.get(letter, "axis"), n) for letter, n in long[:n_before]]
    return Told("tifffile's description", _axes(axes), is_behind=True)


def _imagej(page: TiffPage) -> Told | None:
    values = imagej_values(page)
    if not values:
        return None
    axes = _axes((axis, _number(values.get(key, ""))) for key, axis in _IMAGEJ_AXES.items())
    if not axes:
        axes = _axes([("image", _number(values.get("images", "")))])
    if values.get("mode") in _COLOURS:
        axes = [("colour" if axis == "channel" else axis, n) for axis, n in axes]
    return Told("ImageJ's description", axes, is_behind=True, is_exact=False)


def _nih(page: TiffPage) -> Told | None:
    header = page.tags.valueof(_NIH)
    if not isinstance(header, dict):
        return None
    axes = _axes([("depth", int(header["nSlices"]))])
    return Told("NIH Image's header", axes, is_behind=True, is_exact=False)


def _lsm(page: TiffPage) -> Told | None:
    """Zeiss' own table; channels are samples of a page."""
    table = _bytes(page, _LSM)
    if len(table) < _LSM_AXES[1][0] + 4:
        return None
    found = [
        (a, *struct.unpack_from("<i", table, at)) for at, a in _LSM_AXES if at < len(table) - 3
    ]
    return Told("Zeiss' table", _axes(found))


def _fluoview(page: TiffPage) -> Told | None:
    header = page.tags.valueof(_FLUOVIEW)
    if not isinstance(header, dict):
        return None
    lengths = {str(one[0]).upper(): int(one[1]) for one in header["Dimensions"] if one[0]}
    named = [(_FLUOVIEW_AXES.get(a, "axis"), n) for a, n in lengths.items() if a not in ("X", "Y")]
    return Told("FluoView's header", _axes(named))


def _olympus(page: TiffPage) -> Told | None:
    text = _bytes(page, _OLYMPUS).decode("latin-1")
    if not (found := _DIMENSION.search(text)):
        return None
    lines = [line.split("=", 1) for line in found[1].splitlines() if "=" in line]
    lengths = [(_OLYMPUS_AXES.get(key.strip(), "axis"), _number(n.strip())) for key, n in lines]
    return Told("Olympus' table", _axes(lengths))


def _bytes(page: TiffPage, code: int) -> bytes:
    """The beginning of a tag's value as it stands in the file.

    tifffile's readers of these tags allocate what the tags ask for.
    """
    if code not in page.tags:
        return b""
    tag, file = page.tags[code], page.parent.filehandle
    file.seek(tag.valueoffset)
    return file.read(min(tag.count * _SIZES.get(tag.dtype, 0), _MAX_CHARACTERS))


def _axes(lengths: Iterable[tuple[str, int | None]]) -> Axes:
    """The axes of more than one plane."""
    return [(axis, n) for axis, n in lengths if n and n > 1]


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else None
