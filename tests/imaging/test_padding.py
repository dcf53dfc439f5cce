"""Padding mirrors an image up to the next multiple."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from adipocyte.imaging.padding import pad_to_multiple


@given(shape=array_shapes(min_dims=2, max_dims=4, max_side=9), multiple=st.integers(1, 32))
def test_padding_reaches_the_next_multiple_and_mirrors(shape, multiple):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    padded = pad_to_multiple(image, multiple)
    assert padded.shape[:-2] == shape[:-2]
    assert [side % multiple for side in padded.shape[-2:]] == [0, 0]
    sides = list(zip(padded.shape[-2:], shape[-2:], strict=True))
    assert all(0 <= new - old < multiple for new, old in sides)
    # The indices of a mirrored side are 0 1 … n-1 n-1 … 1 0 0 1 …
    walks = [(np.arange(new) % (2 * old), old) for new, old in sides]
    y, x = (np.minimum(walk, 2 * old - 1 - walk) for walk, old in walks)
    np.testing.assert_array_equal(padded, image[..., y[:, None], x])
