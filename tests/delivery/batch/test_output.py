"""Stained plates go to a folder, or to any place that fsspec knows; what is there is whole."""

from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from adipocyte.delivery.batch.output import Output
from adipocyte.errors import ConfigError, OutputError


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
    assert (out.files(), out.read("20x_images/a.tif")) == (set(), None)
    for data in (b"first", b"second, and longer"):
        out.write("20x_images/a.tif", data)
        assert out.read("20x_images/a.tif") == data
    out.write("manifest.json", b"{}")
    assert out.files() == {"20x_images/a.tif", "manifest.json"}


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
    out.write("a.tif", b"before")

    def lose(file: MemoryFile) -> None:
        raise OSError("the line is dead")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFile, "commit", lose)
        with pytest.raises(OutputError, match=r"cannot be written to .OSError: the line is dead"):
            out.write("a.tif", b"after")
    assert out.read("a.tif") == b"before"
    out.write("a.tif", b"after")
    assert out.read("a.tif") == b"after"


def test_a_place_that_fails_is_named_with_what_to_do(tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise KeyError("credentials")  # each place has its own errors

    out = Output(f"memory://{tmp_path.name}")
    for method in ("find", "cat_file"):
        monkeypatch.setattr(MemoryFileSystem, method, fail)
    for look in (out.files, lambda: out.read("a.tif")):
        with pytest.raises(
            OutputError,
            match=f"memory://{tmp_path.name} cannot be .*credentials.*run the same command again",
        ):
            look()


def test_an_address_of_no_known_kind_is_refused():
    with pytest.raises(
        ConfigError, match=r"nowhere://stained is no place to write to .*nowhere.*-P out=stained"
    ):
        Output("nowhere://stained")


def test_a_kind_whose_package_is_not_here_is_refused_with_its_name():
    with pytest.raises(ConfigError, match=r"gs://stained is no place to write to .*gcsfs"):
        Output("gs://stained")
