"""Intervals hold what is painted, reach the level that is asked for, and say where they cannot."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adipocyte.errors import ConfigError, ImageError
from adipocyte.imaging.intervals import WORST, Residuals, Widths

SHAPE = (128, 96)
Pair = tuple[np.ndarray, np.ndarray]
PAIRS = st.lists(
    st.tuples(*[arrays(np.uint16, (9, 7), elements=st.integers(0, 65535))] * 2),
    min_size=2,
    max_size=4,
)


def drawn(random: np.random.Generator, spread: float = 15) -> Pair:
    """A well: what is painted, and a truth that is noisier where it is bright; its level is off."""
    painted = random.gamma(1.5, 400, SHAPE) + 200
    noise = random.normal(0, 20 + painted / 10) + random.normal(0, spread)
    return painted.astype(np.uint16), np.clip(painted + noise, 0, 65535).astype(np.uint16)


def fitted(pairs: list[Pair]) -> Widths:
    residuals = Residuals()
    for number, (painted, truth) in enumerate(pairs):
        residuals.note(f"A{number + 1:02d}", painted, truth)
    return residuals.fit()


def share_inside(widths: Widths, pair: Pair, level: float) -> float:
    low, high = widths.interval(pair[0], level)
    return float(((low <= pair[1]) & (pair[1] <= high)).mean())


@pytest.mark.parametrize(("n_wells", "level"), [(4, 0.9), (9, 0.7)])
def test_wells_that_nobody_looked_at_have_so_many_pixels_inside(n_wells, level):
    random = np.random.default_rng(0)
    shares = []
    for _ in range(8):  # what is promised is the mean over other calibrations, too
        widths = fitted([drawn(random) for _ in range(n_wells)])
        shares.append(np.mean([share_inside(widths, drawn(random), level) for _ in range(20)]))
    error = np.std(shares) / np.sqrt(len(shares))
    assert level - 3 * error <= np.mean(shares)
    # Angelopoulos et al. 2024, theorem 2: at most 2 B / (k + 1) more; a step of tails is 8 % of it.
    assert np.mean(shares) <= level + 2 * WORST / (n_wells + 1) + 0.08 * (1 - level) + 3 * error


def test_bright_pixels_have_wide_intervals_and_dark_ones_narrow():
    random = np.random.default_rng(0)
    painted = drawn(random)[0]
    low, high = fitted([drawn(random, spread=0) for _ in range(8)]).interval(painted)
    width, deviation = high.astype(float) - low, 20 + painted.astype(float) / 10
    assert np.corrcoef(width.ravel(), deviation.ravel())[0, 1] > 0.9
    assert np.median(width / deviation) == pytest.approx(2 * 1.645, rel=0.2)  # of a Gaussian, 90 %


@settings(max_examples=8)
@given(pairs=PAIRS)
def test_they_hold_what_is_painted_and_grow_with_the_level(pairs):
    widths, painted = fitted(pairs), pairs[0][0]
    levels = [level for level in (0.1, 0.5, 0.7, 0.9) if level <= widths.highest_level]
    low, high = painted, painted
    for level in levels:
        lower, higher = widths.interval(painted, level)
        assert (lower <= low).all()
        assert (higher >= high).all()
        low, high = lower, higher


@settings(max_examples=6)
@given(pairs=PAIRS, seed=st.integers(0, 9))
def test_the_order_of_wells_and_of_their_fields_changes_no_bit(pairs, seed):
    noted = [(f"A{n % 2 + 1:02d}", *pair) for n, pair in enumerate(pairs)]
    found = []
    for order in (np.arange(len(noted)), np.random.default_rng(seed).permutation(len(noted))):
        residuals = Residuals()
        for place in order:
            residuals.note(*noted[place])
        found.append(residuals.fit().tables)
    for name, table in found[0].items():
        np.testing.assert_array_equal(table, found[1][name])


def test_few_wells_support_no_high_level_and_the_highest_is_told():
    random = np.random.default_rng(0)
    widths = fitted([drawn(random) for _ in range(2)])
    assert 0.8 < widths.highest_level <= 1 - WORST / 3
    with pytest.raises(ConfigError, match=r"2 validation wells support .* not of 0\.95: ask for"):
        widths.interval(drawn(random)[0], 0.95)
    told = np.floor(1000 * widths.highest_level) / 1000
    widths.interval(drawn(random)[0], told)
    with pytest.raises(ConfigError, match=f"up to a level of {told:g}, not of 0.99"):
        widths.rarity(0.99)


def test_a_well_that_was_missed_altogether_is_counted_as_such():
    random = np.random.default_rng(0)
    wells = [drawn(random, spread=0) for _ in range(4)]
    painted, truth = drawn(random)
    widths = fitted([*wells, (painted, truth + np.uint16(20_000))])
    # One of five, and a sixth as bad.
    assert widths.highest_level == pytest.approx(1 - 2 / 6, abs=0.01)


@pytest.mark.parametrize("level", [0.0, 1.0, 90.0, float("nan")])
def test_a_level_is_a_share(level):
    random = np.random.default_rng(0)
    widths = fitted([drawn(random) for _ in range(2)])
    with pytest.raises(ConfigError, match="must lie between 0 and 1"):
        widths.rarity(level)


def test_one_well_teaches_no_interval_and_another_shape_is_refused():
    residuals = Residuals()
    residuals.note("A01", *drawn(np.random.default_rng(0)))
    with pytest.raises(ImageError, match="from 1 wells: note at least 2"):
        residuals.fit()
    with pytest.raises(ImageError, match=r"shape \(4, 4\), the truth \(4, 5\)"):
        residuals.note("A01", np.zeros((4, 4), np.uint16), np.zeros((4, 5), np.uint16))
