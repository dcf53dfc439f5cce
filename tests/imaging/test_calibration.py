"""A calibration never falls, and no other map that never falls has a smaller error."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from adipocyte.errors import ImageError
from adipocyte.imaging.calibration import Calibrator
from adipocyte.imaging.histograms import N_COUNTS, apply_table, counts_histogram, match_histogram

SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=12)
COUNTS = np.arange(N_COUNTS)


@st.composite
def pairs(draw: st.DrawFn, highest: int = N_COUNTS - 1) -> tuple[np.ndarray, np.ndarray]:
    images = arrays(np.uint16, draw(SHAPES), elements=st.integers(0, highest))
    return draw(images), draw(images)


def table_of(*noted: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    calibrator = Calibrator()
    for painted, truth in noted:
        calibrator.note(painted, truth)
    return calibrator.fit()


def mae(image: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(image.astype(np.float64) - truth).mean())


def stain(seed: int, brightness: float, shape: tuple[int, int] = (300, 200)) -> np.ndarray:
    """Counts with the long tail of a stain, at random places."""
    return (100 + brightness * np.random.default_rng(seed).gamma(2, 300, shape)).astype(np.uint16)


def paint(truth: np.ndarray, seed: int) -> np.ndarray:
    """A stain as a network might paint it: too dark, too flat in its highlights, and noisy."""
    noise = np.random.default_rng(seed).normal(0, 20, truth.shape)
    painted = 30 * truth.astype(np.float64) ** 0.5 - 150 + noise
    return np.clip(painted, 0, N_COUNTS - 1).astype(np.uint16)


@given(pair=pairs())
def test_a_calibration_has_every_count_and_never_falls(pair):
    table = table_of(pair)
    assert (table.dtype, table.shape) == (np.uint16, (N_COUNTS,))
    assert (np.diff(table.astype(np.int64)) >= 0).all()


@given(image=arrays(np.uint16, SHAPES))
def test_what_is_painted_right_is_left_alone(image):
    np.testing.assert_array_equal(table_of((image, image)), COUNTS)


def test_a_field_that_is_painted_right_is_left_alone():
    image = stain(0, brightness=1)
    np.testing.assert_array_equal(table_of((image, image)), COUNTS)


@given(pair=pairs(highest=255))
def test_no_rising_map_errs_less_where_a_bin_is_one_count(pair):
    painted, truth = pair
    levels = np.arange(256)
    least = np.zeros(256)  # of all rising maps that end at a level: the lowest sum of errors so far
    for count in np.unique(painted):
        errors = np.abs(truth[painted == count][:, None].astype(np.int64) - levels).sum(axis=0)
        least = np.minimum.accumulate(least + errors)
    calibrated = apply_table(table_of(pair), painted)
    assert np.abs(calibrated.astype(np.int64) - truth).sum() == least[-1]


@pytest.mark.parametrize("brightness", [0.1, 1, 20])
def test_the_pixels_that_it_was_fitted_on_do_not_err_more_than_before(brightness):
    truth = stain(0, brightness)
    error = np.random.default_rng(1).uniform(0.9, 1.1, truth.shape)  # calibration cannot help
    painted = (truth * error).astype(np.uint16)
    calibrated = apply_table(table_of((painted, truth)), painted)
    assert mae(calibrated, truth) <= mae(painted, truth) * 1.01  # bins are up to 0.8 % wide


@pytest.mark.parametrize(
    "distort", [lambda t: 0.5 * t + 40, lambda t: 40 * np.sqrt(t), lambda t: t + t**2 / 8000]
)
def test_a_rising_distortion_is_taken_back_where_there_are_data(distort):
    truth = stain(0, brightness=1)
    painted = np.rint(distort(truth.astype(np.float64))).astype(np.uint16)
    table, seen = table_of((painted, truth)), np.quantile(painted, [0.002, 0.998])
    inside = (painted >= seen[0]) & (painted <= seen[1])
    error = apply_table(table, painted)[inside].astype(np.float64) - truth[inside]
    # Counts are rounded before a slope of 3 at most, and after it; bins are up to 0.8 % wide.
    assert (np.abs(error) <= 2 + 0.008 * truth[inside]).all()
    assert np.abs(error).mean() <= 2


@given(noted=st.lists(pairs(), min_size=2, max_size=4))
def test_the_order_of_the_fields_does_not_matter(noted):
    np.testing.assert_array_equal(table_of(*noted), table_of(*reversed(noted)))


def test_a_whole_field_says_the_same_as_its_strips():
    truth = stain(0, brightness=1, shape=(2154, 2554))
    painted = paint(truth, seed=1)
    strips = list(zip(np.array_split(painted, 3), np.array_split(truth, 3), strict=True))
    np.testing.assert_array_equal(table_of((painted, truth)), table_of(*strips))


def test_a_field_that_was_not_fitted_on_gets_its_own_brightness_back():
    fitted_on, bright = stain(0, brightness=1), stain(1, brightness=2)
    painted = paint(bright, seed=2)
    calibrated = apply_table(table_of((paint(fitted_on, seed=3), fitted_on)), painted)
    matched = match_histogram(painted, counts_histogram(fitted_on))
    assert mae(calibrated, bright) < mae(painted, bright) / 4
    assert mae(calibrated, bright) < mae(matched, bright) / 2
    assert np.median(calibrated) == pytest.approx(np.median(bright), rel=0.05)
    assert np.median(matched) == pytest.approx(np.median(fitted_on), rel=0.05)


def test_beyond_what_was_seen_the_calibration_goes_on_with_slope_one():
    painted = np.arange(100, 200, dtype=np.uint16).reshape(10, 10)
    table = table_of((painted, painted * 2))
    np.testing.assert_array_equal(table[199:1000], np.arange(199, 1000) + 199)
    np.testing.assert_array_equal(table[:101], np.arange(101) + 100)
    assert table[-300:].max() == N_COUNTS - 1


def test_an_image_of_one_count_is_moved_to_the_median_of_the_truth():
    truth = np.array([[10, 20, 90]], dtype=np.uint16)
    table = table_of((np.full((1, 3), 50, dtype=np.uint16), truth))
    np.testing.assert_array_equal(table[30:], np.minimum(COUNTS[30:] - 30, N_COUNTS - 1))
    assert not table[:30].any()


def test_without_pixels_there_is_no_calibration():
    with pytest.raises(ImageError, match="no pixels to calibrate on: note a painted field"):
        Calibrator().fit()


def test_a_truth_of_another_shape_is_refused():
    with pytest.raises(ImageError, match=r"shape \(4, 4\), the truth \(4, 5\)"):
        Calibrator().note(np.zeros((4, 4), np.uint16), np.zeros((4, 5), np.uint16))
