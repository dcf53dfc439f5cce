"""The official metric: from measurements of fields to a score with its intervals, and to tables."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adipocyte.domain import MAGNIFICATIONS, FieldKey
from adipocyte.errors import ImageError
from adipocyte.evaluation.cellprofiler.features import COLUMNS
from adipocyte.evaluation.fields import spread
from adipocyte.evaluation.judge import Judgement
from adipocyte.evaluation.measure import FieldMeasurement, measure_field, measure_fields, total
from adipocyte.evaluation.metric import score, well_errors
from adipocyte.evaluation.pairs import pair
from adipocyte.evaluation.tables import feature_rows, feature_tables, metrics, rows, table
from adipocyte.imaging.histograms import N_COUNTS, counts_histogram
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.tiff import read_image
from adipocyte.simulation import simulate_field
from tests.support import golden

NO_PLANES = np.zeros((0, 64, 64), dtype=np.uint16)


def measured(key, truth, painted, true_features=None, painted_features=None, way="prediction"):
    """A field measured from (Y, X) images by target, with the features that are given."""
    pixels = {
        target: {
            "mae": float(np.abs(truth[target] - image.astype(float)).mean()),
            "psnr": 20.0,
            "ssim": 0.5,
            "pearson": 0.8,
        }
        for target, image in painted.items()
    }
    return FieldMeasurement(
        key=key,
        pixels={way: pixels},
        truth_counts={
            target: np.trim_zeros(counts_histogram(image), "b") for target, image in truth.items()
        },
        painted_counts={
            way: {target: counts_histogram(image) for target, image in painted.items()}
        },
        truth_features=true_features or {},
        painted_features={way: painted_features} if painted_features else {},
        objects={},
    )


def random_fields(n_fields=6, wells=("B03", "B04", "C02"), seed=0):
    """Fields of random pixels and two random features, at 20x and 40x, and their raw numbers."""
    rng = np.random.default_rng(seed)
    found, raw = [], []
    for magnification in (20, 40):
        for i in range(n_fields if magnification == 20 else n_fields - 2):
            truth = {
                target: rng.integers(100, 900, (8 + i, 10)).astype(np.uint16)
                for target in ("A1", "A2")
            }
            painted = {
                target: rng.integers(100, 900, image.shape).astype(np.uint16)
                for target, image in truth.items()
            }
            t, p = (
                dict(zip(("area", "count"), rng.uniform(1, 9, 2), strict=True)) for _ in range(2)
            )
            key = FieldKey(magnification, wells[i % len(wells)], i + 1)
            found.append(measured(key, truth, painted, t, p))
            raw.append((key, truth, painted, t, p))
    return found, raw


def official(raw):
    """The official formula on the images and tables of one magnification (specification, 1)."""
    pixels = []
    for target in raw[0][1]:
        truth = np.concatenate([one[1][target].ravel() for one in raw]).astype(np.float64)
        painted = np.concatenate([one[2][target].ravel() for one in raw])
        pixels.append(np.abs(truth - painted).mean() / np.median(truth))
    t, p = (np.array([list(one[i].values()) for one in raw]) for i in (3, 4))
    features = np.abs(t / np.median(t, axis=0) - p / np.median(t, axis=0)).mean(axis=0)
    return np.mean(pixels), features.mean()


def test_the_score_is_the_official_formula_on_all_pixels_and_fields():
    fields, raw = random_fields()
    found = score(fields, "prediction")
    for magnification in (20, 40):
        pixel, feature = official([one for one in raw if one[0].magnification == magnification])
        part = found.parts[magnification]
        assert (part.pixel_metric, part.feature_metric) == pytest.approx(
            (pixel, feature), rel=1e-12
        )
        assert part.combined_metric == pytest.approx((pixel + feature) / 2, rel=1e-12)
    expected = (6 * found.parts[20].combined_metric + 4 * found.parts[40].combined_metric) / 10
    assert found.combined_metric == pytest.approx(expected, rel=1e-12)


def test_the_order_of_fields_changes_nothing():
    fields, _ = random_fields()
    assert score(fields, "prediction").parts == score(fields[::-1], "prediction").parts


@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
def test_the_features_of_the_real_cellprofilers_tables_score_as_the_organisers_do(magnification):
    image = {"A1": np.full((8, 8), 100, dtype=np.uint16)}
    fields = []
    for well, fov in golden.PLACES:
        features = [golden.features(magnification, kind, (well, fov)) for kind in golden.KINDS]
        fields.append(measured(FieldKey(magnification, well, fov), image, image, *features))
    part = score(fields, "prediction").parts[magnification]
    wanted = golden.official_metric()[f"{magnification}x"]
    assert part.feature_metric == pytest.approx(wanted["mae_feature"], abs=1e-6)
    assert part.feature_errors == pytest.approx(wanted["per_feature"], abs=1e-6)


@golden.needs_larger
@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
def test_the_score_of_the_real_cellprofilers_fields_is_the_organisers(magnification):
    """Pixels are float32 in the organisers' notebook, double here: they agree to 1e-6."""
    fields = []
    for place in golden.PLACES:
        truth, painted = (
            golden.read_images(golden.LARGER, magnification, kind, place) for kind in golden.KINDS
        )
        features = [golden.features(magnification, kind, place) for kind in golden.KINDS]
        fields.append(measured(FieldKey(magnification, *place), truth, painted, *features))
    part = score(fields, "prediction").parts[magnification]
    wanted = golden.official_metric()[f"{magnification}x"]
    assert part.pixel_metric == pytest.approx(wanted["mae_pixel"], abs=1e-6)
    assert part.combined_metric == pytest.approx(wanted["combined"], abs=1e-6)


@given(
    truth=arrays(np.uint16, (4, 5), elements=st.integers(0, 5)),
    painted=arrays(np.uint16, (4, 5), elements=st.integers(0, 5)),
    unit=st.sampled_from([1, 13, 13_107]),
)
def test_wherever_an_error_is_divided_by_a_median_it_is_the_median_of_the_pixels(
    truth, painted, unit
):
    """NumPy's: of an even number of pixels, the mean of the two in the middle."""
    truth, painted = truth * np.uint16(unit), painted * np.uint16(unit)
    bright = np.full_like(truth, 9)  # a second stain, because one that is dark is left out
    stains = {"A1": truth, "A2": bright}
    field = measured(FieldKey(20, "B03", 1), stains, {"A1": painted, "A2": bright})
    metrics = score([field], "prediction").parts[20].pixel_metrics
    wells = well_errors([field], "A1", 20, "prediction")
    if middle := np.median(truth):
        expected = np.abs(truth.astype(float) - painted).mean() / middle
        assert metrics["A1"] == pytest.approx(expected, rel=1e-12)
        assert wells == {"B03": pytest.approx(expected, rel=1e-12)}
    else:
        assert "A1" not in metrics
        assert wells == {}


def test_a_feature_without_a_number_or_with_median_zero_is_left_out_and_said_so():
    fields, _ = random_fields()
    fields[0] = replace(
        fields[0],
        painted_features={
            "prediction": fields[0].painted_features["prediction"] | {"area": float("nan")}
        },
    )
    flat = [
        replace(one, truth_features=one.truth_features | {"count": 0.0})
        if one.key.magnification == 40
        else one
        for one in fields
    ]
    found = score(flat, "prediction")
    assert found.parts[20].left_out == {"area": "no number in 1 of 6 painted fields"}
    assert list(found.parts[20].feature_errors) == ["count"]
    assert found.parts[40].left_out == {"count": "its median is zero"}
    assert found.n_left_out == 2


def test_without_features_the_pixels_are_still_scored():
    fields, _ = random_fields()
    found = score(
        [replace(one, truth_features={}, painted_features={}) for one in fields], "prediction"
    )
    assert found.feature_metric is None
    assert found.combined_metric is None
    assert found.pixel_metric > 0


def test_a_target_that_is_dark_is_left_out_and_stains_that_are_all_dark_are_refused():
    fields, _ = random_fields()
    dark = np.zeros((8, 10), dtype=np.uint16)
    without_a1 = [
        replace(one, truth_counts=one.truth_counts | {"A1": counts_histogram(dark)})
        for one in fields
    ]
    part = score(without_a1, "prediction").parts[20]
    assert part.left_out == {"A1": "its median is 0 counts"}
    assert part.pixel_metric == part.pixel_metrics["A2"]
    with pytest.raises(
        ImageError, match="more than half of the true stains' pixels at 20x are 0 counts"
    ):
        score(
            [
                replace(one, truth_counts=dict.fromkeys(("A1", "A2"), counts_histogram(dark)))
                for one in fields
            ],
            "prediction",
        )


def test_intervals_hold_the_score_and_repeat_with_their_seed():
    fields, _ = random_fields(n_fields=12)
    found = score(fields, "prediction", seed=3)
    for metric in ("pixel_metric", "feature_metric", "combined_metric"):
        for drawn in ("fields", "wells"):
            low, high = found.intervals[metric][drawn]
            assert low < getattr(found, metric) < high
    assert score(fields, "prediction", seed=3).intervals == found.intervals
    assert score(fields, "prediction", seed=4).intervals != found.intervals


def test_an_interval_over_fields_is_as_wide_as_theory_says():
    """One feature with independent errors: the bootstrap's standard deviation is sd / sqrt(n)."""
    rng = np.random.default_rng(0)
    n, image = 60, {"A1": np.full((8, 8), 100, dtype=np.uint16)}
    errors = rng.uniform(0, 2, n)
    fields = [
        measured(FieldKey(20, "B03", i), image, image, {"count": 10.0}, {"count": 10 + error})
        for i, error in enumerate(errors, 1)
    ]
    low, high = score(fields, "prediction").intervals["feature_metric"]["fields"]
    assert high - low == pytest.approx(2 * 1.96 * (errors / 10).std() / np.sqrt(n), rel=0.1)


def test_a_single_field_has_no_interval_and_a_single_well_none_over_wells():
    fields, _ = random_fields(wells=("B03",))
    assert score(fields, "prediction").intervals["pixel_metric"].keys() == {"fields"}
    assert score(fields[:1], "prediction").intervals["pixel_metric"] == {}


def test_an_interval_over_wells_is_wider_where_the_fields_of_a_well_are_alike():
    """Six wells of ten equal fields, whose errors differ by well: six values, not sixty."""
    truth = np.full((4, 4), 100, np.uint16)
    errors = (10, 12, 20, 25, 30, 35)
    fields = [
        measured(FieldKey(20, f"B{well:02}", fov), {"A1": truth}, {"A1": truth + np.uint16(error)})
        for well, error in enumerate(errors, 1)
        for fov in range(1, 11)
    ]
    found = score(fields, "prediction", seed=0).intervals["pixel_metric"]
    width = {drawn: high - low for drawn, (low, high) in found.items()}
    # The standard deviation of the mean of six wells, in units of the metric.
    of_mean = np.std(errors) / 100 / np.sqrt(len(errors))
    assert width["wells"] == pytest.approx(2 * 1.96 * of_mean, rel=0.1)
    assert width["fields"] == pytest.approx(width["wells"] / np.sqrt(10), rel=0.1)


def test_fields_to_measure_are_spread_over_the_wells():
    keys = [
        FieldKey(m, well, fov)
        for m in (20, 40)
        for well in ("B03", "C02", "D04")
        for fov in (1, 2, 3)
    ]
    chosen = spread(keys, 3)
    assert {(key.magnification, key.well) for key in chosen} == {
        (m, well) for m in (20, 40) for well in ("B03", "C02", "D04")
    }
    assert len(chosen) == 6
    assert spread(keys, 0) == set()
    assert spread(keys, 99) == set(keys)


# Judgements as metrics and tables.


@pytest.fixture
def judgement():
    fields, _ = random_fields()
    both = [
        replace(
            one,
            pixels={"none": one.pixels["prediction"], "matching": one.pixels["prediction"]},
            painted_features={
                "none": one.painted_features["prediction"],
                "matching": one.truth_features,
            },
        )
        for one in fields
    ]
    return Judgement([], both, {way: score(both, way) for way in ("none", "matching")}, "matching")


def test_plain_names_are_of_the_way_that_is_kept_and_every_way_has_its_own(judgement):
    found = metrics(judgement)
    assert found["feature_metric"] == found["matching_feature_metric"] == 0
    assert found["none_feature_metric"] == judgement.scores["none"].feature_metric > 0
    part = judgement.scores["matching"].parts[20]
    assert found["pixel_metric_A1_20x"] == part.pixel_metrics["A1"]
    assert found["combined_metric_20x"] == part.combined_metric
    assert found["mae_A2_40x"] == np.mean(
        [
            one.pixels["none"]["A2"]["mae"]
            for one in judgement.measurements
            if one.key.magnification == 40
        ]
    )
    assert found["combined_metric_low"] <= found["combined_metric"] <= found["combined_metric_high"]
    assert found["n_fields"] == 10
    assert all(np.isfinite(value) for value in found.values())


def test_tables_have_a_row_for_each_field_target_and_way_and_for_each_feature(judgement):
    assert len(rows(judgement)) == 10 * 2 * 2
    assert {(row["feature"], row["left_out"]) for row in feature_rows(judgement)} == {
        ("area", ""),
        ("count", ""),
    }
    text = table(judgement)
    assert "matching *" in text
    assert f"{judgement.scores['none'].combined_metric:.3f}" in text


# Reading, pairing and measuring real files.


@pytest.fixture
def folders(tmp_path):
    """Two folders of fields of 64 x 70 pixels, too small for features; predictions 3 or 6 off."""
    rng = np.random.default_rng(0)
    for fov in (1, 2):
        truth = {
            target: rng.integers(50, 900, (64, 70)).astype(np.uint16)
            for target in ("A1", "A2", "A3")
        }
        write_field(tmp_path / "truth", FieldKey(20, "B03", fov), RawField(NO_PLANES, truth))
        painted = {target: image + np.uint16(3 * fov) for target, image in truth.items()}
        write_field(tmp_path / "prediction", FieldKey(20, "B03", fov), RawField(NO_PLANES, painted))
    return tmp_path / "truth", tmp_path / "prediction"


@pytest.mark.slow
def test_folders_are_joined_by_well_and_field_in_any_order_and_worker(folders):
    pairs = pair(*folders)
    assert pairs.problems == []
    for workers in (0, 2):
        found = measure_fields(pairs.fields[::-1], n_measured=9, workers=workers)
        maes = {one.key.fov: one.pixels["prediction"]["A2"]["mae"] for one in found}
        assert list(maes.items()) == [(1, 3.0), (2, 6.0)]
        assert found[0].truth_features == {}  # a side under 370 pixels


def test_a_perfect_prediction_has_finite_measurements(folders):
    truth, _ = folders
    found = measure_field(pair(truth, truth).fields[0], with_features=False)
    assert found.pixels["prediction"]["A1"]["mae"] == 0
    assert np.isfinite(list(found.pixels["prediction"]["A1"].values())).all()


def test_histograms_are_those_of_the_images_whatever_their_length(folders):
    field = pair(*folders).fields[0]
    found = measure_field(field, with_features=False)
    for target, path in field.truth.items():
        counts = counts_histogram(read_image(path))
        np.testing.assert_array_equal(total([found.truth_counts[target]]), counts)
        shifted = found.painted_counts["prediction"][target]  # longer, by 3 counts
        both = total([found.truth_counts[target], shifted])
        np.testing.assert_array_equal(both, counts + np.roll(counts, 3))


@pytest.mark.slow
def test_a_field_measured_holds_a_small_part_of_its_full_histograms(tmp_path):
    """A histogram over all counts has 512 kB. Thousands of fields are held at once."""
    truth = simulate_field(20, (512, 512), seed=0).targets
    key = FieldKey(20, "B03", 1)
    for name in ("truth", "prediction"):
        write_field(tmp_path / name, key, RawField(NO_PLANES, truth))
    [field] = pair(tmp_path / "truth", tmp_path / "prediction").fields
    found = measure_field(field, with_features=False)
    held = [*found.truth_counts.values(), *found.painted_counts["prediction"].values()]
    assert sum(counts.nbytes for counts in held) < 0.05 * len(held) * N_COUNTS * 8


def test_csv_tables_read_as_cellprofiler_writes_them():
    features = dict.fromkeys(COLUMNS, 1.5) | {COLUMNS[-1]: float("nan")}
    image = {"A1": np.full((8, 8), 100, dtype=np.uint16)}
    fields = [
        measured(FieldKey(20, well, 5), image, image, features, features) for well in ("B03", "D04")
    ]
    scores = {"prediction": score(fields, "prediction")}
    tables = feature_tables(Judgement([], fields, scores, "prediction"))
    text = tables["20x/prediction_Image.csv"]
    first, second = csv.DictReader(io.StringIO(text))
    assert list(first) == sorted(first)
    assert len(first) == 99 + 3
    assert (second["Metadata_Well"], second["Metadata_FoV"], second["ImageNumber"]) == (
        "D04",
        "F005",
        "2",
    )
    assert (first[COLUMNS[0]], first[COLUMNS[-1]]) == ("1.5", "nan")
