"""Preparing a field: its mask, and what an earlier preparation left of it."""

import os

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import HCS

from adipocyte.errors import PlateError
from adipocyte.imaging.masks import nuclei_mask
from adipocyte.preparation import field as field_module
from adipocyte.store.paths import plate_path
from tests.support.stores import Killed, damaged, kill, prepared


def test_masks_are_made_of_the_nuclei_stain_with_lengths_that_grow_with_the_magnification(
    small_store,
):
    for key in small_store.manifest.fields:
        zoom = key.magnification // 20
        expected = nuclei_mask(
            small_store.target(key, "A1"),
            threshold=2.0,
            superpixel_px=10 * zoom,
            smallest_px=50 * zoom**2,
        )
        assert small_store.mask(key).dtype == bool
        np.testing.assert_array_equal(small_store.mask(key), expected)
    assert any(small_store.mask(key).any() for key in small_store.keys("train"))


def test_pixels_of_a_killed_preparation_with_other_settings_are_written_again(
    wide_plate, tmp_path, monkeypatch
):
    clean, folder = prepared(wide_plate, tmp_path / "clean"), tmp_path / "store"
    with monkeypatch.context() as patch:
        patch.setattr("adipocyte.preparation.prepare.describe_plates", kill)
        with pytest.raises(Killed):
            prepared(wide_plate, folder)
    with monkeypatch.context() as patch:
        patch.setattr("adipocyte.preparation.field.write_record", kill)
        with pytest.raises(Killed):
            prepared(wide_plate, folder, mask_threshold=1.2)
    store = prepared(wide_plate, folder)
    assert store.digest == clean.digest
    for key in store.manifest.fields:
        np.testing.assert_array_equal(store.mask(key), clean.mask(key))


def test_leftovers_of_other_fields_do_not_get_into_a_store(plate, tmp_path):
    bad = next((plate / "20x_images").glob("*C03*Z06C04.tif"))
    whole = damaged(bad)
    with pytest.raises(PlateError):
        prepared(plate, tmp_path / "store")
    bad.write_bytes(whole)
    for path in (plate / "20x_images").glob("*_C02_*"):
        path.unlink()
    store = prepared(plate, tmp_path / "store")
    assert {key.well for key in store.manifest.fields} == {"B03", "B04", "C03"}
    assert not (store.folder / "20x.zarr" / "C" / "2" / "1").exists()
    HCS.from_zarr(zarr.open_group(plate_path(store.folder, 20), mode="r"))


def test_a_field_that_changes_while_it_is_prepared_is_reported(plate, tmp_path, monkeypatch):
    path, read = next((plate / "20x_images").glob("*C03*Z06C04.tif")), field_module.read_field

    def read_and_touch(files, targets):
        field = read(files, targets)
        os.utime(path, (1, 1))
        return field

    with monkeypatch.context() as patch:
        patch.setattr(field_module, "read_field", read_and_touch)
        with pytest.raises(
            PlateError,
            match=r"20x C03 F001 +changed while it was prepared +run the same command again",
        ):
            prepared(plate, tmp_path / "store")
    assert len(prepared(plate, tmp_path / "store").manifest.fields) == 4
