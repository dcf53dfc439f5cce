"""A store gives back the plate's own counts."""

import os
import shutil

import numpy as np
import pytest

from adipocyte.domain import TARGETS
from adipocyte.errors import StoreError
from adipocyte.plate.fields import read_field
from adipocyte.plate.scan import scan_plate
from adipocyte.store.reader import Store


def test_a_store_gives_back_the_counts_of_the_tiffs(small_plate, small_store):
    files = scan_plate(small_plate).fields
    assert list(small_store.manifest.fields) == [field.key for field in files]
    for key, field in ((one.key, read_field(one, TARGETS)) for one in files):
        assert small_store.shape(key) == (96, 80)
        np.testing.assert_array_equal(small_store.planes(key), field.planes)
        for target in TARGETS:
            np.testing.assert_array_equal(small_store.target(key, target), field.targets[target])


def test_a_window_is_that_part_of_the_field(small_store):
    key, window = small_store.keys("test")[0], np.s_[17:60, 3:80]
    planes, [lipids] = small_store.planes_and_targets(key, ["A2"], window)
    np.testing.assert_array_equal(planes, small_store.planes(key)[:, *window])
    np.testing.assert_array_equal(planes, small_store.planes(key, window))
    np.testing.assert_array_equal(lipids, small_store.target(key, "A2")[window])
    np.testing.assert_array_equal(small_store.target(key, "A2", window), lipids)
    np.testing.assert_array_equal(small_store.mask(key, window), small_store.mask(key)[window])


def test_fields_kept_in_memory_are_read_no_more(small_store, tmp_path):
    store = Store(shutil.copytree(small_store.folder, tmp_path / "store"))
    first, second, *_ = store.manifest.fields
    store.keep([first, second], most_mb=0.16)  # a field has 96 x 80 pixels of ten channels
    shutil.rmtree(tmp_path / "store")
    window = np.s_[17:60, 3:80]
    np.testing.assert_array_equal(store.planes(first, window), small_store.planes(first, window))
    np.testing.assert_array_equal(store.target(first, "A2"), small_store.target(first, "A2"))
    with pytest.raises(StoreError):
        store.planes(second)


def test_without_alignment_a_field_is_valid_whole(small_store):
    for key in small_store.manifest.fields:
        assert small_store.alignment(key).is_identity
        assert small_store.valid(key) == np.s_[0:96, 0:80]


def test_a_store_may_be_moved(small_store, tmp_path):
    os.symlink(small_store.folder, tmp_path / "elsewhere")
    key = small_store.keys("test")[0]
    np.testing.assert_array_equal(Store(tmp_path / "elsewhere").mask(key), small_store.mask(key))
