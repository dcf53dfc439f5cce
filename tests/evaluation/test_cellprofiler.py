"""Features of a field: CellProfiler's, right by geometry, the same on every processor."""

import functools
import hashlib
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from centrosome.cpmorphology import fill_labeled_holes
from centrosome.filter import median_filter
from centrosome.propagate import propagate as propagate_by_pixel
from scipy import ndimage
from scipy.spatial import ConvexHull
from skimage.draw import disk as disk_pixels
from skimage.filters import threshold_li
from skimage.measure import label, perimeter
from skimage.morphology import disk, reconstruction

from adipocyte.domain import MAGNIFICATIONS, TARGETS
from adipocyte.errors import ImageError
from adipocyte.evaluation.cellprofiler import COLUMNS, Measured, features, measure, smallest_px
from adipocyte.evaluation.cellprofiler.cells import inside
from adipocyte.evaluation.cellprofiler.droplets import merge
from adipocyte.evaluation.cellprofiler.filters import N_RANKS, median, ranks, speckles, stretch
from adipocyte.evaluation.cellprofiler.granularity import granularity
from adipocyte.evaluation.cellprofiler.measurements import (
    brightness,
    hull_areas,
    mean_radii,
    perimeters,
    shapes,
)
from adipocyte.evaluation.cellprofiler.parameters import PARAMETERS
from adipocyte.evaluation.cellprofiler.primary import foreground
from adipocyte.evaluation.cellprofiler.propagation import REGULARISATION, propagate
from adipocyte.evaluation.cellprofiler.reconstruction import CROSS, TILE_PX, reconstruct
from adipocyte.evaluation.cellprofiler.thresholds import li_threshold
from tests.support import golden
from tests.support.drawn import HEALTHY, INSIDE, NUCLEI, ON_FRAME, drawn_field
from tests.support.golden import (
    SHIPPED,
    SHIPPED_FIELDS,
    assert_same_features,
    assert_same_labels,
    assert_score_is_the_organisers,
    measured,
)


@pytest.mark.parametrize(("magnification", "kind", "place"), SHIPPED_FIELDS)
def test_all_99_features_are_those_that_cellprofiler_measured(magnification, kind, place):
    found = measured(magnification, kind, place).features
    assert_same_features(found, golden.features(magnification, kind, place))


@pytest.mark.parametrize("magnification", golden.SHIPPED_LABELS)
def test_the_labels_of_every_step_are_cellprofilers(magnification):
    assert_same_labels(SHIPPED, magnification)


@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
def test_the_challenges_score_of_these_features_is_the_organisers(magnification):
    """Features are ours where the field is in the repository, CellProfiler's elsewhere."""

    def feature(*field: Any) -> dict[str, float]:
        return measured(*field).features if field in SHIPPED_FIELDS else golden.features(*field)

    assert_score_is_the_organisers(magnification, feature)


@pytest.mark.parametrize(
    ("case", "n_nan"), [("e1_normal", 0), ("e2_no_nuclei", 54), ("e6_all_zero", 78)]
)
def test_features_without_an_object_are_nan_as_in_cellprofiler(case, n_nan):
    found = measure(golden.read_edge_case(case), 20).features
    assert sum(map(np.isnan, found.values())) == n_nan
    assert_same_features(found, golden.edge_case_features(case))


def test_a_field_that_cellprofiler_refuses_is_refused():
    with pytest.raises(ImageError, match=r"364 x 364 pixels.*at least 370"):
        measure(golden.read_edge_case("e7_crop_364px"), 20)


@functools.cache
def drawn() -> Measured:
    """Three healthy nuclei, a bright one, and one whose cell touches the frame."""
    return measure(drawn_field(NUCLEI), 20)


def test_nuclei_and_the_cells_around_them_are_counted():
    labels = drawn().labels
    assert drawn().features["Count_nuclei"] == labels["nuclei"].max() == 5
    assert labels["Nuclei_filtered"].max() == 4
    assert drawn().features["Count_cells_no_edge"] == drawn().features["Count_nuclei_no_edge"] == 3
    for y, x in INSIDE:
        assert labels["cells_no_edge"][y, x] == labels["nuclei_no_edge"][y, x] > 0


def test_a_nucleus_too_bright_to_live_is_dropped():
    assert drawn().labels["nuclei"][300, 300] > 0
    assert drawn().labels["Nuclei_filtered"][300, 300] == 0


def test_a_nucleus_is_dropped_with_a_cell_that_touches_the_frame():
    labels = drawn().labels
    assert labels["cell_bodies"][ON_FRAME] == labels["Nuclei_filtered"][ON_FRAME] > 0
    assert labels["nuclei_no_edge"][ON_FRAME] == 0


def test_disks_are_measured_as_disks():
    features = drawn().features
    area = len(disk_pixels((0, 0), 14)[0])
    # The edge is smoothed, and its threshold high.
    assert features["Mean_nuclei_no_edge_AreaShape_Area"] == pytest.approx(area, rel=0.1)
    assert features["Mean_nuclei_no_edge_AreaShape_FormFactor"] == pytest.approx(1, abs=0.1)
    mean = features["Mean_nuclei_no_edge_Intensity_MeanIntensity_Hoechst"]
    assert mean == pytest.approx(2300 / 65535, rel=0.05)


def test_a_droplet_on_the_frame_is_not_counted():
    assert drawn().labels["Lipid_droplets_final_segmentation"].max() == 30
    assert drawn().features["Count_Lipids_no_edge"] == drawn().labels["Lipids_no_edge"].max() == 29
    assert not drawn().labels["Lipids_no_edge"][:, 0].any()


def test_every_step_is_labelled_and_every_feature_given():
    assert tuple(drawn().features) == COLUMNS
    assert len(COLUMNS) == len(set(COLUMNS)) == 99
    assert {labels.dtype for labels in drawn().labels.values()} == {np.dtype(np.int32)}
    assert {labels.shape for labels in drawn().labels.values()} == {(384, 384)}


def test_without_nuclei_their_features_and_those_of_cells_are_nan():
    found = measure(drawn_field({}, smallest_px(1)), 20).features
    missing = {column for column in COLUMNS if np.isnan(found[column])}
    assert missing >= {
        column for column in COLUMNS if "_nuclei_no_edge_" in column or "_cells_no_edge_" in column
    }
    assert found["Count_nuclei"] == found["Count_cells_no_edge"] == 0


@pytest.mark.parametrize(
    ("given", "counted"),
    [
        (("A2",), {"Count_Lipids_no_edge"}),
        (("A1", "A3"), {"Count_nuclei", "Count_nuclei_no_edge"}),
        (("A3",), set()),
    ],
)
def test_without_a_stain_the_rest_is_measured_alike(given, counted):
    images = drawn_field(NUCLEI)
    found = measure({target: images[target] for target in given}, 20).features
    assert tuple(found) == COLUMNS
    assert {column for column in found if column.startswith("Count_") and found[column] > 0} == (
        counted
    )
    measured = {column for column in COLUMNS if not np.isnan(found[column])}
    same = {column for column in measured if found[column] == drawn().features[column]}
    # Nuclei are those of all cells but for one that touches the frame with its cell alone.
    assert all("nuclei_no_edge" in column for column in measured - same)


def test_means_are_of_the_objects_values():
    measured = drawn()
    for name, columns in measured.objects.items():
        for column, values in columns.items():
            assert len(values) == measured.labels[name].max()
            finite = values[np.isfinite(values)]
            assert measured.features[f"Mean_{name}_{column}"] == finite.mean()


def narrow(images):
    return {target: image[:, :369] for target, image in images.items()}


@pytest.mark.parametrize(
    ("change", "magnification", "message"),
    [
        (lambda one: one | {"A2": one["A2"].astype(np.float32)}, 20, r"A2 is float32.*uint16"),
        (lambda one: one | {"A1": one["A1"].astype(np.int32) - 400}, 20, r"A1 is int32.*uint16"),
        (lambda one: one | {"A3": one["A3"][:-1]}, 20, r"A3 of \(370, 371\).*one size"),
        (narrow, 20, r"371 x 369 pixels.*at least 370"),
        (lambda one: {}, 20, "has no stain: give some of A1, A2, A3"),
        (
            lambda one: one,
            25,
            r"unknown at magnification 25: give it in µm \(um_per_px\), or one of",
        ),
        (lambda one: {"A1": one["A1"][::2, ::2][:184]}, 10, "184 x 186 pixels.*at least 185"),
        (lambda one: {"A1": np.zeros((5001, 370), np.uint16)}, 10, "10002 x 740 .*at most 10000"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(change, magnification, message):
    images = {target: np.zeros((371, 371), dtype=np.uint16) for target in TARGETS}
    with pytest.raises(ImageError, match=message):
        measure(change(images), magnification)


FINGERPRINT = "from tests.evaluation.test_cellprofiler import fingerprint; print(fingerprint())"


def fingerprint() -> str:
    """A hash over every bit of one field's features and labels."""
    found = measure(drawn_field(dict.fromkeys(INSIDE, HEALTHY)), 20)
    bits = [np.array(list(found.features.values())), *found.labels.values()]
    return hashlib.sha256(b"".join(part.tobytes() for part in bits)).hexdigest()


@pytest.mark.slow
def test_the_same_field_gives_the_same_bits_on_every_processor():
    """NumPy without vector instructions stands for an older processor, one thread for a smaller."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    for set_up in ({}, {"NPY_DISABLE_CPU_FEATURES": " ".join(found), "OMP_NUM_THREADS": "1"}):
        run = subprocess.run(
            [sys.executable, "-c", FINGERPRINT],
            env=os.environ | set_up,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.stdout.strip() == fingerprint(), run.stderr


def introsort(counts: list[int]) -> list[int]:
    """NumPy's argsort of few numbers, by its published algorithm.

    It is a quicksort by median of three that inserts under 17 numbers and leaves the larger half
    for later.
    """
    order, stack, low, high = list(range(len(counts))), [], 0, len(counts) - 1
    while True:
        while high - low > 15:
            middle = (low + high) // 2
            for a, b in ((middle, low), (high, middle), (middle, low)):
                if counts[order[a]] < counts[order[b]]:
                    order[a], order[b] = order[b], order[a]
            pivot, i, j = counts[order[middle]], low, high - 1
            order[middle], order[j] = order[j], order[middle]
            while True:
                i += 1
                while counts[order[i]] < pivot:
                    i += 1
                j -= 1
                while pivot < counts[order[j]]:
                    j -= 1
                if i >= j:
                    break
                order[i], order[j] = order[j], order[i]
            order[i], order[high - 1] = order[high - 1], order[i]
            if i - low < high - i:
                stack.append((i + 1, high))
                high = i - 1
            else:
                stack.append((low, i - 1))
                low = i + 1
        for i in range(low + 1, high + 1):
            taken, j = order[i], i
            while j > low and counts[taken] < counts[order[j - 1]]:
                order[j], j = order[j - 1], j - 1
            order[j] = taken
        if not stack:
            return order
        low, high = stack.pop()


def test_equally_rare_values_are_joined_in_the_order_of_a_plain_introsort():
    """The test follows CellProfiler's own rule (centrosome's rank_order) step by step."""
    image = np.random.default_rng(0).integers(0, 900, (60, 60)) ** 2 / 7.0
    found, values = ranks(image)
    expected, left = np.unique(image, return_inverse=True)[1].ravel(), np.unique(image)
    while len(left) > N_RANKS:
        joined = np.zeros(len(left) + 1, dtype=bool)
        joined[introsort(np.bincount(expected).tolist())[: len(left) + 1 - N_RANKS]] = True
        joined = joined[:-1] & ((np.arange(len(left)) & 2 == 0) | ~joined[1:])
        joined[0] = False
        expected, left = (np.cumsum(~joined) - 1)[expected], left[~joined]
    np.testing.assert_array_equal(found.ravel(), expected)
    np.testing.assert_array_equal(values, left)


@pytest.mark.parametrize("n_values", [2, 9, 255])
def test_the_median_is_centrosomes_up_to_the_edges(n_values):
    image = np.random.default_rng(1).integers(0, n_values, (40, 50))
    np.testing.assert_array_equal(median(image / 8) * 8, median_filter(image, None, 2))


def test_speckles_are_what_scipys_opening_takes_away():
    image = np.random.default_rng(2).random((50, 40)).astype(np.float32)
    opened = ndimage.maximum_filter(
        ndimage.minimum_filter(image, footprint=disk(5)), footprint=disk(5)
    )
    np.testing.assert_array_equal(speckles(image), image - opened)


def test_a_constant_image_is_not_stretched():
    np.testing.assert_array_equal(stretch(np.full((2, 2), 0.3)), 0.3)
    np.testing.assert_array_equal(stretch(np.full((2, 2), 3.0)), 1)


def test_lis_threshold_is_scikit_images():
    random = np.random.default_rng(3)
    counts = np.concatenate([random.normal(300, 30, 5000), random.normal(900, 80, 700)])
    image = counts.round() / 65535
    assert li_threshold(image) == pytest.approx(threshold_li(image), rel=1e-9)
    assert li_threshold(np.full(9, 0.25)) == 0.25


def test_reconstruction_crosses_tiles():
    noise = np.random.default_rng(4).random((TILE_PX + 60, 2 * TILE_PX + 10))
    ceiling = ndimage.gaussian_filter(noise, 2)
    seed = ndimage.grey_erosion(ceiling, footprint=disk(9))
    expected = reconstruction(seed, ceiling, footprint=CROSS)
    np.testing.assert_array_equal(reconstruct(seed, ceiling), expected)


def test_seeds_grow_as_in_centrosome():
    random = np.random.default_rng(5)
    image = ndimage.gaussian_filter(random.random((80, 90)), 2).astype(np.float32)
    seeds = label(random.random(image.shape) > 0.995).astype(np.int32)
    mask = image > np.quantile(image, 0.2)
    expected, _ = propagate_by_pixel(image, seeds, mask, REGULARISATION)
    np.testing.assert_array_equal(propagate(image, seeds, mask), expected)
    assert set(np.unique(expected[seeds == 0])) > {0, 1}


def test_small_holes_are_filled_and_large_ones_are_not():
    bright = ndimage.gaussian_filter(np.random.default_rng(6).random((150, 150)), 3) > 0.49
    detection = PARAMETERS[20].small_droplets
    expected = fill_labeled_holes(
        bright, size_fn=lambda area_px, _: area_px < detection.diameter_px[1] ** 2
    )
    np.testing.assert_array_equal(foreground(bright, detection), expected)
    assert expected.sum() > bright.sum()


def test_only_cells_with_no_pixel_on_the_frame_are_whole():
    cells = np.zeros((9, 9), dtype=np.int32)
    cells[1:4, 1:4], cells[5:9, 1:4], cells[5:8, 5:8] = 1, 2, 3
    middles = ndimage.binary_erosion(cells == 1) | ndimage.binary_erosion(cells == 3)
    nuclei = np.where(middles | (cells == 2), cells, 0)
    whole, theirs = inside(cells, nuclei)
    np.testing.assert_array_equal(whole, np.select([cells == 1, cells == 3], [1, 2]))
    assert (theirs[2, 2], theirs[6, 6], theirs[6, 2]) == (1, 2, 0)


def test_overlapping_droplets_become_the_big_one_and_others_stay():
    big, small = np.zeros((2, 12, 12), dtype=np.int32)
    big[1:5, 1:5], small[3:8, 3:5], small[9:11, 9:11] = 1, 1, 2
    joined = merge(big, small)
    assert joined.max() == 2
    np.testing.assert_array_equal(joined == joined[1, 1], (big == 1) | (small == 1))


@pytest.mark.parametrize(("side", "line"), [(1, False), (7, False), (9, True)])
def test_squares_and_lines_have_the_shape_that_can_be_counted(side, line):
    labels = np.zeros((20, 20), dtype=np.int32)
    labels[4 : 5 if line else 4 + side, 6 : 6 + side] = 1
    found = shapes(labels)
    [area], [length], [solidity] = found["Area"], found["Perimeter"], found["Solidity"]
    assert area == (side if line else side**2)
    assert length == (side - 2 if line else 4 * (side - 1))
    assert solidity == 1


def random_objects() -> np.ndarray:
    """Ragged objects that touch each other and the frame."""
    noise = ndimage.gaussian_filter(np.random.default_rng(7).random((120, 130)), 2)
    pieces = label(noise > 0.5)
    halves = np.indices(noise.shape).sum(axis=0) % 40 < 20
    return label(np.where(pieces > 0, 2 * pieces + halves, 0)).astype(np.int32)


def test_outlines_and_radii_are_those_of_each_object_alone():
    labels = random_objects()
    alone = [np.pad(labels == number, 1) for number in range(1, labels.max() + 1)]
    np.testing.assert_allclose(perimeters(labels), [perimeter(own) for own in alone], rtol=1e-12)
    np.testing.assert_allclose(
        mean_radii(labels),
        [ndimage.distance_transform_edt(own)[own].mean() for own in alone],
        rtol=1e-12,
    )


def even_odd_area(own: np.ndarray) -> int:
    """Pixels whose ray to the left crosses an odd number of the hull's edges."""
    y, x = np.nonzero(own)
    sides = ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))
    hull = ConvexHull(np.concatenate([np.column_stack([y + dy, x + dx]) for dy, dx in sides]))
    corners = hull.points[hull.vertices]
    rows, columns = np.indices(own.shape)
    odd = np.zeros(own.shape, dtype=bool)
    for (y0, x0), (y1, x1) in zip(corners, np.roll(corners, 1, axis=0), strict=True):
        if x0 != x1:
            spanned = ((x0 <= columns) & (columns < x1)) | ((x1 <= columns) & (columns < x0))
            odd ^= spanned & (rows < (y1 - y0) * (columns - x0) / (x1 - x0) + y0)
    return int(odd.sum())


def test_hulls_hold_the_pixels_that_the_even_odd_rule_says():
    labels = random_objects()
    expected = [even_odd_area(labels == number) for number in range(1, labels.max() + 1)]
    np.testing.assert_array_equal(hull_areas(labels), expected)


def test_brightness_is_of_an_objects_own_pixels():
    labels = np.array([[1, 1, 0], [2, 0, 0]], dtype=np.int32)
    found = brightness(labels, np.array([[0.25, 0.75, 9], [0.5, 9, 9]], dtype=np.float32))
    np.testing.assert_array_equal(found["IntegratedIntensity"], [1, 0.5])
    np.testing.assert_array_equal(found["MeanIntensity"], [0.5, 0.5])
    np.testing.assert_array_equal(found["StdIntensity"], [0.25, 0])


def test_a_point_is_left_out_of_the_mean_of_form_factors_alone():
    labels = np.zeros((9, 9), dtype=np.int32)
    labels[1, 1], labels[3:7, 3:7] = 1, 2
    shape = shapes(labels)
    assert features.aggregate(shape["FormFactor"], "Mean") == shape["FormFactor"][1]
    assert features.aggregate(shape["Area"], "Mean") == 8.5


def test_granularity_says_at_which_size_the_light_is():
    """Diamonds of radius 0 and 1, of equal light: they go at the first and at the second step.

    They lie on the pixels that are sampled.
    """
    grid = np.zeros((100, 100), dtype=np.float32)
    grid[10:90:10, 10:90:20] = 0.5
    grid[10:90:10, 20:90:20] = 0.1
    around = ndimage.grey_dilation(np.where(grid < 0.3, grid, 0), footprint=CROSS)
    grid = np.maximum(grid, np.where(grid == 0, around, 0))
    image = np.zeros((400, 400), dtype=np.float32)
    image[::4, ::4] = grid
    np.testing.assert_allclose(granularity(image), [50, 50, *[0] * 14], atol=1e-3)


def test_a_flat_image_has_no_granularity():
    flat = np.full((400, 380), 0.1, dtype=np.float32)
    np.testing.assert_allclose(granularity(flat), 0, atol=1e-3)
