"""Only a whole store of this code's format opens; others are refused with the next command."""

import json
import shutil

import pytest

from adipocyte.errors import StoreError
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
    (store / "manifest.json").write_text(json.dumps({**content, "format": 3, "novelty": True}))
    with pytest.raises(
        StoreError,
        match="has format 3, but this code reads format 2: prepare one with mlflow run",
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
