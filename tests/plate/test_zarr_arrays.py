"""Arrays of zarr are read as the library zarr reads them, but under limits."""

import contextlib
import json
import re

import numpy as np
import pytest
import zarr
from numcodecs import BZ2, LZ4, Blosc, GZip, Zlib, Zstd
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, TransposeCodec, ZstdCodec

from adipocyte.errors import ImageError
from adipocyte.plate.planes import fingerprints, plane_in, read_header, read_images, read_stack
from adipocyte.plate.zarr_arrays import open_array, read_planes

COUNTS = np.random.default_rng(0).integers(1, 65536, (2, 3, 11, 13), dtype=np.uint16)
INDICES = [(1, 2), (0, 0), (1, 0), (0, 2)]
OF_V2 = [
    {"compressors": codec} for codec in (None, Blosc(), Zstd(), Zlib(), GZip(), BZ2(), LZ4())
] + [{"order": "F"}, {"chunk_key_encoding": {"name": "v2", "separator": "/"}}]
OF_V3 = [
    {"compressors": codec} for codec in (None, BloscCodec(), ZstdCodec(checksum=True), GzipCodec())
] + [
    {"filters": TransposeCodec(order=(3, 0, 2, 1))},
    {"serializer": BytesCodec(endian="big")},
    {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    {"chunk_key_encoding": {"name": "default", "separator": "."}},
    {"shards": (2, 4, 10, 16)},
]


def written(folder, counts=COUNTS, zarr_format=2, **options):
    """An array of *counts* as the library writes it."""
    path = folder / "0"
    chunks = options.pop("chunks", (1, 2, 5, 8)[-counts.ndim :])
    zarr.create_array(path, data=counts, chunks=chunks, zarr_format=zarr_format, **options)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2"])
@pytest.mark.parametrize(
    ("zarr_format", "options"),
    [(2, one) for one in OF_V2] + [(3, one) for one in OF_V3],
    ids=lambda value: (
        "-".join(f"{one}".split("(")[0] for one in value.values())
        if isinstance(value, dict)
        else str(value)
    ),
)
def test_planes_are_those_that_the_library_reads(tmp_path, zarr_format, options, dtype):
    if dtype == ">u2" and zarr_format == 3:
        pytest.skip("zarr 3 tells the order of bytes in a codec")
    counts = COUNTS.astype(dtype)
    path = written(tmp_path, counts, zarr_format, **options)
    array = open_array(path)
    assert (array.shape, array.dtype) == (counts.shape, counts.dtype.name)
    np.testing.assert_array_equal(
        read_planes(array, INDICES), [zarr.open_array(path)[index] for index in INDICES]
    )


def test_an_array_may_have_two_axes_and_chunks_that_are_left_out(tmp_path):
    counts = np.zeros((11, 13), np.uint16)
    counts[0, 0] = 7
    path = plane_in(written(tmp_path, counts, fill_value=0), ())
    assert read_header(path).shape == (11, 13)
    np.testing.assert_array_equal(read_stack(path, 1)[0], counts)
    np.testing.assert_array_equal(read_images([path])[0], counts)


def change(path, **told):
    """Change what an array says of itself."""
    description = path / ".zarray"
    description.write_text(json.dumps(json.loads(description.read_text()) | told))


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({"dtype": "|O"}, "values of type '|O'"),
        ({"dtype": [["a", "<u2"]]}, "cannot be read as an array"),
        ({"dtype": "<f4"}, "values of type '<f4'"),
        ({"filters": [{"id": "pickle", "protocol": 5}]}, "stored with 'pickle'"),
        ({"filters": [{"id": "delta", "dtype": "<u2"}]}, "stored with 'delta'"),
        ({"compressor": {"id": "msgpack2"}}, "stored with 'msgpack2'"),
        ({"chunks": [1, 2, 20_000, 20_000]}, "chunks of [1, 2, 20000, 20000] pixels"),
        ({"shape": [2, 3, 10_001, 13]}, "6 planes of 10001 x 13 pixels"),
        ({"shape": [10**6, 3, 11, 13]}, "3000000 planes"),
        ({"shape": [2, 3, 9000, 9000], "chunks": [1, 2, 1, 1]}, "chunks of [1, 2, 1, 1]"),
        ({"shape": [2, 3, 0, 13]}, "has the shape [2, 3, 0, 13]"),
        ({"shape": [11, 13]}, "in chunks of [1, 2, 5, 8]"),
        ({"fill_value": -1}, "filled with -1"),
        ({"dimension_separator": "/../"}, "chunks named with '/../'"),
        ({"filters": 5}, "cannot be read as an array"),
    ],
)
def test_an_array_is_refused_by_what_it_says_of_itself(tmp_path, told, found):
    path = written(tmp_path)
    change(path, **told)
    with pytest.raises(ImageError, match=re.escape(found)) as refusal:
        read_header(plane_in(path, (0, 0)))
    assert str(path) in refusal.value.found


def test_damaged_chunks_are_refused_and_take_no_more_memory_than_they_should(tmp_path):
    path = written(tmp_path, compressors=Blosc())
    chunk = path / "0.0.0.0"
    whole = chunk.read_bytes()
    bomb = bytes(Blosc().encode(bytes(10**7)))
    for damaged in (b"", whole[:-1], whole[:20], whole + b"x", bomb, b"x" * 10_000):
        chunk.write_bytes(damaged)
        with pytest.raises(ImageError, match=r"chunk \[0, 0, 0, 0\] of .* cannot be decoded"):
            read_images([plane_in(path, (0, 0))])
    chunk.unlink()
    assert read_images([plane_in(path, (0, 0))])[0][:5, :8].max() == 0  # as zarr has it
    for one in path.glob("0.0.*"):
        one.unlink()
    with pytest.raises(ImageError, match=r"has no chunk of plane \[0, 1\]"):
        read_images([plane_in(path, (0, 1))])
    with pytest.raises(ImageError, match=r"has no plane \[2, 0\]"):
        read_images([plane_in(path, (2, 0))])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_no_change_of_a_byte_leads_to_another_error(tmp_path, zarr_format):
    options = {"shards": (2, 4, 10, 16)} if zarr_format == 3 else {}
    path = written(tmp_path, zarr_format=zarr_format, **options)
    random = np.random.default_rng(1)
    files = [one for one in sorted(path.rglob("*")) if one.is_file() and one.name != ".zattrs"]
    for file in files[:2]:
        whole = file.read_bytes()
        for place in random.choice(len(whole), min(120, len(whole)), replace=False):
            file.write_bytes(whole[:place] + bytes([random.integers(256)]) + whole[place + 1 :])
            with contextlib.suppress(ImageError):
                read_images([plane_in(path, index) for index in INDICES])
        file.write_bytes(whole)


def test_a_plane_is_known_to_have_changed_when_a_chunk_did(tmp_path):
    path = written(tmp_path)
    planes = [plane_in(path, index) for index in INDICES]
    before = fingerprints(planes)
    assert fingerprints(planes) == before
    assert len({*before}) == len(planes)
    chunk = next(path.glob("1.*"))
    chunk.write_bytes(chunk.read_bytes() + b"x")
    assert not {*before} & {*fingerprints(planes)}
