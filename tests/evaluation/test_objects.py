"""Objects are found again, and paired values agree, as the papers say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adipocyte.errors import ImageError
from adipocyte.evaluation.objects import ObjectPairs, agreement, f1, joined, match_objects

label_images = arrays(np.int32, (6, 7), elements=st.integers(0, 4))


def overlaps(truth: np.ndarray, painted: np.ndarray) -> dict[tuple[int, int], float]:
    """The intersection over union of every two objects, by the definition."""
    labels = [np.unique(image[image > 0]) for image in (truth, painted)]
    return {
        (a, b): ((truth == a) & (painted == b)).sum() / ((truth == a) | (painted == b)).sum()
        for a in labels[0]
        for b in labels[1]
    }


@given(truth=label_images, painted=label_images)
def test_objects_are_paired_as_the_definition_says(truth, painted):
    pairs = match_objects(truth, painted)
    expected = [pair for pair, overlap in sorted(overlaps(truth, painted).items()) if overlap > 0.5]
    assert pairs.truth_px.tolist() == [(truth == label).sum() for label, _ in expected]
    assert pairs.painted_px.tolist() == [(painted == label).sum() for _, label in expected]
    assert pairs.n_missed == len(np.unique(truth[truth > 0])) - len(expected)
    assert pairs.n_spurious == len(np.unique(painted[painted > 0])) - len(expected)


@given(labels=label_images, shift=st.integers(1, 9))
def test_an_image_is_found_whole_in_itself_whatever_its_objects_are_called(labels, shift):
    renamed = np.where(labels > 0, labels * shift, 0).astype(np.int32)
    pairs = match_objects(labels, renamed)
    assert (pairs.n_missed, pairs.n_spurious) == (0, 0)
    np.testing.assert_array_equal(pairs.truth_px, pairs.painted_px)
    assert pairs.truth_px.sum() == (labels > 0).sum()


def test_an_overlap_of_exactly_one_half_is_not_enough():
    truth, painted = np.zeros((2, 1, 6), dtype=np.int32)
    truth[0, :3], painted[0, 1:4] = 1, 1  # 2 pixels of 4
    assert match_objects(truth, painted).n_missed == 1
    truth[0, 3] = 1  # 3 pixels of 4
    assert match_objects(truth, painted).n_missed == 0


def test_pairs_come_in_the_order_of_the_true_labels():
    truth = np.array([[3, 3, 3, 0, 1, 0, 2, 2]], dtype=np.int32)
    painted = np.array([[1, 1, 1, 0, 3, 0, 2, 2]], dtype=np.int32)
    assert match_objects(truth, painted).truth_px.tolist() == [1, 2, 3]


def test_many_objects_of_a_whole_field_are_found():
    rows, columns = np.indices((2154, 2554))
    truth = np.where(
        (rows % 21 < 15) & (columns % 21 < 15), rows // 21 * 122 + columns // 21 + 1, 0
    ).astype(np.int32)
    pairs = match_objects(truth, np.roll(truth, 1, axis=1))
    assert len(pairs.truth_px) == 103 * 122
    assert (pairs.n_missed, pairs.n_spurious) == (0, 0)


def test_two_fields_of_different_size_are_refused():
    with pytest.raises(ImageError, match=r"\(4, 4\) and \(4, 5\)"):
        match_objects(np.zeros((4, 4), dtype=np.int32), np.zeros((4, 5), dtype=np.int32))


def test_fields_join_to_one_and_no_field_to_none():
    pairs = ObjectPairs(np.array([4, 9]), np.array([5, 8]), n_missed=1, n_spurious=2)
    both = joined([pairs, pairs])
    assert (both.truth_px.tolist(), both.painted_px.tolist()) == ([4, 9] * 2, [5, 8] * 2)
    assert (both.n_missed, both.n_spurious) == (2, 4)
    assert f1(both) == pytest.approx(2 * 4 / (2 * 4 + 2 + 4))
    assert np.isnan(f1(joined([])))


@given(
    truth=arrays(np.float64, 20, elements=st.floats(1, 1e4), unique=True),
    painted=arrays(np.float64, 20, elements=st.floats(1, 1e4), unique=True),
)
def test_agreement_is_that_of_the_papers(truth, painted):
    found = agreement(truth, painted)
    # Lin's coefficient in its other form, precision times accuracy: r · 2 / (v + 1/v + u²), section
    # 2 of the paper.
    scale = painted.std() / truth.std()
    shift = (painted.mean() - truth.mean()) / np.sqrt(painted.std() * truth.std())
    r = np.corrcoef(truth, painted)[0, 1]
    assert found.n == 20
    assert found.pearson == pytest.approx(r, abs=1e-9)
    assert found.concordance == pytest.approx(r * 2 / (scale + 1 / scale + shift**2), abs=1e-9)
    differences = painted - truth
    assert found.bias == pytest.approx(differences.mean(), abs=1e-7)
    assert found.high - found.low == pytest.approx(2 * 1.96 * differences.std(ddof=1), abs=1e-6)
    assert (found.high + found.low) / 2 == pytest.approx(found.bias, abs=1e-6)


def test_the_same_values_agree_wholly_and_a_constant_shift_costs_concordance_alone():
    values = np.arange(10.0)
    same, shifted = agreement(values, values), agreement(values, values + 5)
    assert (same.pearson, same.concordance, same.low, same.high) == pytest.approx((1, 1, 0, 0))
    assert (shifted.pearson, shifted.bias) == pytest.approx((1, 5))
    # The variance of 0…9 is 8.25.
    assert shifted.concordance == pytest.approx(2 * 8.25 / (2 * 8.25 + 25))


def test_pairs_without_a_number_are_left_out_and_few_pairs_say_only_what_they_can():
    whole = agreement([1, 2, np.nan, 4, 7], [1, 3, 5, np.inf, 6])
    assert whole == agreement([1, 2, 7], [1, 3, 6])
    none, one, two = agreement([], []), agreement([2], [5]), agreement([2, 3], [5, 5])
    assert none.n == 0
    assert np.isnan(none.bias)
    assert (one.n, one.bias) == (1, 3)
    assert np.isnan([one.low, one.high, one.pearson, one.concordance]).all()
    assert (two.n, two.bias) == (2, 2.5)
    assert np.isnan(two.pearson)  # five is always five
