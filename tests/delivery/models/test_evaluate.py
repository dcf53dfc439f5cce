"""From painted fields to the artifacts of a run: painting on a store, judging two folders."""

import dataclasses
import importlib
import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from adipocyte.config import PreprocessConfig
from adipocyte.delivery.models.assemble import Assembled, random_patches
from adipocyte.domain import SEGMENTER, TARGETS, FieldKey, table_key
from adipocyte.errors import StoreError
from adipocyte.evaluation.judge import judge
from adipocyte.evaluation.metric import Part, Score
from adipocyte.evaluation.painting import (
    Histograms,
    cross_calibrated,
    fit_calibrations,
    fit_intervals,
    paint_fields,
)
from adipocyte.evaluation.pictures import preview
from adipocyte.imaging.histograms import match_highlights
from adipocyte.imaging.trust import UNTOLD
from adipocyte.networks.files import save_network
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.tiff import read_image
from adipocyte.preparation.prepare import prepare
from adipocyte.simulation import simulate_field
from adipocyte.staining.bundle import BundleManifest, write_bundle
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store
from tests.support.bundles import SEPARATE, SMALLEST
from tests.support.tracking import tracked_at

NO_PLANES = np.zeros((0, 64, 64), dtype=np.uint16)
SHIFT = (3, -2)  # whole pixels, so that moving an image by it changes no count


def bundle_of(store: Store, folder: Path, targets: tuple[str, ...]) -> Stainer:
    """A stainer with networks that have learnt nothing."""
    torch.manual_seed(0)
    networks = {}
    for name in (SEGMENTER, *targets):
        spec = UNetSpec(encoder=SMALLEST, in_channels=8 if name == "A1" else 7)
        save_network(folder / "networks" / name, spec, build_unet(spec))
        networks[name] = folder / "networks" / name
    manifest = BundleManifest(
        targets=targets,
        networks={target: SEPARATE[target] for target in targets},
        n_z_planes=7,
        scalings=store.manifest.scalings,
        limits=store.manifest.limits,
        runs={},
        store_digest=store.digest,
        commit="none",
        version="none",
        licences={},
        intensities="none",
    )
    histograms = {
        table_key(m, target): store.histogram(m, target)
        for m in store.magnifications
        for target in targets
    }
    write_bundle(folder / "bundle", manifest, networks, histograms)
    return Stainer(folder / "bundle")


@pytest.fixture(scope="module")
def shifted_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Fields of 96 x 80 pixels in B03 (two), B04 and C02.

    Their fluorescence lies three pixels lower and two further left than their brightfield.
    """
    folder = tmp_path_factory.mktemp("shifted")
    for seed, (well, fov) in enumerate((("B03", 1), ("B03", 2), ("B04", 1), ("C02", 1))):
        field = simulate_field(20, (96, 80), seed=seed)
        write_field(
            folder / "plate", FieldKey(20, well, fov), RawField(field.planes, field.targets)
        )
    site = {"dy_px": SHIFT[0], "dx_px": SHIFT[1], "scale": 1.0}
    (folder / "alignment.json").write_text(json.dumps({"20": {"1": site, "2": site}}))
    config = PreprocessConfig(
        plate=folder / "plate",
        store=folder / "store",
        validation_wells="B03",
        test_wells="B04",
        workers=0,
        align=str(folder / "alignment.json"),
    )
    return prepare(config)


@pytest.fixture(scope="module")
def stainer(shifted_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Stainer:
    return bundle_of(shifted_store, tmp_path_factory.mktemp("bundle"), TARGETS)


@pytest.fixture(scope="module")
def histograms(stainer: Stainer) -> Histograms:
    return stainer.histograms


@pytest.fixture(scope="module")
def painted(shifted_store, stainer, tmp_path_factory):
    """The two validation fields, painted."""
    return paint_fields(
        stainer,
        shifted_store,
        shifted_store.keys("validation"),
        stainer.manifest.ways,
        tmp_path_factory.mktemp("painted"),
    )


def test_ranges_are_measured_on_the_same_patches_of_training_fields_every_time(shifted_store):
    first, again = list(random_patches(shifted_store, 0)), list(random_patches(shifted_store, 0))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({patch.tobytes() for patch in first}) > 1
    fields = [
        shifted_store.field_scaling(key, "brightfield").normalise(shifted_store.planes(key))
        for key in shifted_store.keys("train")
    ]
    for patch in first:
        _, height, width = patch.shape
        assert (height % 32, width % 32, patch.shape[0]) == (0, 0, 7)
        corner = patch[0, 0, 0]
        places = [
            (field, y, x) for field in fields for y, x in np.argwhere(field[0] == corner).tolist()
        ]
        assert any(
            np.array_equal(field[:, y : y + height, x : x + width], patch) for field, y, x in places
        )


def test_the_truth_is_what_the_microscope_took_and_the_painting_lies_on_it(
    shifted_store, stainer, painted
):
    dy, dx = SHIFT
    for field in painted:
        images = stainer.stain(shifted_store.planes(field.key), 20, intensities="none").images
        for target in TARGETS:
            raw = shifted_store.stain(field.key, target)
            np.testing.assert_array_equal(read_image(field.truth[target]), raw[dy:, :dx])
            np.testing.assert_array_equal(
                read_image(field.painted["none"][target]), images[target][:-dy, -dx:]
            )


def test_a_store_of_another_objective_is_refused_or_painted_in_the_models_pixels(
    shifted_store, tmp_path
):
    fine = bundle_of(shifted_store, tmp_path, TARGETS)
    fine.manifest = dataclasses.replace(fine.manifest, um_per_px={"20": 0.2})
    keys, ways = shifted_store.keys("test"), ("none", "matching")
    with pytest.raises(StoreError, match=r"20x of 0\.325 µm per pixel, only 20x of 0\.2 µm"):
        paint_fields(fine, shifted_store, keys, ways, tmp_path)
    [field] = paint_fields(fine, shifted_store, keys, ways, tmp_path, resample=True)
    planes, (dy, dx) = shifted_store.planes(keys[0]), SHIFT
    expected = fine.stain(planes, 20, um_per_px=0.325, resample=True, intensities="none")
    for target, image in expected.images.items():
        painted = read_image(field.painted["none"][target])
        np.testing.assert_array_equal(painted, image[:-dy, -dx:])
    assert (field.um_per_px, field.trust) == (0.325, UNTOLD)


def test_each_way_is_that_of_the_stainer(shifted_store, stainer, painted):
    matched = read_image(painted[0].painted["matching"]["A2"])
    plain = read_image(painted[0].painted["none"]["A2"])
    assert list(painted[0].painted) == ["none", "matching"]  # it has not been calibrated
    assert (matched != plain).any()
    ranks = np.argsort(plain, axis=None, kind="stable")
    assert (np.diff(matched.ravel()[ranks].astype(int)) >= 0).all()


def test_the_preview_shows_each_target_with_its_error_where_both_were_seen(shifted_store, stainer):
    [key] = shifted_store.keys("test")
    titles = [panel.get_title() for panel in preview(stainer, shifted_store, key).axes]
    images = stainer.stain(shifted_store.planes(key), 20, intensities="none").images
    valid = shifted_store.valid(key)
    for target in TARGETS:
        truth = shifted_store.target(key, target)[valid].astype(float)
        error = np.abs(truth - images[target][valid]).mean()
        assert f"error (MAE {error:.0f} counts)" in titles


def test_a_model_of_one_target_leaves_the_others_to_the_truth(shifted_store, tmp_path):
    alone = bundle_of(shifted_store, tmp_path, ("A2",))
    [field] = paint_fields(alone, shifted_store, shifted_store.keys("test"), ("none",), tmp_path)
    assert list(field.painted["none"]) == ["A2"]
    assert list(field.truth) == list(TARGETS)


def test_a_calibration_is_judged_by_fields_that_it_was_not_fitted_to(painted, histograms, tmp_path):
    """One well: each field by a table fitted to the other."""
    first, second = cross_calibrated(painted, histograms, tmp_path)
    for field, other in ((first, painted[1]), (second, painted[0])):
        tables = fit_calibrations([other])
        for target in TARGETS:
            expected = tables[f"20/{target}"][read_image(field.painted["none"][target])]
            np.testing.assert_array_equal(
                read_image(field.painted["calibration"][target]), expected
            )
            np.testing.assert_array_equal(
                read_image(field.painted["highlights"][target]),
                match_highlights(expected, histograms[f"20/{target}"]),
            )


def test_a_calibration_is_judged_well_by_well_where_there_are_two(shifted_store, stainer, tmp_path):
    # Two fields of B03, one of B04.
    keys = shifted_store.keys("validation") + shifted_store.keys("test")
    fields = paint_fields(stainer, shifted_store, keys, ("none",), tmp_path)
    of = {well: [field for field in fields if field.key.well == well] for well in ("B03", "B04")}
    for field in cross_calibrated(fields, stainer.histograms, tmp_path):
        tables = fit_calibrations(of["B04" if field.key.well == "B03" else "B03"])
        for target in TARGETS:
            expected = tables[f"20/{target}"][read_image(field.painted["none"][target])]
            np.testing.assert_array_equal(
                read_image(field.painted["calibration"][target]), expected
            )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (
            {"none": (0, 0.3, 0.9), "matching": (0, 0.3, 0.5), "calibration": (0, 0.3, 0.7)},
            "matching",
        ),
        (
            {"none": (0, 0.3, 0.9), "matching": (54, 0.3, 0.5), "highlights": (0, 0.3, 0.7)},
            "highlights",
        ),
        (
            {"none": (0, 0.30, 0.9), "matching": (0, 0.34, 0.5), "calibration": (0, 0.32, 0.7)},
            "calibration",
        ),
        ({"none": (54, 0.3, 0.9), "matching": (0, 0.4, 0.5)}, "matching"),
        ({"none": (0, 0.3, 0.9), "matching": (0, 0.3, 0.9)}, "none"),
    ],
    ids=[
        "the lowest",
        "not for losing features",
        "not for losing pixels",
        "features lost weigh more than pixels",
        "the first of equals",
    ],
)
def test_the_bundle_keeps_the_way_that_loses_little_and_scores_best(
    shifted_store, tmp_path, given, kept
):
    bundle_of(shifted_store, tmp_path, ("A2",))
    tables = {"20/A2": np.arange(65536, dtype=np.uint16)}
    scores = {}
    for way, (n_left_out, pixels, combined) in given.items():
        left_out = {f"f{i}": "" for i in range(n_left_out)}
        part = Part(1, {}, {}, left_out, pixels, combined, combined)
        scores[way] = Score({20: part}, pixels, combined, combined, {})
    assert Assembled(tmp_path / "bundle", [], tables).finish(scores) == kept
    assert Stainer(tmp_path / "bundle").manifest.intensities == kept


def test_a_finished_bundle_has_the_intervals_of_the_way_that_it_keeps(shifted_store, tmp_path):
    """Two fields of B03, one of B04: as many wells as it takes."""
    stainer = bundle_of(shifted_store, tmp_path, ("A2",))
    keys = shifted_store.keys("validation") + shifted_store.keys("test")
    painted = paint_fields(stainer, shifted_store, keys, ("none", "matching"), tmp_path)
    fields = cross_calibrated(painted, stainer.histograms, tmp_path)
    part = Part(1, {}, {}, {}, 0.3, 0.9, 0.9)
    score = Score({20: part}, 0.3, 0.9, 0.9, {})
    Assembled(tmp_path / "bundle", fields, fit_calibrations(fields)).finish({"highlights": score})
    planes, expected = shifted_store.planes(keys[0]), fit_intervals(fields, "highlights")["20/A2"]
    stained = Stainer(tmp_path / "bundle").stain(planes, 20, level=0.2)
    for found, bound in zip(
        stained.intervals["A2"], expected.interval(stained.images["A2"], 0.2), strict=True
    ):
        np.testing.assert_array_equal(found, bound)
    assert not fit_intervals(painted[:2], "none")  # one well


def test_a_single_field_cannot_judge_a_calibration(painted, histograms, tmp_path):
    [field] = cross_calibrated(painted[:1], histograms, tmp_path)
    assert list(field.painted) == ["none", "matching"]


def test_no_field_at_all_is_an_error_in_words():
    with pytest.raises(StoreError, match="there is no field to judge by"):
        judge([], "none", feature_fields=0, workers=0, seed=0)


# The command, on two folders.


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with its own MLflow store."""
    monkeypatch.chdir(tmp_path)
    with tracked_at(f"sqlite:///{tmp_path}/mlflow.db"):
        yield tmp_path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two fields of 372 x 376 pixels, a third of 64 x 64, and noisy copies as predictions."""
    folder, rng = tmp_path_factory.mktemp("judged"), np.random.default_rng(0)
    shapes = {"B03": (372, 376), "C04": (372, 376), "D02": (64, 64)}
    for seed, (well, shape) in enumerate(shapes.items()):
        truth = simulate_field(20, shape, seed=seed).targets
        noisy = {
            target: np.clip(image + rng.normal(0, 30, shape), 0, 65535).astype(np.uint16)
            for target, image in truth.items()
        }
        for name, images in (("truth", truth), ("prediction", noisy)):
            write_field(folder / name, FieldKey(20, well, 1), RawField(NO_PLANES, images))
    return folder / "truth", folder / "prediction"


def evaluate(*args: object) -> Result:
    return CliRunner().invoke(
        importlib.import_module("entrypoints.evaluate").evaluate,
        [*map(str, args), "--workers", "0"],
    )


def newest_run() -> mlflow.entities.Run:
    return mlflow.search_runs(search_all_experiments=True, output_format="list", max_results=1)[0]


def test_two_folders_give_metrics_tables_and_a_report(folders, elsewhere):
    result = evaluate("--truth", folders[0], "--prediction", folders[1])
    assert result.exit_code == 0, result.output
    run = newest_run()
    found, uri = run.data.metrics, run.info.artifact_uri
    assert found["n_fields"] == 3
    # Of normal noise with deviation 30: 30 sqrt(2 / pi), less at the dark end.
    assert found["mae_A2"] == pytest.approx(24, abs=2)
    mean = (found["pixel_metric"] + found["feature_metric"]) / 2
    assert found["combined_metric"] == pytest.approx(mean)
    assert f"{found['combined_metric']:.3f}" in result.output
    kept = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    tables = {"fields.json", "features.json", "grades.json", "score.json", "features"}
    assert tables | {"report.html", "table.txt"} <= kept
    truth = mlflow.artifacts.load_text(f"{uri}/features/20x/truth_Image.csv").splitlines()
    assert len(truth) == 3  # two fields and their names: the third is too small for features
    assert "B03" in mlflow.artifacts.load_text(f"{uri}/report.html")


@pytest.mark.slow
def test_the_same_command_gives_the_same_metrics(folders, elsewhere):
    arguments = ("--truth", folders[0], "--prediction", folders[1], "--feature_fields", 1)
    runs = []
    for _ in range(2):
        assert evaluate(*arguments).exit_code == 0
        runs.append(newest_run().data.metrics)
    assert runs[0] == runs[1]


def test_folders_that_do_not_pair_up_end_in_a_table_or_lose_those_fields(folders, elsewhere):
    [lost] = folders[1].rglob("*D02*C03.tif")
    held = lost.read_bytes()
    lost.unlink()
    arguments = ("--truth", folders[0], "--prediction", folders[1])
    try:
        refused = evaluate(*arguments)
        skipped = evaluate(*arguments, "--on_error", "skip", "--feature_fields", 0)
    finally:
        lost.write_bytes(held)
    assert refused.exit_code == 2
    assert "20x D02 F001" in refused.stderr
    assert "A3 has no prediction" in refused.stderr
    assert "-P on_error=skip" in refused.stderr
    assert skipped.exit_code == 0, skipped.output
    assert newest_run().data.metrics["n_fields"] == 2
    table = mlflow.artifacts.load_dict(f"{newest_run().info.artifact_uri}/left_out.json")
    assert table["data"][0][0] == "20x D02 F001"


@pytest.mark.parametrize(
    "args",
    [("--truth", "a"), ("--prediction", "a"), ("--truth", "a", "--prediction", "b", "--runs", "c")],
)
def test_one_thing_is_judged_at_a_time(args, elsewhere):
    result = evaluate(*args)
    assert result.exit_code == 2
    assert "judge one thing" in result.stderr
