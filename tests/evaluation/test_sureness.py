"""Whether intervals hold and expected errors come true is told as it is."""

import dataclasses

import numpy as np
import pytest

from adipocyte.domain import UM_PER_PX, FieldKey
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.sureness import ALL, PLACES, Foretold, Sureness, held, places
from adipocyte.imaging.trust import UNTOLD, Trust, Verdict
from adipocyte.plate.tiff import write_image
from adipocyte.simulation import simulate_field
from tests.support.bundles import some_widths

SIDE_PX = 160
TARGETS = ("A1", "A2", "A3")


@pytest.fixture(scope="module")
def stains() -> dict[str, np.ndarray]:
    return simulate_field(20, (SIDE_PX, SIDE_PX), seed=4).targets


@pytest.mark.parametrize("target", TARGETS)
def test_objects_are_bright_and_edges_lie_around_them(stains, target):
    at = places(target, stains[target], 20, UM_PER_PX[20])
    ground, inside = (stains[target][at == number].mean() for number in (0, 1))
    assert inside > 1.3 * ground
    assert set(np.unique(at)) == {0, 1, 2}
    touching = (at[1:] == 1) & (at[:-1] == 0)
    assert not touching.any()  # an edge is between them


def test_the_share_inside_is_that_of_the_pixels(stains, tmp_path):
    """A painting that is right in its left half, and far off in the other."""
    truth, painted = stains["A1"], stains["A1"].copy()
    painted[:, SIDE_PX // 2 :] = 60_000
    fields = []
    for well, image in (("B02", truth), ("B03", painted)):
        folder = tmp_path / well
        write_image(folder / "true.tif", truth)
        write_image(folder / "painted.tif", image)
        files = {"none": {"A1": folder / "painted.tif"}}
        true = {"A1": folder / "true.tif"}
        fields.append(FieldPaths(FieldKey(20, well, 1), true, files, UM_PER_PX[20]))
    widths = {"20/A1": some_widths()}
    found = {one.place: one for one in held(fields, "none", widths, frozenset([fields[0].key]))}
    low, high = widths["20/A1"].interval(truth)
    inside = (low <= truth) & (truth <= high)
    assert found["well B02"].share == pytest.approx(inside.mean())
    assert found["well B03"].share == pytest.approx(inside[:, : SIDE_PX // 2].mean() / 2, abs=0.01)
    assert found[ALL].share == pytest.approx(
        (found["well B02"].share + found["well B03"].share) / 2
    )
    assert list(found) == [ALL, *PLACES, "well B02", "well B03"]
    width = (high.astype(float) - low).mean() / truth.std()
    assert found["well B02"].width == pytest.approx(width, rel=1e-3)
    assert held(fields, "matching", widths) == []
    assert held(fields, "none", {}) == []


def said(fov: int, expected: float, true: float, verdict: Verdict = Verdict.YES) -> Foretold:
    trust = Trust(verdict, "", {"A1": expected, "A2": expected})
    return Foretold(FieldKey(20, "B02", fov), trust, {"A1": true, "A2": true})


def test_errors_that_come_true_have_a_high_correlation():
    rising = [said(1, 0.1, 0.2), said(2, 0.2, 0.3), said(3, 0.3, 0.9, Verdict.NO)]
    assert Sureness((), rising).metrics == pytest.approx(
        {"expected_error_rho_20x": 1.0, "refused_20x": 1 / 3}
    )
    falling = [dataclasses.replace(one, errors={"A1": 1 - one.errors["A1"]}) for one in rising]
    assert Sureness((), falling).metrics["expected_error_rho_20x"] == pytest.approx(-1)
    untold = [dataclasses.replace(one, trust=UNTOLD) for one in rising]
    assert Sureness((), untold).metrics == {}
