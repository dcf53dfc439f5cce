"""CellProfiler's features choose the best epoch of a training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adipocyte.config import GeneratorConfig, PreprocessConfig, build
from adipocyte.domain import TARGETS, UM_PER_PX, FieldKey
from adipocyte.errors import ConfigError
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.measure import FieldMeasurement, measure_field
from adipocyte.evaluation.metric import score
from adipocyte.evaluation.training_metric import TrainingFeatureMetric, feature_metric
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.tiff import write_image
from adipocyte.preparation.prepare import prepare
from adipocyte.simulation import simulate_field
from adipocyte.training.generator import train_generator
from adipocyte.training.tracker import Silent
from tests.support.bundles import SMALLEST

WELLS = ("B03", "B04", "C02")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three fields of 372 x 376 pixels, just large enough for the features.

    C02 is for training, B03 for validation, B04 for testing.
    """
    folder = tmp_path_factory.mktemp("measurable")
    for seed, well in enumerate(WELLS):
        field = simulate_field(20, (372, 376), seed=seed)
        write_field(folder / "plate", FieldKey(20, well, 1), RawField(field.planes, field.targets))
    config = PreprocessConfig(
        plate=folder / "plate",
        store=folder / "store",
        validation_wells="B03",
        test_wells="B04",
        workers=0,
        align="none",
    )
    return prepare(config)


@pytest.fixture(scope="module")
def features(store):
    return TrainingFeatureMetric(store, ("A2",), 2)


@pytest.fixture(scope="module")
def truth(store):
    return {key: store.target(key, "A2") for key in store.keys("validation")}


def lipids(images):
    return {key: {"A2": image} for key, image in images.items()}


def test_a_perfect_painting_has_no_error_and_noise_has_much(features, truth):
    assert features(lipids(truth)) == 0
    noise = {
        key: np.random.default_rng(0).integers(0, 3000, image.shape).astype(np.uint16)
        for key, image in truth.items()
    }
    assert features(lipids(noise)) > 0.5


def test_a_painting_without_nuclei_is_worse_than_a_dim_one(store):
    """Features that it lacks count as 0, so losing every nucleus never lowers the error."""
    of_nuclei = TrainingFeatureMetric(store, ("A1",), 1)
    truth = {key: store.target(key, "A1") for key in of_nuclei.keys}
    dim = {key: {"A1": (image * 0.9).astype(np.uint16)} for key, image in truth.items()}
    none = {key: {"A1": np.zeros_like(image)} for key, image in truth.items()}
    assert of_nuclei(none) > of_nuclei(dim) > 0


NUMBERS = st.integers(-800, 800).map(lambda eighths: eighths / 8)


@given(
    truth=arrays(np.float64, (3, 4), elements=NUMBERS),
    painted=arrays(np.float64, (3, 4), elements=st.one_of(NUMBERS, st.just(np.nan))),
    gap=st.one_of(st.none(), st.tuples(st.integers(0, 2), st.integers(0, 3))),
)
def test_both_feature_metrics_agree_except_on_features_that_a_painting_lacks(truth, painted, gap):
    """These count as 0 in training. The official metric leaves them out."""
    if gap:
        truth[gap] = np.nan
    # One more feature, so that one is left in any case.
    truth, painted = (np.column_stack([table, np.ones(3)]) for table in (truth, painted))
    in_training = feature_metric(rows(truth), rows(painted))
    assert in_training == pytest.approx(official(truth, np.nan_to_num(painted)), rel=1e-12)

    given = np.isfinite(painted).all(axis=0)
    of_given = feature_metric(rows(truth[:, given]), rows(painted[:, given]))
    assert of_given == pytest.approx(official(truth, painted), rel=1e-12)


def rows(table):
    """Features of each field, by name, from (fields, features)."""
    return [{f"f{column}": value for column, value in enumerate(row)} for row in table.tolist()]


def official(truth, painted):
    """The feature metric of the score, from (fields, features) of one magnification."""
    features = zip(rows(truth), rows(painted), strict=True)
    fields = [measured(20, fov, *one) for fov, one in enumerate(features, 1)]
    # A single field at another magnification, so that no time goes into drawing intervals.
    return score([*fields, measured(40, 1, {}, {})], "none").parts[20].feature_metric


def measured(magnification, fov, truth, painted):
    """A field with these features, painted without an error of its pixels."""
    return FieldMeasurement(
        key=FieldKey(magnification, "B03", fov),
        pixels={"none": {"A1": {"mae": 0.0}}},
        truth_counts={"A1": np.array([0, 1])},
        painted_counts={},
        truth_features=truth,
        painted_features={"none": painted},
        objects={},
    )


def test_training_and_judging_measure_the_same_images_alike(store, features, truth, tmp_path):
    [(key, image)] = truth.items()
    dim = (image * 0.9).astype(np.uint16)
    paths = {target: tmp_path / f"{target}.tif" for target in (*TARGETS, "dim")}
    for target in TARGETS:
        write_image(paths[target], store.target(key, target))
    write_image(paths["dim"], dim)
    stains = {target: paths[target] for target in TARGETS}
    field = FieldPaths(key, stains, {"none": {"A2": paths["dim"]}}, UM_PER_PX[20])
    judged = score([measure_field(field, with_features=True)], "none")
    assert not [reason for reason in judged.parts[20].left_out.values() if "painted" in reason]
    assert features(lipids({key: dim})) == pytest.approx(judged.feature_metric, rel=1e-12)


def test_several_painted_stains_are_measured_together(store, features, truth):
    every = TrainingFeatureMetric(store, TARGETS, 2)
    [key] = truth
    painted = {target: (store.target(key, target) * 0.9).astype(np.uint16) for target in TARGETS}
    assert every({key: painted}) > features({key: {"A2": painted["A2"]}}) > 0
    true = {target: store.target(key, target) for target in TARGETS}
    assert every({key: true}) == 0


def test_stores_that_cannot_be_measured_are_refused_with_the_way_out(small_store):
    with pytest.raises(
        ConfigError,
        match=r"has 96 x 80 pixels to measure, the features need 370 a side: .* -P select=pixels",
    ):
        TrainingFeatureMetric(small_store, ("A2",), 1)


@pytest.mark.parametrize(
    ("select", "by"), [("features", "val_feature_metric"), ("mean", "val_combined_metric")]
)
def test_training_keeps_the_epoch_that_is_best_by_what_was_asked(
    store, features, tmp_path, select, by
):
    notes = Notes()
    given = {
        "target": "A2",
        "select": select,
        "encoder": SMALLEST,
        "epochs": 3,
        "epoch_steps": 1,
        "patch_px": 32,
        "batch": 2,
        "workers": 0,
    }
    best = train_generator(store, build(GeneratorConfig, given), None, tmp_path, notes, features)
    epochs = [row for row in notes.rows if by in row]
    assert len(epochs) == 3
    assert best[by] == min(row[by] for row in epochs)
    assert all(
        row["val_combined_metric"] == (row["val_pixel_metric"] + row["val_feature_metric"]) / 2
        for row in epochs
    )


def test_a_choice_by_features_needs_what_measures_them(store, features, tmp_path):
    with pytest.raises(ConfigError, match="select=mean needs a feature metric"):
        train_generator(
            store,
            build(GeneratorConfig, {"target": "A2", "select": "mean"}),
            None,
            tmp_path,
            Silent(),
        )
    with pytest.raises(ConfigError, match="select=pixels takes no feature metric"):
        train_generator(
            store, build(GeneratorConfig, {"target": "A2"}), None, tmp_path, Silent(), features
        )


class Notes(Silent):
    """Keeps what a training tells."""

    def __init__(self):
        self.rows = []

    def metrics(self, rows):
        self.rows += rows.values()
