"""What is measured of a painted field's pixels."""

import numpy as np
import pytest
from scipy import ndimage

from adipocyte.evaluation.pixels import PIXEL_MEASUREMENTS, measure_pixels

TRUTH = np.random.default_rng(0).gamma(2, 200, (64, 48)).astype(np.uint16)


def test_the_truth_itself_is_as_good_as_can_be():
    found = measure_pixels(TRUTH, TRUTH)
    assert tuple(found) == PIXEL_MEASUREMENTS
    assert (found["mae"], found["ssim"], found["pearson"]) == pytest.approx((0, 1, 1))
    # As with one pixel that is off by one count.
    near = TRUTH.copy()
    near[0, 0] += 1
    assert found["psnr"] == pytest.approx(measure_pixels(TRUTH, near)["psnr"])


def test_an_offset_costs_what_its_formulas_say():
    span = float(np.ptp(TRUTH))
    found = measure_pixels(TRUTH, TRUTH + np.uint16(50))
    assert found["mae"] == 50
    assert found["psnr"] == pytest.approx(20 * np.log10(span / 50))
    assert found["pearson"] == pytest.approx(1)


def test_a_blur_costs_structure():
    blurred, more = (ndimage.gaussian_filter(TRUTH, sigma) for sigma in (0.5, 2))
    similar = [measure_pixels(TRUTH, image)["ssim"] for image in (TRUTH, blurred, more)]
    assert similar == sorted(similar, reverse=True)
    assert similar[2] < 0.5


def test_similarity_is_that_of_its_formula():
    """Wang et al. 2004, equation 13, at the middle of an image as large as its window."""
    truth, painted = TRUTH[:11, :11], np.flip(TRUTH[:11, :11]).copy()
    window = np.outer(*[np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))] * 2)
    window /= window.sum()
    span = float(np.ptp(truth))
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    x, y = truth.astype(float), painted.astype(float)
    mx, my = (window * x).sum(), (window * y).sum()
    vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
    both = (window * (x - mx) * (y - my)).sum()
    due = (2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert measure_pixels(truth, painted)["ssim"] == pytest.approx(due)


def test_a_constant_image_has_no_correlation():
    constant = np.full_like(TRUTH, 300)
    assert measure_pixels(TRUTH, constant)["pearson"] == 0
    assert measure_pixels(constant, TRUTH)["pearson"] == 0
    assert measure_pixels(constant, constant)["ssim"] == pytest.approx(1)
