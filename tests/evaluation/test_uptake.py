"""What a well took up of the stain is taken out of what is learnt from its errors."""

import numpy as np
import pytest

from adipocyte.evaluation.uptake import UPTAKES, error_in_any, errors_by_uptake, uptake

DARK, FACTORS = 100, {"B02": 0.8, "B03": 1.0, "B04": 1.25}


def images(factor: float) -> tuple[np.ndarray, np.ndarray]:
    """What is painted, and a truth with so many times the stain; a quarter of it is dark."""
    random = np.random.default_rng(0)
    stain = random.uniform(200, 2000, (64, 64)) * (random.uniform(size=(64, 64)) > 0.25)
    noise = random.normal(0, 40, stain.shape)
    painted, truth = DARK + stain, DARK + factor * (stain + noise * (stain > 0))
    return np.rint(painted).astype(np.uint16), np.rint(truth).astype(np.uint16)


@pytest.mark.parametrize("factor", FACTORS.values())
def test_more_stain_is_seen_as_so_much_more(factor):
    assert uptake(*images(factor)) == pytest.approx(np.log(factor), abs=0.01)


def test_an_image_without_stain_has_an_uptake_too():
    flat = np.full((64, 64), DARK, np.uint16)
    assert uptake(flat, flat) == 0


def test_errors_are_those_of_a_truth_with_so_much_stain():
    painted, truth = images(1.0)
    errors = errors_by_uptake(painted, truth)
    own, most = errors[np.flatnonzero(UPTAKES == 0)[0]], errors[-1]
    every = (slice(None, None, 2),) * 2
    assert own == pytest.approx(np.abs(painted[every] - truth[every].astype(float)).mean())
    stained = DARK + np.exp(0.5) * (truth[every].astype(float) - DARK)
    assert most == pytest.approx(np.abs(painted[every] - stained).mean(), rel=1e-4)


def test_wells_that_differ_in_uptake_alone_teach_the_same():
    uptakes = {well: uptake(*images(factor)) for well, factor in FACTORS.items()}
    errors = {well: errors_by_uptake(*images(factor)) for well, factor in FACTORS.items()}
    own = [np.interp(0, UPTAKES, one) for one in errors.values()]
    in_any = [error_in_any(one, uptakes[well], uptakes) for well, one in errors.items()]
    assert max(own) > 3 * min(own)
    assert in_any == pytest.approx([in_any[0]] * 3, rel=0.05)
