"""Stained plates go to a folder, or to any place that fsspec knows; what is there is whole."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from adipocyte.delivery.batch import output
from adipocyte.delivery.batch.output import Output
from adipocyte.errors import ConfigError, OutputError
from adipocyte.plate.tiff import encode_image


@pytest.fixture(params=["folder", "file", "memory"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Output:
    """An empty place of each kind, which is not there yet."""
    return Output(
        {
            "folder": str(tmp_path / "out"),
            "file": f"file://{tmp_path}/out",
            "memory": f"memory://{tmp_path.name}/out",
        }[request.param]
    )


def test_what_is_written_can_be_read(out):
    assert (out.files(), out.read_json("20x_images/a.json")) == (set(), None)
    for data in (b"[1]", b"[1, 2, 3]"):
        out.write("20x_images/a.json", data)
        assert out.read_json("20x_images/a.json") == json.loads(data)
    out.write("manifest.json", b"{}")
    assert out.files() == {"20x_images/a.json", "manifest.json"}


def test_what_is_there_is_not_created_again(out):
    assert out.create("20x_images/a.json", b"[1]")
    assert not out.create("20x_images/a.json", b"[2]")
    assert out.read_json("20x_images/a.json") == [1]
    assert out.files() == {"20x_images/a.json"}


def test_of_many_who_create_one_file_at_once_one_succeeds(tmp_path):
    out, together = Output(str(tmp_path)), threading.Barrier(8)

    def create(number: int) -> bool:
        together.wait()
        return out.create("stained.json", b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(create, range(8)))
    assert done.count(True) == 1
    assert out.read_json("stained.json") == done.index(True)
    assert out.files() == {"stained.json"}


def test_a_whole_image_of_the_size_is_told_from_anything_else(out):
    out.write("a.tif", encode_image(np.ones((64, 80), np.uint16)))
    out.write("empty.tif", b"")
    assert out.holds_image("a.tif", (64, 80))
    assert not out.holds_image("empty.tif", (64, 80))
    assert not out.holds_image("none.tif", (64, 80))
    if out.folder:
        out.write("cut.tif", encode_image(np.ones((64, 80), np.uint16))[:-1])
        assert not out.holds_image("cut.tif", (64, 80))
        assert not out.holds_image("a.tif", (80, 64))
        os.mkfifo(out.folder / "pipe.tif")
        assert not out.holds_image("pipe.tif", (64, 80))


@pytest.mark.parametrize("content", [b"[" * 200_000, b"\xff\xfe", b"1" * 5000, b"{"])
def test_what_is_no_json_is_no_value(out, content):
    out.write("a.json", content)
    with pytest.raises(ValueError):  # noqa: PT011  each kind has its own words
        out.read_json("a.json")


def test_a_file_that_is_too_large_is_not_read(out, monkeypatch):
    monkeypatch.setattr(output, "MOST_JSON_BYTES", 10)
    out.write("a.json", b"[1]" + b" " * 7)
    assert out.read_json("a.json") == [1]
    out.write("a.json", b"[1]" + b" " * 8)
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        out.read_json("a.json")


@pytest.mark.parametrize("address", ["", " ", "simplecache::file:///tmp/out"])
def test_an_address_that_is_no_single_place_is_refused(address):
    with pytest.raises(ConfigError, match=r"is no place to write to .*-P out=stained"):
        Output(address)


def test_a_folder_is_named_from_wherever_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for address in ("stained", f"file://{tmp_path}/stained"):
        assert (Output(address).folder, Output(address).address) == (
            tmp_path / "stained",
            str(tmp_path / "stained"),
        )
    assert (Output("memory://stained").folder, Output("memory://stained").address) == (
        None,
        "memory://stained",
    )


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.tif").mkdir()
    with pytest.raises(
        OutputError,
        match=f"{tmp_path} cannot be written to .*IsADirectoryError.*: see that it is there,",
    ):
        Output(str(tmp_path)).write("a.tif", b"pixels")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_a_file_elsewhere_is_whole_or_as_it_was(tmp_path, monkeypatch):
    """Bytes become the file when they are committed at the end."""
    out = Output(f"memory://{tmp_path.name}")
    out.write("a.tif", b'"before"')

    def lose(file: MemoryFile) -> None:
        raise OSError("the line is dead")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFile, "commit", lose)
        with pytest.raises(OutputError, match=r"cannot be written to .OSError: the line is dead"):
            out.write("a.tif", b'"after"')
    assert out.read_json("a.tif") == "before"
    out.write("a.tif", b'"after"')
    assert out.read_json("a.tif") == "after"


def test_a_place_that_fails_is_named_with_what_to_do(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise KeyError("credentials")  # each place has its own errors

    out = Output(f"memory://{tmp_path.name}")
    for method in ("find", "size"):
        monkeypatch.setattr(MemoryFileSystem, method, fail)
    for look in (out.files, lambda: out.read_json("a.tif")):
        with pytest.raises(
            OutputError,
            match=f"memory://{tmp_path.name} cannot be .*credentials.*run the same command again",
        ):
            look()


def test_an_address_of_no_known_kind_is_refused():
    with pytest.raises(
        ConfigError, match=r"'nowhere://stained' is no place to write to .*nowhere.*-P out=stained"
    ):
        Output("nowhere://stained")


def test_a_kind_whose_package_is_not_here_is_refused_with_its_name():
    with pytest.raises(ConfigError, match=r"'gs://stained' is no place to write to .*gcsfs"):
        Output("gs://stained")
