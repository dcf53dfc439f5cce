"""Statistics of the training wells."""

import numpy as np

from adipocyte.domain import BRIGHTFIELD, TARGETS
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
