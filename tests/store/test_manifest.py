"""Only a whole store of this code's format opens; others are refused with the next command."""

import json
import os
import shutil

import pytest

from adipocyte.errors import StoreError
from adipocyte.store.paths import field_path
from adipocyte.store.reader import Store


@pytest.fixture
def store(small_store, tmp_path):
    """A store to damage, without its pixels."""
    shutil.copytree(small_store.folder, tmp_path / "store", ignore=shutil.ignore_patterns("*.zarr"))
    return tmp_path / "store"


def test_a_store_that_is_not_there_is_refused_with_the_next_command(tmp_path):
    with pytest.raises(
        StoreError, match=r"is not there: prepare one with mlflow run \. -e preprocess -P plate="
    ):
        Store(tmp_path / "store")


def test_a_store_that_is_not_whole_is_refused_with_the_next_command(store):
    (store / "manifest.json").unlink()
    with pytest.raises(
        StoreError,
        match=r"is not whole \(its preprocessing did not finish\): prepare one with mlflow run",
    ):
        Store(store)


def test_a_store_of_a_newer_format_is_refused_with_both_formats(store):
    content = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps({**content, "format": 4, "novelty": True}))
    with pytest.raises(
        StoreError,
        match="has format 4, but this code reads formats 2 and 3: prepare one with mlflow run",
    ):
        Store(store)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 2}', '{"format": 2, "fields": [], "targets": [], "split": []}'],
)
def test_a_damaged_manifest_is_refused_with_its_file(store, content):
    (store / "manifest.json").write_text(content)
    with pytest.raises(
        StoreError,
        match=r"manifest\.json is damaged .*: remove .* and prepare one with mlflow run",
    ):
        Store(store)


def test_a_store_is_opened_again_as_it_was_prepared(small_store):
    assert Store(small_store.folder).manifest == small_store.manifest


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "2"),
        ("origin", {"plate": "a", "files": "b", "settings": []}),
        ("n_z_planes", "7"),
        ("targets", ["../A1"]),
        ("split", {"train": ["B02"]}),
        ("fields", {"a": 1}),
        ("scalings", {"20": []}),
        ("medians", None),
        ("alignments", {"20": {"1": {"dy_px": "1", "dx_px": 0, "scale": 1}}}),
        ("registrations", [1]),
        ("problems", [{"where": 1}]),
    ],
)
def test_a_manifest_of_another_form_is_damaged(store, key, value):
    content = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps({**content, key: value}))
    with pytest.raises(StoreError, match="is damaged"):
        Store(store)


@pytest.mark.parametrize(
    "changed",
    [
        {"magnification": "x/../../20"},
        {"magnification": 30},
        {"well": "../B02"},
        {"fov": -1},
        {"shape": [10**9, 10**9]},
        {"shape": ["a", 1]},
    ],
)
def test_a_field_in_an_impossible_place_is_damaged(store, changed):
    content = json.loads((store / "manifest.json").read_text())
    content["fields"][0] |= changed
    (store / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match="is damaged"):
        Store(store)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", "{"])
def test_json_of_any_content_is_damaged(store, text):
    (store / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match="is damaged"):
        Store(store)


def test_histograms_that_are_no_regular_file_are_never_opened(store):
    (store / "histograms.safetensors").unlink()
    os.mkfifo(store / "histograms.safetensors")
    with pytest.raises(StoreError, match="it is a FIFO"):
        Store(store).histogram(20, "A1")


def test_a_chunk_that_is_no_regular_file_is_never_opened(small_store, tmp_path):
    folder = shutil.copytree(small_store.folder, tmp_path / "whole")
    store = Store(folder)
    key = next(iter(store.manifest.fields))
    chunk = next(
        path for path in (field_path(folder, key) / "0" / "c").rglob("*") if path.is_file()
    )
    chunk.unlink()
    os.mkfifo(chunk)
    with pytest.raises(StoreError, match="it is a FIFO, not a file"):
        store.planes(key)


@pytest.mark.parametrize("changed", ["shape", "chunks", "type", "FIFO", "JSON"])
def test_an_array_that_is_not_as_the_manifest_says_is_not_read(small_store, tmp_path, changed):
    folder = shutil.copytree(small_store.folder, tmp_path / "whole")
    store = Store(folder)
    key = next(iter(store.manifest.fields))
    path = field_path(folder, key) / "0" / "zarr.json"
    stated = json.loads(path.read_text())
    if changed == "FIFO":
        path.unlink()
        os.mkfifo(path)
    elif changed == "JSON":
        path.write_text("[]")
    else:
        stated |= {
            "shape": {"shape": [10, 10**6, 10**6]},
            "chunks": {
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**5] * 3}}
            },
            "type": {"data_type": "float64", "fill_value": 0.0},
        }[changed]
        path.write_text(json.dumps(stated))
    with pytest.raises(StoreError, match=f"{path.parent}.*prepare the plate again"):
        store.plane(key, 0)
