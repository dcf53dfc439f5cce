"""The axes that a TIFF's description gives its pages, as OME-XML or in ImageJ's form.

Nothing that a description names is opened, and only its beginning is read.
"""

from typing import NoReturn
from xml.parsers import expat

from tifffile import TiffPage

_OME_AXES = {"SizeT": "time", "SizeZ": "depth", "SizeC": "channel"}
_IMAGEJ_AXES = {"frames": "time", "slices": "depth", "channels": "channel"}
_MAX_XML_CHARACTERS = (
    2_000_000  # of XML that are read: the first image stands behind the plate's wells
)
_MAX_IMAGEJ_CHARACTERS = 10_000  # ImageJ writes some lines
_MAX_DEPTH = 50  # elements in each other: an image's pixels are the third
_MAX_DIGITS = 9


class _Found(Exception):
    """The first image's pixels."""

    def __init__(self, attributes: dict[str, str]) -> None:
        super().__init__()
        self.attributes = attributes


def long_axes(page: TiffPage) -> list[tuple[str, int]]:
    """The axes of more than one page, by the first *page*: their names and lengths.

    Raises ValueError, which names it, for XML that defines entities.
    """
    sizes = _ome_sizes(page.description) if page.is_ome else {}
    if page.imagej_description and not sizes:
        sizes = _imagej_sizes(page.imagej_description)
    return [(axis, n) for axis, n in sizes.items() if n > 1]


def _ome_sizes(description: str) -> dict[str, int]:
    """The length of each axis of the first image, {} where the XML does not tell."""
    parser = expat.ParserCreate("utf-8")
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH or name.rpartition(":")[2] == "Pixels":
            raise _Found(attributes)

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = _refuse_entities
    try:
        parser.Parse(description[:_MAX_XML_CHARACTERS].encode(errors="replace"))
    except _Found as found:
        return _sizes(found.attributes, _OME_AXES)
    except expat.ExpatError:
        pass  # as if there were no XML
    return {}


def _refuse_entities(*_: object) -> NoReturn:
    raise ValueError("a document type (DOCTYPE)")


def _imagej_sizes(description: str) -> dict[str, int]:
    lines = description[:_MAX_IMAGEJ_CHARACTERS].splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return _sizes(values, _IMAGEJ_AXES)


def _sizes(values: dict[str, str], axes: dict[str, str]) -> dict[str, int]:
    """The numbers among *values* that are the length of an axis."""
    return {
        axis: int(values[key])
        for key, axis in axes.items()
        if values.get(key, "").isdecimal() and len(values[key]) <= _MAX_DIGITS
    }
