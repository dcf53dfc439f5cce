"""The simulated field of view obeys the seed, the physics and the counts of the challenge's plates."""

from functools import cache

import numpy as np
import pytest
from skimage.registration import phase_cross_correlation

from adipocyte.domain import N_Z_PLANES
from adipocyte.errors import ConfigError
from adipocyte.simulation import (
    Conditions,
    Misalignment,
    SimulatedField,
    culture,
    draw_conditions,
    misalignment_at,
    simulate_field,
)
from adipocyte.simulation.camera import Exposure, add_hot_pixels, expose
from adipocyte.simulation.cells import grow_cells
from adipocyte.simulation.culture import draw_culture
from adipocyte.simulation.debris import draw_debris
from adipocyte.simulation.droplets import OVERLAP, draw_radii, pack
from adipocyte.simulation.optics import OBJECTIVES, Optics, focus_series, propagate

MAGNIFICATIONS = sorted(OBJECTIVES)

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


# How many fields and of which size: the higher the magnification, the fewer cells a field holds and the more area a mean needs.
FIELDS = {20: (6, 384), 40: (8, 384), 60: (12, 512)}


@cache
def first_fields(magnification: int) -> tuple[SimulatedField, ...]:
    """The first seeds, none chosen."""
    n, side_px = FIELDS[magnification]
    return tuple(
        simulate_field(magnification, (side_px, side_px), seed=(magnification, k)) for k in range(n)
    )


def ball_path_um(radius_um: float, index_step: float, optics: Optics, size_px: int) -> np.ndarray:
    """Optical path through one ball in the middle of a single layer, (1, Y, X)."""
    y, x = (np.indices((size_px, size_px)) - size_px / 2) * optics.um_per_px
    return (2 * index_step * np.sqrt(np.clip(radius_um**2 - y**2 - x**2, 0, None)))[None].astype(
        np.float32
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
    with pytest.raises(ConfigError, match=r"magnification 10: choose one of \[20, 40, 60\]"):
        simulate_field(10, (64, 64), seed=0)
    with pytest.raises(ConfigError, match="magnification 63"):
        misalignment_at(63, 1, 6)


def test_a_field_too_small_for_its_optics_is_refused():
    with pytest.raises(ConfigError, match="63 x 64 pixels"):
        simulate_field(20, (63, 64), seed=0)


@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
def test_an_empty_scene_is_flat_at_every_focus(magnification):
    light = focus_series(np.zeros((3, 96, 80), dtype=np.float32), OBJECTIVES[magnification])
    assert light.shape == (N_Z_PLANES, 96, 80)
    np.testing.assert_allclose(light, 1.0, atol=1e-4)  # float32 sums of nine sources


def test_propagation_keeps_the_energy_and_comes_back():
    rng = np.random.default_rng(0)
    # At 0.325 µm per pixel no wave on the grid is too steep to travel, so nothing is lost.
    wave = np.exp(1j * rng.normal(0, 1, (60, 75))).astype(np.complex64)
    far = propagate(wave, 12.0, um_per_px=0.325)
    assert np.sum(np.abs(far) ** 2) == pytest.approx(np.sum(np.abs(wave) ** 2), rel=1e-4)
    np.testing.assert_allclose(propagate(far, -12.0, um_per_px=0.325), wave, atol=1e-4)


def test_light_that_the_pupil_passes_is_only_moved_about_by_defocus():
    optics = OBJECTIVES[20]
    light = focus_series(ball_path_um(3.0, 0.05, optics, 128), optics)
    np.testing.assert_allclose(light.mean(axis=(1, 2)), light.mean(), rtol=1e-4)
    assert 0.9 < light.mean() <= 1.0


def test_a_transparent_ball_shows_little_in_focus_and_much_out_of_it():
    # Plane 3 lies in focus, planes 0 and 6 lie 9 µm off; the ball is smooth enough for the pupil to pass nearly all of its light.
    optics = Optics(
        um_per_px=0.163,
        aperture=0.95,
        condenser_aperture=0.2,
        first_focus_um=-9.0,
        focus_step_um=3.0,
    )
    y, x = (np.indices((160, 160)) - 80) * optics.um_per_px
    bump_um = 0.3 * np.exp(-(y**2 + x**2) / (2 * 1.5**2))
    contrast = focus_series(bump_um[None].astype(np.float32), optics).std(axis=(1, 2))
    assert contrast[3] < 0.15 * min(contrast[0], contrast[6])


def test_a_ball_denser_than_its_medium_gathers_light_behind_it():
    optics = OBJECTIVES[40]
    light = focus_series(ball_path_um(3.0, 0.085, optics, 160), optics)
    behind = light[4]  # 7 µm below the ball, on the far side from the lamp
    assert behind[80, 80] > 2.0
    assert behind[80, 80 + round(3.0 / optics.um_per_px)] < 0.8  # the dark rim


@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
def test_defocus_moves_nothing_sideways(magnification):
    optics, size_px = OBJECTIVES[magnification], 256
    y, x = (np.indices((size_px, size_px)) - size_px / 2) * optics.um_per_px
    bump_um = 0.05 * np.exp(-(y**2 + x**2) / (2 * 2.0**2))
    for plane in np.abs(focus_series(bump_um[None].astype(np.float32), optics) - 1):
        centre_px = (
            np.array([(plane * y).sum(), (plane * x).sum()]) / plane.sum() / optics.um_per_px
        )
        np.testing.assert_allclose(centre_px, 0, atol=0.02)  # alignment is estimated to 0.1 px


def test_defocus_displaces_the_focus_series_and_leaves_fluorescence():
    step_um = OBJECTIVES[20].focus_step_um
    nominal, displaced = (
        simulate_field(20, (128, 128), seed=4, conditions=Conditions(defocus_um=by))
        for by in (0.0, step_um)
    )
    for target, image in nominal.targets.items():
        np.testing.assert_array_equal(displaced.targets[target], image)
    # One z-step further up, plane z shows what plane z + 1 showed; lamp and noise differ by a few per cent.
    for z in range(N_Z_PLANES - 1):
        assert np.corrcoef(displaced.planes[z].ravel(), nominal.planes[z + 1].ravel())[0, 1] > 0.98


def test_a_tenth_of_the_light_gives_a_tenth_of_the_counts_and_more_relative_noise():
    nominal, dim = (
        simulate_field(20, (128, 128), seed=4, conditions=Conditions(light=light))
        for light in (1.0, 0.1)
    )
    assert dim.planes.mean() == pytest.approx(0.1 * nominal.planes.mean(), rel=0.02)
    np.testing.assert_array_equal(dim.nuclei, nominal.nuclei)
    # Both have the same random draws, so the law of shot and read noise (one electron a count, 8 counts) states their difference.
    counts = np.maximum(nominal.planes.astype(float), 0)
    expected = 10 * np.sqrt(0.1 * counts + 8**2) - np.sqrt(counts + 8**2)
    assert (10.0 * dim.planes - nominal.planes).std() == pytest.approx(
        np.sqrt(np.mean(expected**2)), rel=0.05
    )


def test_staining_scales_one_stain_above_its_dark_counts_and_no_other():
    nominal, pale = (
        simulate_field(20, (128, 128), seed=4, conditions=Conditions(stains=stains))
        for stains in ({}, {"A2": 0.5})
    )
    spread = {
        target: pale.targets[target].std() / nominal.targets[target].std()
        for target in nominal.targets
    }
    assert spread == pytest.approx({"A1": 1.0, "A2": 0.5, "A3": 1.0}, rel=0.05)
    np.testing.assert_array_equal(pale.planes, nominal.planes)


def test_conditions_of_wells_repeat_with_the_seed_and_stay_within_their_ranges():
    wells = [draw_conditions((0, well)) for well in range(50)]
    assert wells[3] == draw_conditions((0, 3))
    assert wells[3] != wells[4]
    assert all(0.9 <= well.light <= 1.1 and abs(well.defocus_um) <= 0.6 for well in wells)
    assert all(0.75 <= factor <= 1.25 for well in wells for factor in well.stains.values())


def test_conditions_that_no_plate_can_have_are_refused():
    with pytest.raises(ConfigError, match="light and density must be above 0, got 0"):
        Conditions(light=0)
    with pytest.raises(ConfigError, match=r"stains names \['A4'\]"):
        Conditions(stains={"A4": 1.0})
    with pytest.raises(ConfigError, match="0 or above"):
        Conditions(stains={"A1": -1.0})


def test_cells_crowd_here_and_leave_gaps_there(monkeypatch):
    def unevenness() -> float:
        rng, variances = np.random.default_rng(0), []
        for _ in range(20):
            centres_um = draw_culture(1.0, rng).fat_centres((600.0, 600.0), rng)
            counts, _, _ = np.histogram2d(*centres_um.T, bins=4, range=((0, 600), (0, 600)))
            variances.append(counts.var())
        return np.mean(variances)

    crowded = unevenness()
    monkeypatch.setattr(culture, "CROWDING", 0.0)
    assert crowded > 2 * unevenness()


def test_a_few_cells_are_dead_with_small_bright_nuclei():
    rng = np.random.default_rng(0)
    cells = [
        cell for _ in range(2) for cell in grow_cells((500.0, 500.0), draw_culture(1.0, rng), rng)
    ]
    dead = [cell for cell in cells if cell.density > 1]
    assert 0.01 < len(dead) / len(cells) < 0.05
    assert max(nucleus.half_length_um for cell in dead for nucleus in cell.nuclei) < 4.0
    assert min(nucleus.stain for cell in dead for nucleus in cell.nuclei) > 1.7
    assert max(len(cell.droplets_um) for cell in dead) <= 3
    assert any(len(cell.nuclei) > 1 for cell in dead)


def test_debris_is_smaller_than_nuclei_and_only_some_of_it_glows():
    bits = draw_debris((1000.0, 1000.0), np.random.default_rng(0))
    assert len(bits) > 80
    assert max(bit.balls_um[:, 3].max() for bit in bits) < 1.2
    assert 0.2 < np.mean([max(bit.glow) > 0 for bit in bits]) < 0.6


def test_hot_pixels_are_few_single_and_the_same_in_every_image():
    images = [np.full((1500, 1500), counts, np.uint16) for counts in (300, 30000)]
    for image in images:
        add_hot_pixels(image)
    hot = images[0] > 300
    assert 3 <= hot.sum() <= 20
    np.testing.assert_array_equal(images[1] > 30000, hot)


@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
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
    # Lipids fill a field of 55 µm wholly or not at all: the standard error of their mean over twelve such fields is 10 %.
    tolerance = 0.25 if (magnification, target) == (60, "A2") else 0.15
    assert images.mean() == pytest.approx(mean, rel=tolerance)
    assert images.std() == pytest.approx(std, rel=0.15)


@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
def test_nuclei_are_where_the_first_stain_is_bright(magnification):
    is_nucleus = np.stack([field.nuclei for field in first_fields(magnification)]) > 0
    stain = np.stack([field.targets["A1"] for field in first_fields(magnification)])
    assert stain[is_nucleus].mean() > 3 * stain[~is_nucleus].mean()


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
    assert (
        restless[lipid > np.percentile(lipid, 70)].mean()
        > 1.3 * restless[lipid <= np.percentile(lipid, 15)].mean()
    )


def test_packed_droplets_press_on_each_other_no_more_than_allowed():
    rng = np.random.default_rng(0)
    sites_um = rng.uniform(0, 12, (3000, 3))
    room_um = np.minimum(sites_um, 12 - sites_um).min(axis=1)
    spheres = pack(sites_um, room_um, draw_radii(4.0, 80, rng))
    distance_um = np.linalg.norm(spheres[:, None, :3] - spheres[None, :, :3], axis=-1)
    touching_um = OVERLAP * (spheres[:, None, 3] + spheres[None, :, 3])
    off_diagonal = ~np.eye(len(spheres), dtype=bool)
    assert len(spheres) > 20
    assert np.all((distance_um - touching_um)[off_diagonal] > -1e-9)


def test_noise_of_a_flat_light_is_that_of_its_electrons():
    counts = expose(
        np.ones((300, 300), np.float32), Exposure(400, 50, 4.0, 3), np.random.default_rng(0)
    )
    assert counts.mean() == pytest.approx(450, abs=0.2)
    assert counts.std() == pytest.approx(np.sqrt(400 / 4 + 9), rel=0.02)  # and 1/12 of rounding


def test_counts_never_wrap_around():
    counts = expose(
        np.array([[-1.0, 1000.0]], np.float32), Exposure(400, 0, 4.0, 3), np.random.default_rng(0)
    )
    np.testing.assert_array_equal(counts, [[0, 65535]])


def test_misalignment_moves_fluorescence_and_nuclei_by_the_stated_pixels_and_leaves_brightfield():
    shift = Misalignment(dy_px=4.5, dx_px=-3.0)
    straight = simulate_field(20, (160, 190), seed=3)
    moved = simulate_field(20, (160, 190), seed=3, misalignment=shift)
    np.testing.assert_array_equal(straight.planes, moved.planes)
    taper = np.outer(
        np.hanning(160), np.hanning(190)
    )  # or the border, which does not move, would pull the estimate towards zero
    for target in straight.targets:
        before, after = (
            taper * (field.targets[target] - field.targets[target].mean())
            for field in (straight, moved)
        )
        # The shift that registers `moved` onto `straight` is the way back.
        back, _, _ = phase_cross_correlation(before, after, upsample_factor=10, normalization=None)
        np.testing.assert_allclose(back, (-4.5, 3.0), atol=0.3)
    still_bright = moved.targets["A1"][moved.nuclei > 0].mean()
    assert still_bright == pytest.approx(
        straight.targets["A1"][straight.nuclei > 0].mean(), rel=0.05
    )


def test_a_smaller_scale_draws_fluorescence_towards_the_centre():
    image = np.zeros((101, 101), np.float32)
    image[50, 90] = 1.0
    moved = Misalignment(0.0, 0.0, scale=0.5).apply(image, order=1)
    assert np.unravel_index(np.argmax(moved), moved.shape) == (50, 70)


def test_misalignment_turns_once_around_the_sites_of_a_well():
    shifts = [misalignment_at(20, site, 6) for site in range(1, 7)]
    assert shifts[0].dx_px == pytest.approx(0.067 - 1.22)
    assert shifts[0].dy_px == pytest.approx(-4.09 + 0.76)
    assert np.mean([shift.dx_px for shift in shifts]) == pytest.approx(-1.22)
    assert np.mean([shift.dy_px for shift in shifts]) == pytest.approx(0.76)
    with pytest.raises(ConfigError, match="site 7"):
        misalignment_at(20, 7, 6)
