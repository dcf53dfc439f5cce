"""TIFFs written tag by tag, so that they can say anything."""

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import imagecodecs
import numpy as np
import tifffile

BYTE, ASCII, SHORT, LONG, RATIONAL, SLONG, DOUBLE, LONG8, SLONG8 = 1, 2, 3, 4, 5, 9, 12, 16, 17
FORMATS = {1: "B", 2: "B", 3: "H", 4: "I", 5: "I", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f"}
FORMATS |= {10: "i", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}
SIZES = {kind: struct.calcsize(f"={form}") for kind, form in FORMATS.items()}
SIZES |= {RATIONAL: 8, 10: 8}
FORMS = [(order, is_big) for order in "<>" for is_big in (False, True)]
START = 16  # where the pixels begin, in classic TIFF too
GREY = np.random.default_rng(0).integers(500, 4000, (7, 40, 33), dtype=np.uint16)
WIDTH, HEIGHT, COMPRESSION, DESCRIPTION, OFFSETS, ROWS, COUNTS = 256, 257, 259, 270, 273, 278, 279


def tiff_of(image: np.ndarray, **options: object) -> bytes:
    """A TIFF of *image*, as tifffile writes it."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, photometric="minisblack", **options)
    return buffer.getvalue()


@dataclass(frozen=True)
class Tag:
    """A tag, and what it says of its values, true or not: how many they are, and where."""

    code: int
    kind: int
    values: Sequence[float] | bytes
    n_values: int | None = None
    offset: int | None = None


Page = list[Tag]


def page(
    width: int = 64,
    height: int = 64,
    compression: int = 1,
    offsets: Sequence[int] = (START,),
    counts: Sequence[int] = (64 * 64 * 2,),
    rows: int = 64,
) -> Page:
    """The tags of a grey page of uint16."""
    return [
        Tag(WIDTH, LONG, [width]),
        Tag(HEIGHT, LONG, [height]),
        Tag(258, SHORT, [16]),
        Tag(COMPRESSION, SHORT, [compression]),
        Tag(262, SHORT, [1]),
        Tag(OFFSETS, LONG, offsets),
        Tag(277, SHORT, [1]),
        Tag(ROWS, LONG, [rows]),
        Tag(COUNTS, LONG, counts),
    ]


def changed(tags: Page, code: int, **values: object) -> Page:
    """A page with another value, type, count or place of one tag."""
    return [replace(tag, **values) if tag.code == code else tag for tag in tags]


def tiff(
    pages: Iterable[Page],
    pixels: bytes = b"",
    order: str = "<",
    is_big: bool = False,
    next_after_last: int = 0,
) -> bytes:
    """A TIFF of *pages*, each with its tags in the given order, whose pixels begin at START."""
    head = {"<": b"II", ">": b"MM"}[order]
    head += struct.pack(order + "HHH", 43, 8, 0) if is_big else struct.pack(order + "H", 42)
    data = bytearray(head.ljust(START, b"\0") + pixels)
    pointer, at = (order + "Q", 8) if is_big else (order + "I", 4)
    for tags in pages:
        entries = b"".join(_entry(tag, data, order, is_big) for tag in tags)
        struct.pack_into(pointer, data, at, len(data))
        data += struct.pack(order + ("Q" if is_big else "H"), len(tags)) + entries
        at = len(data)
        data += bytes(8 if is_big else 4)
    struct.pack_into(pointer, data, at, next_after_last)
    return bytes(data)


def _entry(tag: Tag, data: bytearray, order: str, is_big: bool) -> bytes:
    """A tag's entry in its directory; a value that does not fit there is put behind *data*."""
    width = 8 if is_big else 4
    value = tag.values
    if not isinstance(value, bytes):
        value = b"".join(struct.pack(order + FORMATS[tag.kind], one) for one in value)
    n_values = len(value) // SIZES.get(tag.kind, 1) if tag.n_values is None else tag.n_values
    offset = tag.offset
    if offset is None and len(value) > width:
        offset = len(data)
        data += value
    if offset is not None:
        value = struct.pack(order + ("Q" if is_big else "I"), offset)
    head = struct.pack(order + ("HHQ" if is_big else "HHI"), tag.code, tag.kind, n_values)
    return head + value.ljust(width, b"\0")


def idle_lzw(n_bytes: int, pixels: bytes) -> bytes:
    """LZW of *pixels* behind *n_bytes* of clear codes, which are 9 bits of 256."""
    clear = int("100000000" * 8, 2).to_bytes(9, "big")
    return clear * (n_bytes // 9) + imagecodecs.lzw_encode(pixels)


def idle_deflate(n_bytes: int, pixels: bytes) -> bytes:
    """Deflate of *pixels* behind *n_bytes* of stored blocks without a byte."""
    packed = zlib.compress(pixels)
    return packed[:2] + b"\0\0\0\xff\xff" * (n_bytes // 5) + packed[2:]


def idle_packbits(n_bytes: int, pixels: bytes) -> bytes:
    """PackBits of *pixels* behind *n_bytes* of the code that does nothing."""
    return b"\x80" * n_bytes + imagecodecs.packbits_encode(pixels)


def idle_zstd(n_bytes: int, pixels: bytes) -> bytes:
    """Zstandard of *pixels* behind *n_bytes* of frames without a byte."""
    empty = imagecodecs.zstd_encode(b"")
    return empty * (n_bytes // len(empty)) + imagecodecs.zstd_encode(pixels)


def skipped_zstd(n_bytes: int, pixels: bytes) -> bytes:
    """Zstandard of *pixels* behind *n_bytes* of frames to skip."""
    return b"\x50\x2a\x4d\x18\0\0\0\0" * (n_bytes // 8) + imagecodecs.zstd_encode(pixels)


IDLE: dict[Callable[[int, bytes], bytes], int] = {
    idle_lzw: 5,
    idle_deflate: 8,
    idle_packbits: 32773,
    idle_zstd: 50000,
    skipped_zstd: 50000,
}


def idle(codec: Callable[[int, bytes], bytes], n_bytes: int = 30_000) -> bytes:
    """A page whose pixels stand behind *n_bytes* of codes that give none."""
    pixels = codec(n_bytes, GREY[0].tobytes())
    tags = page(33, 40, IDLE[codec], counts=[len(pixels)], rows=40)
    return tiff([tags], pixels)


PIXELS = bytes(64 * 64 * 2)
MANY = [START] * 50_000
LZW = imagecodecs.lzw_encode(bytes(128))

# What a page must not say, and what the refusal tells.
HOSTILE_PAGES: dict[str, tuple[Page, str]] = {
    "offsets 400 times": (page() + [Tag(OFFSETS, LONG, b"", 2000, START)] * 400, "more than once"),
    "a tag twice": ([*page(), Tag(305, ASCII, b"a" * 9), Tag(305, ASCII, b"b")], "more than once"),
    "three descriptions": (page() + [Tag(DESCRIPTION, ASCII, b"text")] * 3, "more than once"),
    "500 more tags": (page() + [Tag(65000 + i, SHORT, [1]) for i in range(500)], "509 tags"),
    "tags that share bytes": (
        page() + [Tag(65000 + i, BYTE, b"", 8000, START) for i in range(400)],
        "bytes in the tags",
    ),
    "50,000 offsets": (changed(page(), OFFSETS, values=MANY), "50000 values"),
    "more values than bytes": (changed(page(), OFFSETS, n_values=9999, offset=START), "cut short"),
    "4 billion values": (changed(page(), 258, n_values=2**32 - 1, offset=START), "values"),
    "64 codecs": (changed(page(), COMPRESSION, values=[7] * 64), "64 values: it may have 1"),
    "a description past the end": (
        [*page(), Tag(DESCRIPTION, ASCII, b"", 10**6, START)],
        "cut short",
    ),
    "a negative byte count": (changed(page(), COUNTS, kind=SLONG, values=[-(2**30)]), "type 9"),
    "a negative offset": (changed(page(), OFFSETS, kind=SLONG, values=[-8]), "type 9"),
    "a negative width": (changed(page(), WIDTH, kind=SLONG, values=[-64]), "type 9"),
    "long negative byte counts": (
        changed(page(), COUNTS, kind=SLONG8, values=[-(2**62)] * 2),
        "type 17",
    ),
    "byte counts as fractions": (changed(page(), COUNTS, kind=DOUBLE, values=[8192.0]), "type 12"),
    "byte counts of no type": (changed(page(), COUNTS, kind=99, values=b"\0\0"), "type 99"),
    "ImageJ's counts": ([*page(), Tag(50838, LONG, b"", 10**9, START)], "values"),
    "MetaMorph's tables": ([*page(), Tag(33628, LONG, [START] * 1000)], "1000 values"),
    "directories below": ([*page(), Tag(330, LONG, [START] * 1000)], "1000 values"),
    "strips that share bytes": (
        page(64, 64, 5, [START] * 64, [len(LZW)] * 64, rows=1),
        "strips that share bytes",
    ),
    "strips that overlap": (
        page(64, 64, offsets=[START, START + 4095], counts=[4096, 4096], rows=32),
        "strips that share bytes",
    ),
    "tiles of a pixel": (
        [tag for tag in page(201, 201) if tag.code not in (OFFSETS, COUNTS, ROWS)]
        + [Tag(322, LONG, [1]), Tag(323, LONG, [1]), Tag(324, LONG, [8]), Tag(325, LONG, [2])],
        "in 40401 strips or tiles",
    ),
    "no sample": (changed(page(), 277, values=[0]), "colour"),
}
