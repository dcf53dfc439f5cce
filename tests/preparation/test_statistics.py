"""Statistics of the training wells."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from adipocyte.domain import BRIGHTFIELD, TARGETS, FieldKey
from adipocyte.errors import PlateError
from adipocyte.imaging.normalisation import field_scaling
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.scan import scan_plate
from adipocyte.simulation import Conditions, simulate_field
from tests.support.stores import prepared


def test_statistics_are_those_of_the_training_wells_alone(small_store):
    for magnification in (20, 40):
        keys = [key for key in small_store.keys("train") if key.magnification == magnification]
        assert {key.well for key in keys} == {"C02", "C03"}
        pixels = {
            target: np.stack([small_store.target(key, target) for key in keys])
            for target in TARGETS
        }
        pixels[BRIGHTFIELD] = np.stack([small_store.planes(key) for key in keys])
        for channel, counts in pixels.items():
            scaling = small_store.scaling(magnification, channel)
            np.testing.assert_allclose(
                (scaling.mean, scaling.std), (counts.mean(), counts.std()), rtol=1e-9
            )
            assert small_store.median(magnification, channel) == np.median(counts)
            np.testing.assert_array_equal(
                small_store.histogram(magnification, channel),
                np.bincount(counts.ravel(), minlength=65536),
            )


def test_normalisation_report_is_table_3_1_for_brightfield_and_measured_for_the_rest(
    small_plate, small_store, tmp_path
):
    store = prepared(small_plate, tmp_path / "store", normalisation="report")
    brightfield = [store.scaling(magnification, BRIGHTFIELD) for magnification in (20, 40)]
    assert [(scaling.mean, scaling.std) for scaling in brightfield] == [(2594, 966), (713, 282)]
    assert store.scaling(20, "A2") == small_store.scaling(20, "A2")


def test_normalisation_field_is_each_fields_own_brightfield(small_plate, small_store, tmp_path):
    store = prepared(small_plate, tmp_path / "store", normalisation="field")
    assert store.digest != small_store.digest
    for key in store.manifest.fields:
        histogram = np.bincount(store.planes(key).ravel(), minlength=65536)
        assert store.field_scaling(key, BRIGHTFIELD) == field_scaling(histogram)
        for channel in (BRIGHTFIELD, *TARGETS):
            of_plate = small_store.scaling(key.magnification, channel)
            assert small_store.field_scaling(key, channel) == of_plate
    keys = [key for key in store.keys("train") if key.magnification == 20]
    lights = [store.field_scaling(key, BRIGHTFIELD) for key in keys]
    assert store.scaling(20, BRIGHTFIELD).std == pytest.approx(np.mean([x.std for x in lights]))
    assert store.median(20, "A2") == small_store.median(20, "A2")


def plate_of(folder: Path, wells: dict[str, list[Conditions]]) -> Path:
    """Fields of the *wells* under these conditions; those of the same number are the same scene."""
    for well, fields in wells.items():
        for fov, conditions in enumerate(fields, start=1):
            made = simulate_field(20, (128, 128), seed=(3, fov), conditions=conditions)
            write_field(folder, FieldKey(20, well, fov), RawField(made.planes, made.targets))
    return folder


def test_a_stain_is_in_units_of_its_wells_level_which_its_strength_changes_alone(tmp_path):
    weak = Conditions(stains=dict.fromkeys(TARGETS, 0.4))
    usual = Conditions()
    wells = {"B03": [usual, usual], "C02": [usual, usual], "D02": [weak, weak]}
    plate = plate_of(tmp_path / "plate", wells)
    settings = {"validation_wells": "B03", "test_wells": "D02", "align": "none"}
    store = prepared(plate, tmp_path / "store", normalisation="field", **settings)
    strong, again, faint = (FieldKey(20, *one) for one in (("C02", 1), ("C02", 2), ("D02", 1)))
    for target in TARGETS:
        assert store.field_scaling(strong, target) == store.field_scaling(again, target)
        units = [
            store.field_scaling(key, target).normalise(store.stain(key, target))
            for key in (strong, faint)
        ]
        # The same scene, stained less than half as strongly, but for its noise and debris.
        assert units[0].std() == pytest.approx(1, abs=0.35)
        assert units[1].std() == pytest.approx(units[0].std(), rel=0.15)
        assert np.median(units[1]) == pytest.approx(np.median(units[0]), abs=0.1)
        ratio = store.field_scaling(faint, target).std / store.field_scaling(strong, target).std
        assert ratio == pytest.approx(0.4, rel=0.15)
    # The training wells' mean and deviation in these units are 0 and 1.
    both = np.stack(
        [
            store.field_scaling(key, "A2").normalise(store.stain(key, "A2"))
            for key in store.keys("train")
        ]
    )
    assert (both.mean(), both.std()) == pytest.approx((0, 1), abs=1e-4)


def test_a_constant_stain_has_no_scaling_of_its_own(small_plate, tmp_path):
    plate = shutil.copytree(small_plate, tmp_path / "plate")
    key = FieldKey(20, "C02", 1)
    [files] = [one for one in scan_plate(plate).fields if one.key == key]
    path = files.targets["A3"]
    tifffile.imwrite(path, np.full_like(tifffile.imread(path), 300))
    with pytest.raises(PlateError, match="A3 of field 20x C02 F001 is constant: remove the field"):
        prepared(plate, tmp_path / "store", normalisation="field")
    assert prepared(plate, tmp_path / "store").field_scaling(key, "A3").std > 0
