"""Images with other pixels: joined ones are means, and what was joined comes back to its size."""

import numpy as np
import pytest

from adipocyte.domain import UM_PER_PX, pixels_joined
from adipocyte.imaging.resizing import joined, joined_shape, resized


@pytest.mark.parametrize(
    ("um_per_px", "finest", "n"),
    [
        *((UM_PER_PX[one], 0.325, n) for one, n in ((10, 1), (20, 1), (40, 2), (60, 3), (63, 3))),
        (0.325, 0.0, 1),
        (0.2, 0.325, 2),
        (0.25, 0.325, 1),
        (0.065, 0.325, 5),
    ],
)
def test_so_many_pixels_are_joined_as_come_nearest(um_per_px, finest, n):
    assert pixels_joined(um_per_px, finest) == n


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("n", [2, 3])
def test_joined_pixels_are_the_means_of_what_they_cover(n, dtype):
    stack = np.random.default_rng(0).integers(0, 60_000, (2, 6 * n, 5 * n)).astype(dtype)
    means = stack.reshape(2, 6, n, 5, n).astype(np.float64).mean(axis=(2, 4))
    found = joined(stack, n)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, means, atol=0.5 + 1e-6 if dtype is np.uint16 else 0.01)


def test_one_pixel_is_itself():
    stack = np.ones((2, 5, 7), np.uint16)
    assert joined(stack, 1) is stack


def test_a_side_that_is_no_multiple_is_covered_to_its_end():
    ramp = np.broadcast_to(np.arange(100, dtype=np.float32), (1, 100, 100))
    [coarse] = joined(np.ascontiguousarray(ramp), 3)
    assert coarse.shape == joined_shape((100, 100), 3) == (33, 33)
    back = resized(coarse, (100, 100))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back[:, 4:-4], ramp[0, :, 4:-4], atol=0.2)
