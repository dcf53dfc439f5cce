"""A TIFF is what it says of its planes, not its count of pages.

Every stack here is read from the file, from bytes and by its header alone, or refused by all three.
"""

import io
import re
import struct
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from adipocyte.errors import ImageError
from adipocyte.plate.tiff import Header, decode_stack, read_header, read_stack, stack_header
from tests.support.tiffs import (
    ASCII,
    DESCRIPTION,
    FORMS,
    HEIGHT,
    LONG,
    OFFSETS,
    SHORT,
    START,
    WIDTH,
    Page,
    Tag,
    changed,
    page,
    tiff,
)

RATIONAL, UNDEFINED = 5, 7
UIC1, UIC2, UIC3 = 33628, 33629, 33630
N = 7
PLANES = np.random.default_rng(0).integers(0, 65536, (N, 12, 10), dtype=np.uint16)
PLANE_BYTES = PLANES[0].nbytes
NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def tiff_of(image: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **({"photometric": "minisblack"} | options))
    return buffer.getvalue()


def grey(i: int = 0, *more: Tag, n_strips: int = 1) -> Page:
    """The tags of plane *i*, where planes follow each other from START."""
    rows = PLANES.shape[1] // n_strips
    n_bytes = PLANE_BYTES // n_strips
    offsets = [START + i * PLANE_BYTES + k * n_bytes for k in range(n_strips)]
    return page(10, 12, 1, offsets, [n_bytes] * n_strips, rows) + list(more)


def pixels(order: str = "<", planes: np.ndarray = PLANES) -> bytes:
    return planes.astype(f"{order}u2").tobytes()


def text(description: str) -> Tag:
    return Tag(DESCRIPTION, ASCII, description.encode() + b"\0")


def one_page(*more: Tag, n_strips: int = 1, order: str = "<", is_big: bool = False) -> bytes:
    """One page, with the other planes behind it and whatever tells of them."""
    return tiff([grey(0, *more, n_strips=n_strips)], pixels(order), order, is_big)


def paged(first: Sequence[Tag] = (), n: int = N, **every: object) -> bytes:
    """A page for each plane, the first with further tags."""
    pages = [grey(i, *(first if i == 0 else ())) for i in range(n)]
    return tiff(pages, pixels(), **every)


def metamorph(n: int = N, order: str = "<") -> list[Tag]:
    numbers = struct.pack(f"{order}6I", 1, 1, 2459000, 0, 2459000, 0) * n
    return [
        Tag(UIC1, RATIONAL, struct.pack(f"{order}2I", 0, 0)),
        Tag(UIC2, RATIONAL, numbers, n_values=n),
        Tag(UIC3, RATIONAL, struct.pack(f"{order}2I", 1, 1) * n),
    ]


def ome(*data: str, uuid: str = "a", sizes: str = "SizeZ='7' SizeC='1' SizeT='1'") -> str:
    """OME-XML of an image with these TiffData, in the file *uuid*."""
    own = f" UUID='urn:{uuid}'" if uuid else ""
    pixel = f"DimensionOrder='XYZCT' Type='uint16' SizeX='10' SizeY='12' {sizes}"
    inner = f"<Image ID='Image:0'><Pixels {pixel}>{''.join(data)}</Pixels></Image>"
    return f"<?xml version='1.0'?><OME xmlns='{NAMESPACE}'{own}>{inner}</OME>"


def data_of(ifd: int, z: int, uuid: str = "", c: int = 0, t: int = 0, n: int = 1) -> str:
    inner = f"<UUID FileName='{uuid}.tif'>urn:{uuid}</UUID>" if uuid else ""
    place = f"FirstZ='{z}' FirstC='{c}' FirstT='{t}'"
    return f"<TiffData IFD='{ifd}' {place} PlaneCount='{n}'>{inner}</TiffData>"


# A common XML of a field: brightfield is channel 3 of 4, each stain a page in a file of its own.
SET = [data_of(z, z, "bright", 3) for z in range(N)]
SET = [*(data_of(0, 0, f"stain{c}", c) for c in range(3)), *SET]
SET_SIZES = "SizeZ='7' SizeC='4' SizeT='1'"


def read_all_ways(data: bytes, path: Path) -> np.ndarray:
    """The planes of a TIFF, which are the same in every way of reading it."""
    path.write_bytes(data)
    header = read_header(path)
    stack = decode_stack(data, header.n_planes)
    assert header == Header(len(stack), stack.shape[1:], header.dtype)
    assert stack_header(data, header.n_planes).shape == header.shape
    np.testing.assert_array_equal(read_stack(path, header.n_planes), stack)
    return stack


def refuse_all_ways(data: bytes, path: Path, message: str) -> None:
    path.write_bytes(data)
    for read in (read_header, lambda path: read_stack(path, N)):
        with pytest.raises(ImageError, match=f"^{path} .*{message}"):
            read(path)
    for refuse in (stack_header, decode_stack):
        with pytest.raises(ImageError, match=f"^the stack .*{message}"):
            refuse(data, N)


# Planes behind one page


BEHIND = {
    "tifffile": tiff_of(PLANES, truncate=True),
    "tifffile's strips": tiff_of(PLANES, truncate=True, rowsperstrip=5),
    "tifffile's axes": tiff_of(PLANES[None, :, None], truncate=True, metadata={"axes": "TZCYX"}),
    "tifffile, BigTIFF": tiff_of(PLANES, truncate=True, bigtiff=True, byteorder=">"),
    "tifffile with a note": tiff_of(PLANES, truncate=True, description="a note", metadata={}),
    "ImageJ": tiff_of(PLANES, truncate=True, imagej=True, metadata={"axes": "ZYX"}),
    "ImageJ, frames": tiff_of(PLANES, truncate=True, imagej=True, metadata={"axes": "TYX"}),
    "ImageJ's images": one_page(text(f"ImageJ=1.54f\nimages={N}\n"), order=">"),
    "SCIFIO": one_page(text(f"SCIFIO=0.42\naxes=X,Y,Z\nimages={N}\nslices={N}\n")),
    "MetaMorph": one_page(*metamorph()),
    "MetaMorph in strips": one_page(*metamorph(), n_strips=4),
    "MetaMorph, big endian": one_page(*metamorph(order=">"), order=">"),
    "MetaMorph, old": one_page(Tag(UIC3, RATIONAL, struct.pack("<2I", 1, 1) * N)),
}


@pytest.mark.parametrize("kind", BEHIND)
def test_planes_behind_one_page_are_read(kind, tmp_path):
    np.testing.assert_array_equal(read_all_ways(BEHIND[kind], tmp_path / "stack.tif"), PLANES)


@pytest.mark.parametrize(("order", "is_big"), FORMS)
def test_planes_behind_one_page_are_read_in_every_form_of_tiff(order, is_big, tmp_path):
    data = one_page(*metamorph(order=order), order=order, is_big=is_big)
    np.testing.assert_array_equal(read_all_ways(data, tmp_path / "stack.tif"), PLANES)


def test_planes_of_eight_bits_behind_one_page_are_read(tmp_path):
    planes = PLANES.astype(np.uint8)
    data = tiff_of(planes, truncate=True)
    np.testing.assert_array_equal(read_all_ways(data, tmp_path / "stack.tif"), planes)


@pytest.mark.parametrize("kind", BEHIND)
def test_planes_behind_one_page_that_are_cut_off_are_refused(kind, tmp_path):
    whole, path = BEHIND[kind], tmp_path / "stack.tif"
    for size in {*range(0, len(whole), 37), len(whole) - PLANE_BYTES, len(whole) - 1}:
        path.write_bytes(whole[:size])
        with pytest.raises(ImageError, match=f"^{path} "):
            read_header(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (one_page(*metamorph(6), text("ImageJ=1\nimages=7")), "behind a page of 240 that nothing"),
        (one_page(), "1440 bytes behind a page of 240 that nothing tells of"),
        (one_page(text('{"shape": [7, 99, 10]}')), "behind a page of 240 that nothing tells of"),
        (one_page(*metamorph(8)), "more than 7 pages|lie over its tags"),
        (one_page(text("ImageJ=1\nimages=999999999\n")), "more than|cut short"),
        (
            tiff([grey(0, *metamorph()), grey(1)], pixels()),
            "2 pages, but its MetaMorph's tables tells of 7 planes",
        ),
        (
            tiff([grey(0, text("ImageJ=1\nslices=7")), grey(1)], pixels()),
            "2 pages, but its ImageJ's description tells of 7 planes",
        ),
        (
            tiff(
                [changed(grey(0, *metamorph()), 259, values=[5])], imagecodecs.lzw_encode(pixels())
            ),
            "one page, and 7 planes by its MetaMorph's tables: .*uncompressed",
        ),
        (
            tiff(
                [changed(grey(0, *metamorph(), n_strips=2), OFFSETS, values=[START, START + 240])],
                pixels(),
            ),
            "one page, and 7 planes",
        ),
        (tiff_of(PLANES, truncate=True, imagej=True)[:-PLANE_BYTES], "cut short"),
        (
            tiff_of(np.zeros((2, 7, 12, 10), np.uint16), truncate=True),
            "has pages 2 along axis and 7 along axis",
        ),
        (
            tiff_of(
                np.zeros((7, 2, 12, 10), np.uint16),
                truncate=True,
                imagej=True,
                metadata={"axes": "ZCYX"},
            ),
            "7 along depth and 2 along channel: .*export each channel by itself",
        ),
    ],
    ids=[
        "one more",
        "nothing tells",
        "tells of others",
        "too many",
        "far too many",
        "MetaMorph and pages",
        "ImageJ and pages",
        "compressed",
        "apart",
        "cut short",
        "two axes",
        "channels",
    ],
)
def test_what_lies_behind_a_page_and_cannot_be_read_is_refused(data, message, tmp_path):
    refuse_all_ways(data, tmp_path / "stack.tif", message)


def test_an_image_with_planes_behind_it_is_no_image(tmp_path):
    with pytest.raises(ImageError, match="more than 1 pages"):
        decode_stack(BEHIND["MetaMorph"], 1)
    with pytest.raises(ImageError, match="has 7 of 9 pages"):
        decode_stack(BEHIND["MetaMorph"], 9)


@pytest.mark.parametrize(
    "description",
    ["ImageJ=1\nimages=999999999\nslices=999999999", '{"shape": [999999999, 12, 10]}'],
    ids=["ImageJ", "tifffile"],
)
def test_planes_that_a_file_cannot_hold_cost_nothing(description, tmp_path):
    tracemalloc.start()
    try:
        refuse_all_ways(one_page(text(description)), tmp_path / "stack.tif", "cut short|more than")
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_a_hundred_planes_behind_a_page_are_more_than_a_stack_has(tmp_path):
    path = tmp_path / "stack.tif"
    path.write_bytes(tiff_of(np.zeros((100, 12, 10), np.uint16), truncate=True))
    with pytest.raises(ImageError, match="has more than 99 pages"):
        read_header(path)


# Sets of OME-TIFFs


@pytest.mark.parametrize("uuid", ["bright", ""], ids=["tells itself", "does not tell itself"])
def test_the_brightfield_of_a_set_of_files_has_its_own_planes(uuid, tmp_path):
    data = paged([text(ome(*SET, uuid=uuid, sizes=SET_SIZES))])
    np.testing.assert_array_equal(read_all_ways(data, tmp_path / "stack.tif"), PLANES)


def test_a_set_may_tell_its_files_by_name_alone(tmp_path):
    names = [re.sub("urn:[a-z0-9]*", "", one) for one in SET]
    bright, stain = (ome(*names, uuid=uuid, sizes=SET_SIZES) for uuid in ("", "a"))
    path = tmp_path / "renamed.tif"
    np.testing.assert_array_equal(read_all_ways(paged([text(bright)]), path), PLANES)
    data = tiff([grey(0, text(stain))], pixels(planes=PLANES[:1]))
    np.testing.assert_array_equal(read_all_ways(data, path), PLANES[:1])


@pytest.mark.parametrize("own", ["stain0", "stain2", "", "renamed"])
def test_a_stain_of_a_set_of_files_is_one_plane(own, tmp_path):
    data = tiff([grey(0, text(ome(*SET, uuid=own, sizes=SET_SIZES)))], pixels(planes=PLANES[:1]))
    np.testing.assert_array_equal(read_all_ways(data, tmp_path / "stain.tif"), PLANES[:1])


def test_a_plane_of_a_set_with_a_file_for_each_plane_is_one_plane(tmp_path):
    each = [data_of(0, z, f"z{z}") for z in range(N)]
    data = tiff([grey(0, text(ome(*each, uuid="z3")))], pixels(planes=PLANES[:1]))
    np.testing.assert_array_equal(read_all_ways(data, tmp_path / "plane.tif"), PLANES[:1])


def test_no_other_file_of_a_set_is_opened(tmp_path):
    opened: list[str] = []
    is_on = True

    def see(event: str, details: tuple) -> None:
        if is_on and event == "open" and str(details[0]).startswith(str(tmp_path)):
            opened.append(str(details[0]))

    path = tmp_path / "bright.tif"
    data = paged([text(ome(*SET, uuid="bright", sizes=SET_SIZES))])
    for other in ("stain0", "stain1", "stain2", "companion"):
        (tmp_path / f"{other}.tif").write_bytes(data)
    sys.addaudithook(see)
    try:
        read_all_ways(data, path)
        only = f"<OME xmlns='{NAMESPACE}'><BinaryOnly MetadataFile='companion.tif' UUID='a'/></OME>"
        np.testing.assert_array_equal(read_all_ways(paged([text(only)]), path), PLANES)
    finally:
        is_on = False
    assert set(opened) == {str(path)}


@pytest.mark.parametrize("order", [[6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 1, 5, 2, 4]], ids=str)
@pytest.mark.parametrize("uuid", ["", "a"])
def test_planes_come_in_the_order_that_ome_xml_tells(order, uuid, tmp_path):
    data = paged([text(ome(*(data_of(ifd, z, uuid) for z, ifd in enumerate(order))))])
    np.testing.assert_array_equal(read_all_ways(data, tmp_path / "stack.tif"), PLANES[order])


def test_planes_of_one_time_and_channel_among_others_are_a_stack(tmp_path):
    data = [data_of(0, 0, "a", c=1, t=2, n=N), data_of(0, 0, "b", c=1, t=1, n=N)]
    whole = paged([text(ome(*data, sizes="SizeZ='7' SizeC='2' SizeT='3'"))])
    np.testing.assert_array_equal(read_all_ways(whole, tmp_path / "stack.tif"), PLANES)


def test_images_in_other_files_of_a_set_may_be_of_any_type(tmp_path):
    other = f"<Image><Pixels Type='float' SizeZ='1'>{data_of(0, 0, 'b')}</Pixels></Image></OME>"
    description = ome(*(data_of(z, z, "a") for z in range(N))).replace("</OME>", other)
    data = paged([text(description)])
    np.testing.assert_array_equal(read_all_ways(data, tmp_path / "stack.tif"), PLANES)


@pytest.mark.parametrize("data", ["", "<TiffData/>", "<TiffData IFD='0' PlaneCount='7'/>"])
def test_data_that_names_no_planes_is_all_pages(data, tmp_path):
    whole = paged([text(ome(data, uuid=""))])
    np.testing.assert_array_equal(read_all_ways(whole, tmp_path / "stack.tif"), PLANES)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (ome(data_of(0, 0, n=6)), "7 pages, but its OME-XML tells of 6 planes"),
        (ome(data_of(0, 0, n=8), sizes="SizeZ='8'"), "7 pages, but its OME-XML tells of 8"),
        (ome("", sizes="SizeZ='9'"), "7 pages, but its OME-XML tells of 8 planes"),
        (ome(*(data_of(0, z) for z in range(N))), "7 pages, but its OME-XML tells of 7 planes"),
        (ome(*(data_of(i, 0) for i in range(N))), "7 pages, but its OME-XML tells of 7 planes"),
        (
            ome(
                *(data_of(i, i) for i in range(4)),
                *(data_of(4 + i, i, t=1) for i in range(3)),
                sizes="SizeZ='4' SizeC='1' SizeT='2'",
            ),
            "2 along time and 4 along depth",
        ),
        (
            ome(
                *(f"<Channel ID='{c}' Name='stain {c}'/>" for c in range(N)),
                sizes="SizeZ='1' SizeC='7' SizeT='1'",
            ),
            "7 along colour",
        ),
        (
            ome("</Pixels></Image><Image><Pixels SizeZ='7' SizeC='1' SizeT='1'>")
            .replace("</Pixels></Image><Image", "<TiffData PlaneCount='3'/></Pixels></Image><Image")
            .replace(
                "</Pixels></Image></OME>",
                "<TiffData IFD='3' PlaneCount='4'/></Pixels></Image></OME>",
            ),
            "2 along position",
        ),
        (
            ome(
                *(data_of(6 - z, z, "a") for z in range(N)),
                *(data_of(z, z, "b") for z in range(N)),
                uuid="",
            ),
            "OME-XML of several files, and does not tell which",
        ),
        (ome("").replace("uint16", "int16"), "pixels of type int16, by its OME-XML"),
        (ome("").replace("uint16", "float"), "pixels of type float, by its OME-XML"),
        (ome("<a b=c/>"), "OME-XML that is damaged"),
        (ome("<a/>" * 300_000), "OME-XML that is damaged or too long to be read"),
    ],
    ids=[
        "fewer",
        "more",
        "many more",
        "one page",
        "one plane",
        "times",
        "named channels",
        "images",
        "two files",
        "signed",
        "float",
        "damaged",
        "long",
    ],
)
def test_ome_xml_of_other_planes_is_refused(description, message, tmp_path):
    refuse_all_ways(paged([text(description)]), tmp_path / "stack.tif", message)


# Other kinds of stacks


def test_tifffiles_and_imagejs_stacks_of_pages_are_read(tmp_path):
    for options in ({}, {"imagej": True}, {"ome": True}, {"metadata": {"axes": "ZYX"}}):
        data = tiff_of(PLANES, **options)
        np.testing.assert_array_equal(read_all_ways(data, tmp_path / "stack.tif"), PLANES)


def test_planes_that_were_written_one_by_one_are_read(tmp_path):
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for plane in PLANES:
            writer.write(plane, photometric="minisblack")
    np.testing.assert_array_equal(read_all_ways(buffer.getvalue(), tmp_path / "s.tif"), PLANES)


def test_a_page_for_each_entry_of_metamorphs_tables_is_read(tmp_path):
    data = paged(metamorph())
    np.testing.assert_array_equal(read_all_ways(data, tmp_path / "stack.tif"), PLANES)


def zeiss(**lengths: int) -> Tag:
    """The table of an LSM file, as far as its lengths of axes."""
    table = struct.pack("<2I5i", 50350412, 28, 10, 12, lengths["z"], 1, lengths["t"])
    return Tag(34412, 1, table)


def fluoview(*lengths: tuple[str, int]) -> Tag:
    entries = b"".join(struct.pack("<16sidd64s", a.encode(), n, 0, 1, b"") for a, n in lengths)
    return Tag(34361, 1, bytes(284) + entries.ljust(1000, b"\0") + bytes(1000))


def olympus(dimension: str) -> Tag:
    return Tag(33471, ASCII, f"[Image]\na=b\n[Dimension]\n{dimension}\n[Z]\nZPos1=0\n".encode())


@pytest.mark.parametrize(
    "tag",
    [
        zeiss(z=N, t=1),
        fluoview(("X", 10), ("Y", 12), ("Z", N)),
        olympus(f"Z={N}\nBand=1\nTime=1"),
    ],
    ids=["LSM", "FluoView", "Olympus"],
)
def test_a_makers_z_planes_are_read(tag, tmp_path):
    np.testing.assert_array_equal(read_all_ways(paged([tag]), tmp_path / "stack.tif"), PLANES)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([zeiss(z=3, t=2)], "3 along depth and 2 along time"),
        ([zeiss(z=14, t=1)], "7 pages, but its Zeiss' table tells of 14 planes"),
        ([fluoview(("X", 10), ("Y", 12), ("Z", 3), ("Ch", 2))], "3 along depth and 2 along colour"),
        ([fluoview(("X", 10), ("Y", 12), ("Ch", 7))], "7 along colour"),
        ([olympus("Z=3\nBand=2")], "3 along depth and 2 along colour"),
        ([Tag(305, ASCII, b"SI.LINE=1\0")], "ordered as ScanImage does it"),
        ([text("Aperio Image Library\0")], "ordered as an Aperio slide scanner"),
        ([text("<scn></scn>\0")], "ordered as a Leica slide scanner"),
        ([text("ImageJ=1\nimages=7\nchannels=7\nmode=composite\n")], "7 along colour"),
    ],
    ids=[
        "LSM, times",
        "LSM, others",
        "FluoView",
        "colours",
        "Olympus",
        "ScanImage",
        "Aperio",
        "Leica",
        "ImageJ",
    ],
)
def test_a_makers_pages_that_are_no_z_planes_are_refused(tags, message, tmp_path):
    refuse_all_ways(paged(tags), tmp_path / "stack.tif", message)


# Reduced copies


def thumbnails(n: int) -> bytes:
    """Planes with a thumbnail behind each, as LSM and others have them."""
    pages = []
    for i in range(n):
        pages.append(grey(i))
        small = changed(changed(grey(i), WIDTH, values=[5]), HEIGHT, values=[6])
        small = changed(small, OFFSETS, values=[START + (n + i) * PLANE_BYTES])
        pages.append([*changed(small, 279, values=[60]), Tag(254, LONG, [1])])
    return tiff(pages, pixels() + bytes(PLANE_BYTES * n))


def test_a_reduced_copy_is_no_plane(tmp_path):
    path = tmp_path / "stack.tif"
    np.testing.assert_array_equal(read_all_ways(thumbnails(N), path), PLANES)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:  # a pyramid, in directories below
        for plane in PLANES:
            writer.write(plane, photometric="minisblack", subifds=1)
            writer.write(plane[::2, ::2], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(read_all_ways(buffer.getvalue(), path), PLANES)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:  # and among the pages
        writer.write(PLANES[0], photometric="minisblack")
        for step in (2, 3, 4):
            writer.write(PLANES[0, ::step, ::step], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(read_all_ways(buffer.getvalue(), path), PLANES[:1])


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ([grey(0, Tag(254, LONG, [1])), grey(1)], "begins with a reduced copy"),
        ([grey(0, Tag(254, LONG, [1]))], "begins with a reduced copy"),
        ([grey(0), grey(1, Tag(254, LONG, [1]))], "a page of full size that it calls a reduced"),
        ([grey(0), grey(1, Tag(254, LONG, [4]))], "a page that masks another"),
        (
            [grey(0), changed(grey(1), HEIGHT, values=[6])],
            r"pages of \(12, 10\) uint16 and of \(6, 10\) uint16",
        ),
    ],
    ids=["first", "alone", "full size", "mask", "not told"],
)
def test_what_may_be_a_reduced_copy_or_a_mask_is_refused(pages, message, tmp_path):
    data = tiff(pages, pixels(planes=PLANES[: len(pages)]))
    refuse_all_ways(data, tmp_path / "stack.tif", message)


@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize("n", [1, 6])
def test_images_of_full_size_below_a_page_are_refused(n, is_big, tmp_path):
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, bigtiff=is_big) as writer:
        writer.write(PLANES[0], photometric="minisblack", subifds=n)
        for plane in PLANES[1 : n + 1]:
            writer.write(plane, photometric="minisblack")
    refuse_all_ways(buffer.getvalue(), tmp_path / "stack.tif", "image of full size below a page")


def test_many_reduced_copies_do_not_hide_a_plane(tmp_path):
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(PLANES[0], photometric="minisblack")
        for _ in range(20):
            writer.write(PLANES[0, ::2, ::2], photometric="minisblack", subfiletype=1)
        writer.write(PLANES[1], photometric="minisblack")
    with pytest.raises(ImageError, match="more than 1 pages"):
        decode_stack(buffer.getvalue(), 1)


# Values that are no counts


GDAL = b"<GDALMetadata><Item name='O' sample='0' role=\"%s\">%s</Item></GDALMetadata>\0"
SIGNED = "ImageJ=1.54f\ncf=0\nc0=-32768.0\nc1=1.0\nvunit=gray value\n"


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (changed(grey(), 262, values=[0]), r"grey counts \(MINISWHITE\): zero must be black"),
        (changed(grey(), 262, values=[3]), r"\(PALETTE\): .*without a palette"),
        (changed(grey(), 262, values=[4]), r"\(MASK\)"),
        (changed(grey(), 262, values=[32803]), r"\(CFA\)"),
        (changed(grey(), 262, values=[999]), r"\(999\)"),
        (grey(0, text(SIGNED)), r"calibrated values \(ImageJ: cf=0, c0=-32768.0, c1=1.0\)"),
        (grey(0, text("ImageJ=1.54f\ncf=3\nc0=1\nc1=2\nc2=5\n")), "calibrated values"),
        (grey(0, text("ImageJ=1.54f\ncf=21\n")), "calibrated values"),
        (grey(0, Tag(42112, ASCII, GDAL % (b"offset", b"-1000"))), r"calibrated .*GDAL: offset"),
        (grey(0, Tag(42112, ASCII, GDAL % (b"scale", b"0.5"))), r"calibrated .*GDAL: scale"),
        (grey(0, Tag(33445, LONG, [2])), "calibrated .*Molecular Dynamics"),
        (grey(0, Tag(339, SHORT, [2])), "pixels of type int16"),
        (changed(grey(), 277, values=[2]), "colour"),
        (changed(grey(0, Tag(338, SHORT, [2])), 277, values=[2]), "colour"),
        (changed(grey(0, Tag(284, SHORT, [2])), 277, values=[3]), "colour"),
        (grey(0, Tag(32997, LONG, [7])), "colour"),
    ],
    ids=[
        "white is zero",
        "palette",
        "mask",
        "mosaic",
        "unknown",
        "ImageJ's signed",
        "ImageJ's polynomial",
        "optical density",
        "GDAL's offset",
        "GDAL's scale",
        "gel",
        "signed",
        "two samples",
        "alpha",
        "planar",
        "volume",
    ],
)
def test_values_that_are_no_counts_are_refused(page, message, tmp_path):
    path = tmp_path / "image.tif"
    data = tiff([page], pixels(planes=PLANES[:1]))
    path.write_bytes(data)
    with pytest.raises(ImageError, match=f"^{path} .*{message}"):
        read_header(path)
    with pytest.raises(ImageError, match=message):
        decode_stack(data, 1)


@pytest.mark.parametrize(
    "tags",
    [
        [text("ImageJ=1.54f\ncf=0\nc0=0.0\nc1=1.0\n")],
        [Tag(42112, ASCII, GDAL % (b"offset", b"0"))],
        [Tag(42112, ASCII, GDAL % (b"scale", b"1.0"))],
    ],
    ids=["ImageJ", "offset", "scale"],
)
def test_a_calibration_that_changes_nothing_is_none(tags, tmp_path):
    data = tiff([grey(0, *tags)], pixels(planes=PLANES[:1]))
    np.testing.assert_array_equal(read_all_ways(data, tmp_path / "image.tif"), PLANES[:1])


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_bits_are_unpacked(bits, tmp_path):
    plane = PLANES[0] >> (16 - bits)
    packed = imagecodecs.packints_encode(plane, bits, runlen=10)
    tags = changed(changed(grey(), 258, values=[bits]), 279, values=[len(packed)])
    data = tiff([tags], packed)
    np.testing.assert_array_equal(read_all_ways(data, tmp_path / "image.tif")[0], plane)


def test_a_next_page_past_the_end_is_told(tmp_path):
    for next_page in (10**6, 2**32 - 1):
        data = tiff([grey()], pixels(planes=PLANES[:1]), next_after_last=next_page)
        refuse_all_ways(data, tmp_path / "stack.tif", "cut short: its next page lies past its end")
