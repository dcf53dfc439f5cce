"""What a field looks like, in numbers that say what they are named after."""

import numpy as np
import pytest

from adipocyte.imaging.appearance import measure_appearance
from adipocyte.imaging.quality import measure_quality
from tests.support.plates import planes

SHAPE = (96, 112)


def seen(**images: np.ndarray) -> dict[str, float]:
    return measure_appearance(measure_quality(planes(0, SHAPE)), images)


def test_light_is_on_the_scale_of_its_limits():
    measures = measure_quality(planes(0, SHAPE))
    found = measure_appearance(measures, {})
    assert found["noise_percent"] == pytest.approx(np.log(measures["noise_percent"]))
    assert found["planes_range_percent"] == measures["planes_range_percent"]
    assert "constant_planes" not in found


def test_images_are_told_apart():
    random = np.random.default_rng(0)
    fine = random.integers(0, 1000, SHAPE, dtype=np.uint16)
    coarse = np.kron(random.integers(0, 1000, (12, 14)), np.ones((8, 8))).astype(np.uint16)
    found = seen(A1=fine, A2=coarse, A3=2 * coarse)
    assert found["A1_detail"] > found["A2_detail"] + 1
    assert found["A3_level"] == pytest.approx(found["A2_level"] + np.log(2), abs=0.02)
    assert found["A3_bright"] == pytest.approx(found["A2_bright"] + np.log(2), abs=0.02)
    assert found["A2_A3_r"] == pytest.approx(1)
    assert abs(found["A1_A2_r"]) < 0.1


def test_a_constant_image_is_like_no_other():
    flat = np.full(SHAPE, 7, np.uint16)
    found = seen(A1=flat, A2=planes(1, SHAPE)[0])
    assert found["A1_A2_r"] == found["A1_gradient"] == found["A1_detail"] == 0
    assert found["A1_evenness"] == pytest.approx(0, abs=1e-6)
