"""Statistics of the training wells."""

import shutil

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


def test_normalisation_field_is_each_fields_own_and_painted_counts_are_of_their_mean(
    small_plate, small_store, tmp_path
):
    store = prepared(small_plate, tmp_path / "store", normalisation="field")
    assert store.digest != small_store.digest
    for key in store.manifest.fields:
        images = {target: store.stain(key, target) for target in TARGETS}
        for channel, counts in {**images, BRIGHTFIELD: store.planes(key)}.items():
            expected = field_scaling(np.bincount(counts.ravel(), minlength=65536))
            assert store.field_scaling(key, channel) == expected
            assert small_store.field_scaling(key, channel) == small_store.scaling(
                key.magnification, channel
            )
    keys = [key for key in store.keys("train") if key.magnification == 20]
    stds = [store.field_scaling(key, "A2").std for key in keys]
    assert len(keys) == 2
    assert stds[0] != stds[1]
    assert store.scaling(20, "A2").std == pytest.approx(np.mean(stds))
    assert store.median(20, "A2") == small_store.median(20, "A2")


def test_a_field_is_painted_in_units_of_its_wells_stains(tmp_path):
    for fov, density in ((1, 1.0), (2, 0.05)):
        conditions = Conditions(density=density)
        made = simulate_field(20, (96, 96), seed=(3, fov), conditions=conditions)
        for well in ("B03", "C02", "D02"):
            key = FieldKey(20, well, fov)
            write_field(tmp_path / "plate", key, RawField(made.planes, made.targets))
    settings = {"validation_wells": "B03", "test_wells": "D02", "align": "none"}
    store = prepared(tmp_path / "plate", tmp_path / "store", normalisation="field", **settings)
    dense, sparse = FieldKey(20, "C02", 1), FieldKey(20, "C02", 2)
    assert store.field_scaling(dense, "A2") == store.field_scaling(sparse, "A2")
    assert store.field_scaling(dense, BRIGHTFIELD) != store.field_scaling(sparse, BRIGHTFIELD)
    both = np.concatenate([store.stain(key, "A2").ravel() for key in (dense, sparse)])
    expected = field_scaling(np.bincount(both, minlength=65536))
    assert store.field_scaling(dense, "A2") == expected


def test_a_constant_stain_has_no_scaling_of_its_own(small_plate, tmp_path):
    plate = shutil.copytree(small_plate, tmp_path / "plate")
    key = FieldKey(20, "C02", 1)
    [files] = [one for one in scan_plate(plate).fields if one.key == key]
    path = files.targets["A3"]
    tifffile.imwrite(path, np.full_like(tifffile.imread(path), 300))
    with pytest.raises(PlateError, match="A3 of field 20x C02 F001 is constant: remove the field"):
        prepared(plate, tmp_path / "store", normalisation="field")
    assert prepared(plate, tmp_path / "store").field_scaling(key, "A3").std > 0
