"""What the OME-XML of a TIFF says of the pages in this file.

The XML of a set of files describes all of them. Only what it says of the file it stands in counts:
nothing that it names is opened.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat

from adipocyte.errors import ImageError

_MAX_CHARACTERS = 10_000_000  # of XML that are read: that of a whole plate has some millions
_MAX_ELEMENTS = 300_000  # each takes a microsecond or two
_MAX_DEPTH = 50  # elements in each other: a file's UUID is the fifth
_MAX_DIGITS = 9
_BEGINNING = 20_000  # characters within which the first image is described
_TYPES = ("uint8", "uint16")
_UM = {"nm": 1e-3, "µm": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,20})?(E-?[0-9]{1,2})?", re.ASCII | re.IGNORECASE)
_AXES = {"image": "position", "T": "time", "Z": "depth", "C": "channel"}

Place = dict[str, int]  # of a plane: which image, T, Z and C, counted from 0


@dataclass
class _Image:
    """An image of the XML: its planes along Z, C and T, the fastest axis first; its pixels' type.

    `is_told` is False where the XML gives no number of planes, `um_per_px` None where it does not
    say how large pixels are.
    """

    sizes: dict[str, int]
    is_told: bool
    kind: str
    um_per_px: float | None
    channels: set[str] = field(default_factory=set)  # their names


@dataclass
class _Data:
    """Pages of one file that follow each other, and the first plane that they hold.

    The file is told by its UUID, or by its name where it has none; "" is this one.
    """

    image: int
    first: Place
    ifd: int
    n_planes: int | None  # None: as many as there are pages
    uuid: str = ""
    file_name: str = ""

    @property
    def file(self) -> str:
        return self.uuid or self.file_name


class _End(Exception):
    """The XML is read no further."""


class _Reader:
    """Reads the XML element by element, and keeps images, data and the file's own UUID."""

    def __init__(self) -> None:
        self.uuid = ""
        self.images: list[_Image] = []
        self.data: list[_Data] = []
        self.is_whole = True
        self._depth = self._n_elements = 0
        self._is_in_uuid = False

    def read(self, description: str) -> None:
        """Raises ValueError, which names it, for XML that defines entities."""
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = _refuse_entities
        self.is_whole = len(description) <= _MAX_CHARACTERS
        try:
            parser.Parse(description[:_MAX_CHARACTERS].encode(errors="replace"))
        except _End:
            pass
        except expat.ExpatError:
            self.is_whole = False

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._n_elements += 1
        if self._depth > _MAX_DEPTH or self._n_elements > _MAX_ELEMENTS:
            self.is_whole = False
            raise _End
        match tag.rpartition(":")[2]:
            case "OME":
                self.uuid = attributes.get("UUID", "")
            case "Pixels":
                self.images.append(_image(attributes))
            case "Channel" if self.images and attributes.get("Name"):
                self.images[-1].channels.add(attributes["Name"])
            case "TiffData" if self.images:
                self.data.append(_data(attributes, len(self.images) - 1))
            case "UUID" if self.data:
                self._is_in_uuid = True
                self.data[-1].file_name = attributes.get("FileName", "")

    def _end(self, _: str) -> None:
        self._depth -= 1
        self._is_in_uuid = False

    def _text(self, text: str) -> None:
        if self._is_in_uuid:
            self.data[-1].uuid += text.strip()


def _refuse_entities(*_: object) -> NoReturn:
    raise ValueError("a document type (DOCTYPE)")


def _image(attributes: dict[str, str]) -> _Image:
    order = attributes.get("DimensionOrder", "")[2:]
    told = {axis: _number(attributes, f"Size{axis}") for axis in "ZCT"}
    sizes = {axis: told[axis] or 1 for axis in (order if sorted(order) == [*"CTZ"] else "ZCT")}
    kind = attributes.get("Type", _TYPES[0])
    return _Image(sizes, any(told.values()), kind, _um_per_px(attributes))


def _um_per_px(attributes: dict[str, str]) -> float | None:
    side, um = attributes.get("PhysicalSizeX", ""), _UM.get(attributes.get("PhysicalSizeXUnit", ""))
    if um is None and "PhysicalSizeXUnit" not in attributes:
        um = 1.0  # the schema's default
    return float(side) * um if um and _DECIMAL.fullmatch(side) else None


def _data(attributes: dict[str, str], image: int) -> _Data:
    first = {axis: _number(attributes, f"First{axis}") or 0 for axis in "TZC"}
    ifd = _number(attributes, "IFD")
    n_planes = _number(attributes, "PlaneCount") or _number(attributes, "NumPlanes")
    if n_planes is None and ifd is not None:
        n_planes = 1
    return _Data(image, first, ifd or 0, n_planes)


def _number(attributes: dict[str, str], key: str) -> int | None:
    value = attributes.get(key, "")
    return int(value) if value.isdecimal() and len(value) <= _MAX_DIGITS else None


def ome_um_per_px(description: str) -> float | None:
    """The side of the first image's pixels in µm, by OME-XML; None where it does not tell."""
    xml = _Reader()
    try:
        xml.read(description[:_BEGINNING])
    except ValueError:
        return None
    return xml.images[0].um_per_px if xml.images else None


def ome_order(
    description: str, pages: list[int], n_pages: int, name: str
) -> tuple[list[tuple[str, int]], list[int]]:
    """Along which axes OME-XML puts the *pages* of a file of *n_pages*, and their order.

    Returns the axes of more than one plane, by name and length, and the places in *pages* of the
    planes, one behind the other; nothing of either where the XML does not tell.

    A channel that has a name is a "colour". tifffile, for one, calls planes channels where it is
    not told what they are.

    Raises ImageError, on *name*, when the XML defines entities, or tells of other pages than there
    are or of pixels that are no counts.
    """
    xml = _Reader()
    try:
        xml.read(description)
    except ValueError as error:
        raise ImageError(
            f"{name} has a description with {error}", "save it again without it"
        ) from error
    if not xml.is_whole and xml.images and len(pages) > 1:
        raise ImageError(
            f"{name} has OME-XML that is damaged or too long to be read",
            "save the z-planes of each field by themselves, as a plain TIFF",
        )
    if not xml.is_whole or not any(image.is_told for image in xml.images):
        return [], []
    places = _own_places(xml, pages, n_pages, name)
    _check_types({xml.images[place["image"]].kind for place in places}, name)
    lengths = {key: len({place[key] for place in places}) for key in _AXES}
    long = [key for key in _AXES if lengths[key] > 1]
    is_named = len(xml.images[places[0]["image"]].channels) > 1
    names = _AXES | {"C": "colour"} if is_named else _AXES
    order = sorted(range(len(places)), key=lambda at: [places[at][key] for key in long])
    return [(names[key], lengths[key]) for key in long], order


def _check_types(kinds: set[str], name: str) -> None:
    if other := kinds - {*_TYPES}:
        raise ImageError(
            f"{name} has pixels of type {min(other)[:20]}, by its OME-XML",
            "it must have raw camera counts, uint8 or uint16; do not rescale them",
        )


def _own_places(xml: _Reader, pages: list[int], n_pages: int, name: str) -> list[Place]:
    """Where each page belongs. A file that does not tell its own UUID may be any of the set."""
    data = xml.data or [_Data(i, dict.fromkeys("TZC", 0), 0, None) for i in range(len(xml.images))]
    files: dict[str, list[_Data]] = defaultdict(list)
    for one in data:
        files["" if one.uuid and one.uuid == xml.uuid else one.file].append(one)
    own = [files[""]] if "" in files else list(files.values())
    told = [_places(file, xml.images, n_pages) for file in own]
    found = [places for places in told if _are_of(places, pages, n_pages)]
    if len({str(_relative(places)) for places in found}) == 1:
        return [place for ifd, place in found[0] if ifd in pages]
    if found:
        raise ImageError(
            f"{name} has OME-XML of several files, and does not tell which one it is",
            "save its z-planes by themselves, in a file of their own",
        )
    numbers = " or ".join(map(str, sorted({len(places) for places in told})[:3]))
    raise ImageError(
        f"{name} has {n_pages} pages, but its OME-XML tells of {numbers} planes in it",
        "if it should have more pages, it is cut short: copy it again; else save its z-planes "
        "again without the XML",
    )


def _are_of(places: list[tuple[int, Place]], pages: list[int], n_pages: int) -> bool:
    """Whether each page has a place of its own, and no other page has one but reduced copies."""
    of_pages = [(ifd, place) for ifd, place in places if ifd in pages or ifd >= n_pages]
    n_different = len({str(place) for _, place in of_pages})
    return [ifd for ifd, _ in of_pages] == pages and n_different == len(pages)


def _relative(places: list[tuple[int, Place]]) -> list[Place]:
    """Places as seen from the first, so that one channel or field is as good as another."""
    least = {key: min(place[key] for _, place in places) for key in _AXES}
    return [{key: place[key] - least[key] for key in _AXES} for _, place in places]


def _places(data: list[_Data], images: list[_Image], n_pages: int) -> list[tuple[int, Place]]:
    """The page and the place of each plane, by page; no more than one beyond the pages."""
    places: list[tuple[int, Place]] = []
    for one in data:
        sizes = images[one.image].sizes
        index = _index(one.first, sizes)
        n_planes = one.n_planes
        if n_planes is None:  # of this file alone, all that there are; of one in a set, its pages
            n_planes = n_pages - one.ifd if one.file else math.prod(sizes.values()) - index
        for i in range(min(n_planes, n_pages + 1 - len(places))):
            places.append((one.ifd + i, {"image": one.image, **_place(index + i, sizes)}))
    return sorted(places, key=lambda place: place[0])


def _index(place: Place, sizes: dict[str, int]) -> int:
    """The number of a plane in an image, counted from 0."""
    index = 0
    for axis, n in reversed(sizes.items()):
        index = index * n + place[axis]
    return index


def _place(index: int, sizes: dict[str, int]) -> Place:
    place = {}
    for axis, n in sizes.items():
        index, place[axis] = divmod(index, n)
    return place
