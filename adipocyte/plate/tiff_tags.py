"""The directories of a TIFF, walked before tifffile sees them.

tifffile reads the values of many tags while it opens a file, whatever they cost, and keeps what it
read: tags that stand a thousand times, that all point at the same bytes, or that hold negative
numbers. Here each directory is read by itself and refused by what its entries say.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from tifffile import TiffFileError

from adipocyte.errors import ImageError

MAX_CHUNKS = 40_000  # strips or tiles: each costs some microseconds, however small
MAX_TAGS = 500  # of a page: files of microscopes have some dozens
# Of all values of a file's tags together. The XML of a whole plate has some megabytes.
MAX_VALUES_BYTES = 32_000_000
_MAX_SAMPLES = 64  # values of a tag that has one for each colour
_MAX_BELOW = 1000  # directories below the pages of a file, together
_MAX_STK = 100  # MetaMorph's tables: tifffile reads one for each entry of the other

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_LETTERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_ANY = frozenset(_SIZES)
_UNSIGNED = frozenset({1, 3, 4, 16})  # BYTE, SHORT, LONG, LONG8
_PLACES = frozenset({3, 4, 16})
_DIRECTORIES = frozenset({4, 13, 16, 18})  # LONG, IFD, LONG8, IFD8

_WIDTH, _HEIGHT, _DESCRIPTION, _BELOW = 256, 257, 270, 330
_CHUNKS = (273, 279, 324, 325)  # offsets and byte counts of strips, of tiles
# What the pixels are, from ImageWidth to TileDepth: one number each, or some.
_NUMBERS = (256, 257, 259, 262, 266, 277, 284, 317, 322, 323, 32997, 32998)
_SAMPLES = (258, 278, 338, 339, 530)
# The types that a tag may have, and how many values, where tifffile computes with them.
_LIMITS: dict[int, tuple[frozenset[int], int]] = {
    **dict.fromkeys(_NUMBERS, (_UNSIGNED, 1)),
    **dict.fromkeys(_SAMPLES, (_UNSIGNED, _MAX_SAMPLES)),
    **dict.fromkeys(_CHUNKS, (_PLACES, MAX_CHUNKS)),
    **dict.fromkeys((282, 283), (_ANY, _MAX_SAMPLES)),  # pixels per inch or centimetre
    **dict.fromkeys((513, 514), (_PLACES, _MAX_SAMPLES)),  # a JPEG's offset and byte count
    _BELOW: (_DIRECTORIES, _MAX_SAMPLES),  # directories below this one
    50838: (_UNSIGNED, MAX_CHUNKS),  # byte counts of ImageJ's metadata
    **dict.fromkeys((33628, 33629), (_ANY, _MAX_STK)),
}


@dataclass(frozen=True)
class _Layout:
    """How a TIFF writes numbers: classic or BigTIFF, little or big endian.

    `entry` is a tag's code, type, number of values, and its value or where that is.
    """

    n_entries: struct.Struct
    entry: struct.Struct
    pointer: struct.Struct


class _Tag(NamedTuple):
    code: int
    kind: int
    n_values: int
    field: bytes  # its value or, if that is longer, its offset


def check_directories(file: BinaryIO, size: int, name: str, n_pages: int) -> list[int]:
    """Refuse a TIFF of *size* bytes by the tags of its first *n_pages* pages.

    Returns the offsets in the file of these pages' directories, and of all values outside them.

    Raises ImageError, on *name*, when a page comes twice, has more than MAX_TAGS tags, a tag
    twice, numbers of its pixels that could be negative, too many values in one tag, or values
    outside the file; when all values together take more than MAX_VALUES_BYTES, or share bytes; and
    when a directory below a page is of an image as large, which is no reduced copy.
    Raises TiffFileError or struct.error for what is no TIFF.
    """
    layout, offset = _begin(file)
    seen: set[int] = set()
    places: list[tuple[int, int]] = []
    n_below = 0
    while 0 < offset < size and len(seen) < n_pages:
        if offset in seen:
            raise ImageError(
                f"{name} has pages that follow each other in a circle", "save it again"
            )
        seen.add(offset)
        tags, offset = _directory(file, offset, layout, name)
        _check_codes(tags, name)
        places += [_place(tag, layout, size, name) for tag in tags]
        n_bytes = sum(n for _, n in places)
        if n_bytes > min(size, MAX_VALUES_BYTES):
            raise ImageError(
                f"{name} has {n_bytes} bytes in the tags of its pages",
                f"they may have {MAX_VALUES_BYTES}, each tag its own; save it again without "
                "descriptions",
            )
        n_below += _check_below(file, tags, layout, size, name)
        if n_below > _MAX_BELOW:
            raise ImageError(
                f"{name} has {n_below} images below its pages",
                f"it may have {_MAX_BELOW}; save its z-planes without them",
            )
    if offset >= size and 0 < len(seen) < n_pages:  # tifffile would take it for the last page
        raise ImageError(
            f"{name} is cut short",
            f"its next page lies past its end at {size} bytes; copy it again, whole",
        )
    return [*seen, *(at for at, n in places if n)]


def _begin(file: BinaryIO) -> tuple[_Layout, int]:
    """The layout of a TIFF, and the offset of its first page."""
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        raise TiffFileError(f"not a TIFF file: header={head[:4]!r}")
    (version,) = struct.unpack_from(f"{order}H", head, 2)
    if version == 42:
        layout, at = _layout(order, "H", "HHI4s", "I"), 4
    elif version == 43 and struct.unpack_from(f"{order}HH", head, 4) == (8, 0):
        layout, at = _layout(order, "Q", "HHQ8s", "Q"), 8
    else:
        raise TiffFileError(f"not a TIFF file: header={head[:8]!r}")
    return layout, layout.pointer.unpack_from(head, at)[0]


def _layout(order: str, *formats: str) -> _Layout:
    return _Layout(*(struct.Struct(order + one) for one in formats))


def _directory(file: BinaryIO, offset: int, layout: _Layout, name: str) -> tuple[list[_Tag], int]:
    """The tags of the page at *offset*, and the next page's offset."""
    file.seek(offset)
    head = file.read(layout.n_entries.size)
    n_tags = layout.n_entries.unpack(head)[0] if len(head) == layout.n_entries.size else 0
    if n_tags > MAX_TAGS:
        raise ImageError(
            f"{name} has a page of {n_tags} tags", f"it may have {MAX_TAGS}; save it again"
        )
    entries = file.read(n_tags * layout.entry.size)
    pointer = file.read(layout.pointer.size)
    if len(pointer) < layout.pointer.size:
        raise ImageError(f"{name} is cut short", "a page's tags end with it; copy it again, whole")
    tags = list(map(_Tag._make, layout.entry.iter_unpack(entries)))
    return tags, layout.pointer.unpack(pointer)[0]


def _check_below(file: BinaryIO, tags: list[_Tag], layout: _Layout, size: int, name: str) -> int:
    """Refuse images below a page that are as large as it. Returns the number of directories."""
    offsets = [
        at
        for tag in tags
        if tag.code == _BELOW
        for at in _numbers(file, tag, layout)
        if 0 < at < size
    ]
    sides = _sides(file, tags, layout)
    for offset in offsets:
        below, _ = _directory(file, offset, layout, name)
        found = _sides(file, below, layout)
        if len(sides) == len(found) == 2 and found[0] >= sides[0] and found[1] >= sides[1]:
            raise ImageError(
                f"{name} has an image of full size below a page",
                "it may be a plane; save each plane as a page of its own",
            )
    return len(offsets)


def _sides(file: BinaryIO, tags: list[_Tag], layout: _Layout) -> list[int]:
    """Width and height of a directory's image, in pixels."""
    return [
        n
        for code in (_WIDTH, _HEIGHT)
        for tag in tags
        if tag.code == code
        for n in _numbers(file, tag, layout)[:1]
    ]


def _numbers(file: BinaryIO, tag: _Tag, layout: _Layout) -> tuple[int, ...]:
    """The whole numbers that a tag holds; none where it is of another type or has many."""
    letter = _LETTERS.get(tag.kind)
    if letter is None or tag.n_values > _MAX_SAMPLES:
        return ()
    numbers = struct.Struct(f"{layout.pointer.format[0]}{tag.n_values}{letter}")
    value = tag.field
    if numbers.size > len(value):
        file.seek(layout.pointer.unpack(tag.field)[0])
        value = file.read(numbers.size)
    return numbers.unpack_from(value)


def _check_codes(tags: list[_Tag], name: str) -> None:
    """Refuse tags that stand more than once, but for the two descriptions that tifffile writes."""
    codes = [tag.code for tag in tags]
    n_descriptions = codes.count(_DESCRIPTION)
    if len(codes) - len(set(codes)) > max(0, n_descriptions - 1) or n_descriptions > 2:
        raise ImageError(
            f"{name} has a page with the same tag more than once", "save it again, each tag once"
        )


def _place(tag: _Tag, layout: _Layout, size: int, name: str) -> tuple[int, int]:
    """Offset and bytes of a tag's value outside its directory, (0, 0) for one in it.

    Raises ImageError for what it may not hold.
    """
    types, most = _LIMITS.get(tag.code, (_ANY, MAX_VALUES_BYTES))
    if tag.kind not in _SIZES and types is _ANY:
        return 0, 0  # of an unknown type, so nobody reads it
    if tag.kind not in types:
        raise ImageError(
            f"{name} has a tag {tag.code} of type {tag.kind}",
            "sizes, offsets and byte counts are unsigned whole numbers; save it again",
        )
    if tag.n_values > most:
        raise ImageError(
            f"{name} has a tag {tag.code} of {tag.n_values} values",
            f"it may have {most}; save it again",
        )
    n_bytes = tag.n_values * _SIZES[tag.kind]
    if n_bytes <= len(tag.field):
        return 0, 0
    (offset,) = layout.pointer.unpack(tag.field)
    if offset + n_bytes > size:
        raise ImageError(
            f"{name} is cut short",
            f"its tag {tag.code} points past its end at {size} bytes; copy it again, whole",
        )
    return offset, n_bytes
