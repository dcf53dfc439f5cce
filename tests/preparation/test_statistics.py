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
from adipocyte.store.reader import Store
from tests.support.stores import prepared


@pytest.fixture(scope="module")
def by_plate(small_plate: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("by_plate") / "store"
    return prepared(small_plate, folder, normalisation="plate")


def test_statistics_are_those_of_the_training_wells_alone(by_plate):
    for magnification in (20, 40):
        keys = [key for key in by_plate.keys("train") if key.magnification == magnification]
        assert {key.well for key in keys} == {"C02", "C03"}
        pixels = {
            target: np.stack([by_plate.target(key, target) for key in keys]) for target in TARGETS
        }
        pixels[BRIGHTFIELD] = np.stack([by_plate.planes(key) for key in keys])
        for channel, counts in pixels.items():
            scaling = by_plate.scaling(magnification, channel)
            np.testing.assert_allclose(
                (scaling.mean, scaling.std), (counts.mean(), counts.std()), rtol=1e-9
            )
            assert by_plate.median(magnification, channel) == np.median(counts)
            np.testing.assert_array_equal(
                by_plate.histogram(magnification, channel),
                np.bincount(counts.ravel(), minlength=65536),
            )


def test_normalisation_report_is_table_3_1_for_brightfield_and_measured_for_the_rest(
    small_plate, by_plate, tmp_path
):
    store = prepared(small_plate, tmp_path / "store", normalisation="report")
    brightfield = [store.scaling(magnification, BRIGHTFIELD) for magnification in (20, 40)]
    assert [(scaling.mean, scaling.std) for scaling in brightfield] == [(2594, 966), (713, 282)]
    assert store.scaling(20, "A2") == by_plate.scaling(20, "A2")


def test_by_default_brightfield_is_normalised_by_each_field_itself(small_store, by_plate):
    store = small_store
    assert store.digest != by_plate.digest
    for key in store.manifest.fields:
        histogram = np.bincount(store.planes(key).ravel(), minlength=65536)
        assert store.field_scaling(key, BRIGHTFIELD) == field_scaling(histogram)
        for channel in (BRIGHTFIELD, *TARGETS):
            of_plate = by_plate.scaling(key.magnification, channel)
            assert by_plate.field_scaling(key, channel) == of_plate
    keys = [key for key in store.keys("train") if key.magnification == 20]
    lights = [store.field_scaling(key, BRIGHTFIELD) for key in keys]
    assert store.scaling(20, BRIGHTFIELD).std == pytest.approx(np.mean([x.std for x in lights]))
    assert store.median(20, "A2") == by_plate.median(20, "A2")


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
    store = prepared(plate, tmp_path / "store", **settings)
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


def with_constant(plate: Path, folder: Path, channel: str, wells: tuple[str, ...]) -> Path:
    """A copy of the plate in which a stain of some wells at 20x is a constant image."""
    copied = shutil.copytree(plate, folder)
    for files in scan_plate(copied).fields:
        if files.key.magnification == 20 and files.key.well in wells:
            path = files.targets[channel]
            tifffile.imwrite(path, np.full_like(tifffile.imread(path), 300))
    return copied


def test_a_constant_stain_is_in_the_units_of_the_others(small_plate, tmp_path):
    plate = with_constant(small_plate, tmp_path / "plate", "A3", ("C02",))
    store = prepared(plate, tmp_path / "store")
    blank, other = FieldKey(20, "C02", 1), FieldKey(20, "C03", 1)
    assert store.field_scaling(blank, "A3") == store.scaling(20, "A3")
    assert store.scaling(20, "A3") == store.field_scaling(other, "A3")  # the only one learnt from
    assert store.manifest.fields[blank].flags  # and the field is flagged as before


def test_where_nothing_varies_there_is_nothing_to_learn(small_plate, tmp_path):
    plate = with_constant(small_plate, tmp_path / "plate", "A3", ("C02", "C03"))
    with pytest.raises(PlateError, match="A3 is constant in every field of the training wells"):
        prepared(plate, tmp_path / "store")
