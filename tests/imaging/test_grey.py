"""Grey images for people: black and white are where they belong, and errors can be compared."""

import numpy as np

from adipocyte.imaging.grey import comparison, to_grey


def test_a_comparison_shows_the_error_on_the_scale_of_the_truth():
    truth = np.tile(np.arange(100, dtype=np.uint16) * 10, (20, 1))
    panels = comparison(truth, truth, truth)
    assert (panels.dtype, panels.shape) == (np.uint8, (20, 4 * 100 + 3 * 4))
    np.testing.assert_array_equal(panels[:, 104:204], panels[:, 208:308])
    assert not panels[:, 312:].any()
    assert comparison(truth, truth, truth + np.uint16(2000))[:, 312:].min() == 255


def test_grey_runs_from_black_to_white_and_a_flat_image_is_no_error():
    shown = to_grey(np.array([[-5, 0, 5, 10, 20]]), 0, 10)
    np.testing.assert_array_equal(shown, [[0, 0, 128, 255, 255]])
    assert to_grey(np.zeros((2, 2)), 0, 0).max() == 0
