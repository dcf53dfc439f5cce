"""A TIFF is read whatever wrote it, or refused by its name before it costs anything."""

import io
import os
import socket
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from adipocyte.errors import ImageError
from adipocyte.plate.tiff import (
    Header,
    decode_stack,
    encode_image,
    encode_stack,
    read_header,
    read_image,
    stack_header,
    write_image,
)
from adipocyte.plate.tiff_tags import MAX_VALUES_BYTES
from tests.support.tiffs import (
    ASCII,
    DESCRIPTION,
    FORMS,
    HOSTILE_PAGES,
    IDLE,
    PIXELS,
    START,
    Tag,
    idle,
    page,
    tiff,
)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)


def tiff_of(image: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **options)
    return buffer.getvalue()


def retagged(data: bytes, **tags: int) -> bytes:
    """A TIFF whose first page's header says something else than its pixels."""
    buffer = io.BytesIO(data)
    with tifffile.TiffFile(buffer, mode="r+b") as file:
        for name, value in tags.items():
            file.pages.first.tags[name].overwrite(value)
    return buffer.getvalue()


# An image


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\): it must be a TIFF of 1 grey page"),
        (
            b"\x89PNG\r\n\x1a\n" + bytes(64),
            "cannot be read as TIFF .* it must be a whole TIFF of 1 grey page",
        ),
        (
            tiff_of(noise(8, 9).astype(np.float32)),
            "pixels of type float32: it must have raw camera counts, uint8 or uint16; do not",
        ),
        (
            tiff_of(noise(8, 9).astype(np.int16)),
            "pixels of type int16: it must have raw camera counts, uint8 or uint16",
        ),
        (
            tiff_of(noise(8, 9, 3), photometric="rgb"),
            r"a page of shape \(8, 9, 3\) \(colour\?\): .*save grey planes",
        ),
        (encode_stack(noise(2, 8, 9)), "more than 1 pages: it must have 1 grey page"),
    ],
    ids=["empty", "not a TIFF", "float", "signed", "colour", "two pages"],
)
def test_an_image_of_the_wrong_kind_is_refused_with_its_file(tmp_path, content, message):
    path = tmp_path / "image.tif"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"^{path} .*{message}"):
        read_image(path)


def test_an_image_cut_short_anywhere_is_refused_with_its_file(tmp_path):
    path, whole = tmp_path / "image.tif", encode_image(noise(8, 9))
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ImageError, match=f"^{path} "):
            read_image(path)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize(
    ("module", "step"), [(tifffile, "imwrite"), (os, "fsync"), (os, "replace")]
)
def test_an_image_is_written_whole_or_the_old_one_stays(tmp_path, monkeypatch, module, step, error):
    def fail(*_, **__):
        raise error

    path = tmp_path / "image.tif"
    write_image(path, noise(8, 9))
    monkeypatch.setattr(module, step, fail)
    with pytest.raises(type(error)):
        write_image(path, np.zeros((8, 9), dtype=np.uint16))
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(read_image(path), noise(8, 9))


def test_an_images_scale_is_told_as_fiji_and_bio_formats_read_it_and_changes_no_pixel():
    """Both take the resolution for pixels per unit=um: FileOpener.java, TiffReader.java."""
    image = noise(64, 65)
    data = encode_image(image, 0.163)
    assert data == encode_image(image, 0.163)
    np.testing.assert_array_equal(decode_stack(data, 1), image[None])
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert file.is_imagej
        tags = file.pages.first.tags
        assert tags["ImageDescription"].value == "ImageJ=1.11a\nunit=um"
        assert tags["ResolutionUnit"].value == 1  # none: words tell it
        for name in ("XResolution", "YResolution"):
            n_px, n_um = tags[name].value
            assert n_um / n_px == 0.163


@pytest.mark.parametrize(
    ("options", "um_per_px"),
    [
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "micron"}}, 0.25),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.325, "PhysicalSizeXUnit": "µm"}}, 0.325),
        ({"ome": True, "metadata": {"PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm"}}, 0.5),
        ({"ome": True}, None),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),  # that of a screen
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "inch"}}, None),
        ({"imagej": True, "resolution": (1e-4, 1e-4), "metadata": {"unit": "um"}}, None),
    ],
)
def test_a_header_tells_the_size_of_pixels_where_the_file_does(options, um_per_px, tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", noise(8, 9), photometric="minisblack", **options)
    found = read_header(tmp_path / "image.tif").um_per_px
    assert found == (um_per_px and pytest.approx(um_per_px))


# A stack


@pytest.mark.parametrize(
    "options",
    [
        {"ome": True},
        {"imagej": True},
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw"},
        {"tile": (16, 16)},
        {"compression": "zstd"},
        {"compression": "deflate", "bigtiff": True},
        {"bigtiff": True, "byteorder": ">"},
    ],
    ids=str,
)
def test_a_stack_is_read_whatever_writes_it(options):
    data = tiff_of(noise(7, 40, 33), photometric="minisblack", **options)
    np.testing.assert_array_equal(decode_stack(data, 7), noise(7, 40, 33))


def test_a_stack_is_written_smaller_than_it_is():
    noise_of_a_camera = np.random.default_rng(0).poisson(2000, (7, 300, 200))
    stack = noise_of_a_camera.astype(np.uint16)
    data = encode_stack(stack)
    assert len(data) < 0.85 * stack.nbytes
    np.testing.assert_array_equal(decode_stack(data, 7), stack)


def test_a_large_dark_stack_is_not_written_so_small_that_it_would_be_refused():
    assert not decode_stack(encode_stack(np.zeros((1, 8000, 8000), np.uint16)), 1).any()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"",
            r"the stack is empty \(0 bytes\): it must be a TIFF of 7 grey pages of one size, uint8",
        ),
        (
            b"not a TIFF at all",
            "the stack cannot be read as TIFF .* it must be a whole TIFF of 7 grey pages",
        ),
        (
            encode_stack(noise(6, 8, 9)),
            "the stack has 6 of 7 pages: it must have 7 grey pages, z in order",
        ),
        (encode_stack(noise(8, 8, 9)), "the stack has more than 7 pages: it must have 7"),
        (
            tiff_of(noise(7, 8, 9), compression="zlib")[:-1],
            "the stack is cut short: its pages point past its end at .* bytes",
        ),
        (
            tiff_of(noise(7, 8, 9).astype(np.float32), photometric="minisblack"),
            "pixels of type float32: .*raw camera counts",
        ),
        (
            tiff_of(noise(7, 8, 9, 3), photometric="rgb"),
            r"a page of shape \(8, 9, 3\) \(colour\?\)",
        ),
        (
            retagged(encode_stack(noise(7, 8, 9)), ImageWidth=0),
            "a page without pixels: it must have 7",
        ),
        (
            retagged(tiff_of(noise(7, 8, 9), tile=(16, 16)), TileWidth=0),
            "cannot be read as TIFF .* it must be a whole TIFF of 7",
        ),
        (
            retagged(encode_stack(noise(7, 8, 9)), ImageWidth=8),
            r"pages of \(8, 8\) uint16 and of \(8, 9\) uint16 pixels",
        ),
    ],
    ids=[
        "empty",
        "not a TIFF",
        "six",
        "eight",
        "cut short",
        "float",
        "colour",
        "no pixels",
        "no tile",
        "two sizes",
    ],
)
def test_a_stack_of_the_wrong_kind_is_refused(data, message):
    with pytest.raises(ImageError, match=f"{message}"):
        decode_stack(data, 7)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            retagged(encode_image(noise(8, 9)), ImageWidth=60_000, ImageLength=60_000),
            "60000 x 60000 pixels: a side may be at most 10000",
        ),
        (
            retagged(tiff_of(noise(8, 9), tile=(16, 16)), TileWidth=60_000, TileLength=60_000),
            r"tiles of \(60000, 60000\) pixels",
        ),
    ],
    ids=["image", "tile"],
)
def test_an_image_that_says_it_is_huge_is_refused_before_anything_is_allocated(data, message):
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=message):
            decode_stack(data, 1)
        assert tracemalloc.get_traced_memory()[1] < 1e6  # the image would take 7.2e9 bytes
    finally:
        tracemalloc.stop()


def shared(data: bytes) -> bytes:
    """A TIFF in strips, each of which says that its bytes are those of the whole file."""
    buffer = io.BytesIO(data)
    with tifffile.TiffFile(buffer, mode="r+b") as file:
        tags = file.pages.first.tags
        tags["StripOffsets"].overwrite([8] * tags["StripOffsets"].count)
        tags["StripByteCounts"].overwrite([len(data) - 8] * tags["StripByteCounts"].count)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            tiff_of(np.zeros((9000, 9000), np.uint16), compression="zlib"),
            "would swell from .* bytes to 162036000: ",
        ),
        (tiff_of(np.zeros((9000, 9000), np.uint16), compression="zstd"), "would swell from "),
        (
            retagged(tiff_of(noise(64, 64), tile=(16, 16)), ImageWidth=9999, ImageLength=9999),
            "in 390625 strips or tiles: it may have 40000",
        ),
        (
            retagged(tiff_of(noise(64, 64), tile=(64, 64)), TileWidth=9984, TileLength=9984),
            "would swell from ",
        ),
        (
            shared(tiff_of(noise(64, 64), compression="zlib", rowsperstrip=2)),
            "strips that share bytes",
        ),
        (
            tiff_of(noise(64, 64), compression="lzma"),
            "is compressed with LZMA: save it uncompressed, or with LZW, deflate",
        ),
        (tiff_of(noise(64, 64).astype(np.uint8), compression="jpeg"), "is compressed with JPEG"),
        (tiff_of(noise(64, 64), compression="jpeg2000"), "is compressed with .*JPEG_?2000"),
    ],
    ids=[
        "deflate bomb",
        "zstd bomb",
        "many tiles",
        "large tile",
        "shared bytes",
        "LZMA",
        "JPEG",
        "JPEG 2000",
    ],
)
def test_what_costs_more_than_it_holds_is_refused_before_a_pixel_is_decoded(data, message):
    tracemalloc.start()
    try:
        for refuse in (decode_stack, stack_header):
            with pytest.raises(ImageError, match=message):
                refuse(data, 1)
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_a_black_field_is_no_bomb():
    black = np.zeros((7, 2154, 2554), np.uint16)
    data = tiff_of(black, compression="zlib", photometric="minisblack")
    assert not decode_stack(data, 7).any()


def test_a_stacks_shape_is_known_before_it_is_decoded():
    data = tiff_of(noise(7, 40, 33), compression="zlib", photometric="minisblack")
    assert stack_header(data, 7).shape == (40, 33)


OPTIONS = ({}, {"compression": "zlib"}, {"ome": True})
WHOLE = [tiff_of(noise(2, 8, 9), **options) for options in OPTIONS]


@given(
    data=st.sampled_from(WHOLE),
    changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=4),
    kept=st.none() | st.integers(0, 2**16),
)
def test_damaged_bytes_are_read_or_refused_and_nothing_else(data, changes, kept):
    damaged = bytearray(data)
    for position, byte in changes:
        damaged[position % len(damaged)] = byte
    try:
        stack = decode_stack(bytes(damaged[: None if kept is None else kept % len(damaged)]), 2)
    except ImageError:
        return
    assert (stack.dtype, stack.shape[0]) == (np.uint16, 2)


@pytest.mark.parametrize("data", WHOLE, ids=map(str, OPTIONS))
def test_a_stack_cut_short_anywhere_is_refused_unless_no_pixel_is_lost(data):
    for size in range(len(data)):
        try:
            stack = decode_stack(data[:size], 2)
        except ImageError:
            continue
        # The lost bytes were a description at the end, which nobody reads.
        np.testing.assert_array_equal(stack, noise(2, 8, 9))


def test_an_image_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "lost.tif").symlink_to(tmp_path / "nowhere.tif")
    with pytest.raises(ImageError, match=r"lost\.tif cannot be opened"):
        read_image(tmp_path / "lost.tif")


# Hostile hands


@pytest.mark.parametrize(("order", "is_big"), FORMS)
def test_a_stack_is_read_in_every_form_of_tiff(order, is_big):
    pixels = noise(64, 64).astype(f"{order}u2").tobytes()
    data = tiff([page()], pixels, order, is_big)
    np.testing.assert_array_equal(decode_stack(data, 1)[0], noise(64, 64))


@pytest.mark.parametrize(("order", "is_big"), FORMS)
@pytest.mark.parametrize("tags", HOSTILE_PAGES)
def test_a_page_that_lies_is_refused_before_it_costs_anything(tags, order, is_big, tmp_path):
    lying, message = HOSTILE_PAGES[tags]
    data = tiff([lying], PIXELS, order, is_big)
    path = tmp_path / "image.tif"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=message):
            stack_header(data, 1)
        with pytest.raises(ImageError, match=f"^{path} .*{message}"):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def test_a_second_page_that_lies_is_refused_too():
    lying, message = HOSTILE_PAGES["offsets 400 times"]
    with pytest.raises(ImageError, match=message):
        stack_header(tiff([page(), lying], PIXELS), 2)


@pytest.mark.parametrize(("order", "is_big"), FORMS)
def test_pages_in_a_circle_are_refused(order, is_big, tmp_path):
    data = tiff([page()], PIXELS, order, is_big)
    (first,) = struct.unpack_from(*((order + "Q", data, 8) if is_big else (order + "I", data, 4)))
    path = tmp_path / "image.tif"
    path.write_bytes(tiff([page()], PIXELS, order, is_big, next_after_last=first))
    for read in (read_header, read_image):
        with pytest.raises(ImageError, match="in a circle"):
            read(path)


def test_all_descriptions_of_a_file_together_are_bounded():
    half = b"a" * (MAX_VALUES_BYTES // 2 + 1)
    described = [*page(), Tag(DESCRIPTION, ASCII, half), Tag(305, ASCII, half)]
    with pytest.raises(ImageError, match="bytes in the tags of its pages: they may have 32000000"):
        stack_header(tiff([described], PIXELS), 1)


@pytest.mark.parametrize("codec", IDLE, ids=lambda codec: codec.__name__)
def test_a_strip_of_codes_that_give_no_pixels_is_refused(codec):
    assert decode_stack(idle(codec, 900), 1).any()  # few are as good as none
    with pytest.raises(ImageError, match=r"a strip of 3.... bytes, far more than its pixels need"):
        stack_header(idle(codec), 1)


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", "zstd"])
@pytest.mark.parametrize("side", [1, 2, 15, 200])
def test_noise_that_a_codec_makes_longer_is_read(compression, side):
    data = tiff_of(noise(side, side), compression=compression, predictor=False)
    np.testing.assert_array_equal(decode_stack(data, 1)[0], noise(side, side))


def test_two_descriptions_are_read():
    data = tiff_of(noise(7, 8, 9), photometric="minisblack", description="a note", metadata={})
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        codes = [tag.code for tag in file.pages.first.tags]
    assert codes.count(DESCRIPTION) == 2
    np.testing.assert_array_equal(decode_stack(data, 7), noise(7, 8, 9))


OME = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{}</OME>'


def header_of(description: str, path: Path) -> Header:
    text = Tag(DESCRIPTION, ASCII, description.encode() + b"\0")
    pages = [page(offsets=[START + 8192 * i]) for i in range(4)]
    path.write_bytes(tiff([[*pages[0], text], *pages[1:]], PIXELS * 4))
    return read_header(path)


@pytest.mark.parametrize(
    "description",
    [
        "<!DOCTYPE OME [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'>]><OME>&b;</OME>",
        "<!DOCTYPE OME SYSTEM 'file:///etc/passwd'><OME></OME>",
    ],
    ids=["entities", "another file"],
)
def test_a_description_that_defines_entities_is_refused(description, tmp_path):
    with pytest.raises(ImageError, match=r"a description with a document type \(DOCTYPE\)"):
        header_of(description, tmp_path / "image.tif")


@pytest.mark.parametrize(
    "description",
    [
        OME.format("<a>" * 300_000),
        OME.format("<a b='" + "c" * 3_000_000 + "'/>"),
        OME.format("<Pixels SizeZ='two' SizeC='-4' SizeT='" + "9" * 5000 + "'/>"),
        OME.format("") + "OME>",
        "ImageJ=1.11a\nchannels=2\nslices=" + "9" * 5000,
        "ImageJ=1.11a\n" + "slices=2\n" * 300_000,
    ],
    ids=["nested", "long", "no numbers", "no XML", "no number", "many lines"],
)
def test_a_description_that_is_nonsense_tells_no_axes_and_costs_little(description, tmp_path):
    tracemalloc.start()
    try:
        assert header_of(description, tmp_path / "image.tif").n_planes == 4
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "description",
    [
        OME.format("<Image><Pixels SizeX='64' SizeY='64' SizeZ='2' SizeC='2' SizeT='1'/></Image>"),
        "ImageJ=1.11a\nimages=4\nchannels=2\nslices=2\n",
    ],
    ids=["OME", "ImageJ"],
)
def test_pages_of_planes_and_channels_are_told(description, tmp_path):
    with pytest.raises(ImageError, match="has pages 2 along depth and 2 along channel"):
        header_of(description, tmp_path / "image.tif")


@pytest.mark.parametrize("kind", ["FIFO", "socket", "folder", "device"])
def test_what_is_no_regular_file_is_never_opened(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    path = Path("image.tif")
    with socket.socket(socket.AF_UNIX) as server:
        match kind:
            case "FIFO":
                os.mkfifo(path)
            case "socket":
                server.bind(str(path))
            case "folder":
                path.mkdir()
            case "device":
                path.symlink_to("/dev/zero")
        for read in (read_header, read_image):
            with pytest.raises(ImageError, match=rf"image\.tif cannot be opened \(it is a {kind}"):
                read(path)
