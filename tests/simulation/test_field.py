"""A simulated field depends on its seed only, and has the counts of the challenge's plates."""

from functools import cache

import numpy as np
import pytest

from adipocyte.domain import MAGNIFICATIONS
from adipocyte.errors import ConfigError
from adipocyte.simulation import SimulatedField, simulate_field
from adipocyte.simulation.canvas import Canvas
from adipocyte.simulation.cells import Cell, Outline
from adipocyte.simulation.field import _radii_inside

# Mean and standard deviation in counts, measured on the challenge's training plates.
TARGET_COUNTS = {
    20: {"A1": (412, 516), "A2": (700, 574), "A3": (663, 254)},
    40: {"A1": (358, 475), "A2": (634, 513), "A3": (384, 147)},
    60: {"A1": (286, 380), "A2": (1218, 1011), "A3": (319, 126)},
}
# Mean, and the standard deviations of the planes whose value is known.
BRIGHTFIELD_COUNTS = {
    20: (2594, dict(enumerate((767, 930, 1089, 1153, 1089, 941, 784)))),
    40: (713, {0: 333, 6: 210}),
    60: (525, {0: 260, 6: 182}),
}


# How many fields, and their sides. At a higher magnification a field has fewer cells, so a mean
# needs more pixels.
FIELDS = {20: (6, 384), 40: (8, 384), 60: (12, 512)}


@cache
def first_fields(magnification: int) -> tuple[SimulatedField, ...]:
    """The fields of the first seeds."""
    n, side_px = FIELDS[magnification]
    return tuple(
        simulate_field(magnification, (side_px, side_px), seed=(magnification, k)) for k in range(n)
    )


def test_the_same_seed_gives_the_same_field_and_another_seed_another():
    first, again, other = (
        simulate_field(20, (64, 80), seed=seed) for seed in ((7, 1), (7, 1), (7, 2))
    )
    np.testing.assert_array_equal(first.planes, again.planes)
    np.testing.assert_array_equal(first.nuclei, again.nuclei)
    for target, image in first.targets.items():
        np.testing.assert_array_equal(image, again.targets[target])
        assert (image != other.targets[target]).any()
    assert (first.planes != other.planes).any()


@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
@pytest.mark.parametrize("shape_px", [(64, 64), (67, 131)])
def test_a_field_has_seven_planes_three_targets_and_labels_of_the_size_asked_for(
    magnification, shape_px
):
    field = simulate_field(magnification, shape_px, seed=0)
    assert (field.planes.shape, field.planes.dtype) == ((7, *shape_px), np.uint16)
    assert list(field.targets) == ["A1", "A2", "A3"]
    assert {(image.shape, image.dtype) for image in field.targets.values()} == {
        (shape_px, np.dtype(np.uint16))
    }
    assert (field.nuclei.shape, field.nuclei.dtype) == (shape_px, np.int32)


def test_an_unknown_magnification_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"magnification 25: choose one of \[10, 20"):
        simulate_field(25, (64, 64), seed=0)


def test_a_field_too_small_for_its_optics_is_refused():
    with pytest.raises(ConfigError, match="63 x 64 pixels"):
        simulate_field(20, (63, 64), seed=0)


@pytest.mark.parametrize(
    "magnification",
    [20, pytest.param(40, marks=pytest.mark.slow), pytest.param(60, marks=pytest.mark.slow)],
)
def test_brightfield_counts_are_those_of_the_plates(magnification):
    planes = np.stack([field.planes for field in first_fields(magnification)])
    mean, stds = BRIGHTFIELD_COUNTS[magnification]
    assert planes.mean() == pytest.approx(mean, rel=0.05)
    for z, std in stds.items():
        assert planes[:, z].std() == pytest.approx(std, rel=0.15)


def test_contrast_peaks_in_the_middle_at_20x_and_falls_from_the_first_plane_at_40x_and_60x():
    stds = {
        m: np.stack([field.planes for field in first_fields(m)]).std(axis=(0, 2, 3))
        for m in MAGNIFICATIONS
    }
    assert np.argmax(stds[20]) == 3
    assert np.all(np.diff(stds[40][1:]) < 0)
    assert np.all(np.diff(stds[60][1:]) < 0)


@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
@pytest.mark.parametrize("target", ["A1", "A2", "A3"])
def test_fluorescence_counts_are_those_of_the_plates(magnification, target):
    images = np.stack([field.targets[target] for field in first_fields(magnification)])
    mean, std = TARGET_COUNTS[magnification][target]
    # Lipids fill all of a field of 55 µm, or nothing: the standard error of their mean over twelve
    # such fields is 10 %.
    tolerance = 0.25 if (magnification, target) == (60, "A2") else 0.15
    assert images.mean() == pytest.approx(mean, rel=tolerance)
    assert images.std() == pytest.approx(std, rel=0.15)


@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
def test_nuclei_are_where_the_first_stain_is_bright(magnification):
    is_nucleus = np.stack([field.nuclei for field in first_fields(magnification)]) > 0
    stain = np.stack([field.targets["A1"] for field in first_fields(magnification)])
    assert stain[is_nucleus].mean() > 3 * stain[~is_nucleus].mean()


def test_true_droplets_are_those_whose_centres_lie_in_the_frame():
    outline = Outline(20.0, 20.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))
    # A canvas of 100 x 80 pixels of 0.5 µm: the frame is its lines 25 to 74, its columns 10 to 69.
    y_um, x_um = np.array([(12.5, 5), (37, 34.5), (12, 5), (12.5, 4.5), (37.5, 30), (30, 35)]).T
    droplets_um = np.column_stack([np.ones(6), y_um, x_um, np.arange(1.0, 7.0)])
    cells = [Cell(outline, (), part, part[:0], stain=0.0) for part in np.split(droplets_um, [4])]
    assert list(_radii_inside(cells, Canvas((100, 80), 0.5), (50, 60))) == [1, 2]
    assert len(_radii_inside([], Canvas((100, 80), 0.5), (50, 60))) == 0


def test_nuclei_labels_run_from_one_without_gaps():
    for field in first_fields(20):
        np.testing.assert_array_equal(np.unique(field.nuclei), np.arange(field.nuclei.max() + 1))
        assert field.nuclei.max() >= 5


@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
def test_cytoplasm_is_dark_where_lipid_is_bright(magnification):
    lipid, cytoplasm = (
        np.stack([field.targets[target] for field in first_fields(magnification)])
        for target in ("A2", "A3")
    )
    full = lipid > np.percentile(lipid, 90)
    assert cytoplasm[full].mean() < 0.8 * cytoplasm[~full].mean()


@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
def test_brightfield_is_restless_where_lipid_is_bright(magnification):
    lipid = np.stack([field.targets["A2"] for field in first_fields(magnification)])
    plane = np.stack([field.planes[3] for field in first_fields(magnification)]).astype(np.float64)
    restless = np.abs(plane - np.median(plane))
    bright, dark = lipid > np.percentile(lipid, 70), lipid <= np.percentile(lipid, 15)
    assert restless[bright].mean() > 1.3 * restless[dark].mean()
