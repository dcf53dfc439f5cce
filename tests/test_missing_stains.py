"""Fields that lack a stain: what they have counts, what they lack costs nothing."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from adipocyte.domain import TARGETS, FieldKey
from adipocyte.errors import ConfigError, PlateError, StoreError
from adipocyte.evaluation.judge import judge
from adipocyte.evaluation.painting import cross_calibrated, paint_fields
from adipocyte.evaluation.training_metric import TrainingFeatureMetric
from adipocyte.plate.fields import RawField, read_field, write_field
from adipocyte.plate.scan import scan_plate
from adipocyte.preparation.pictures import histogram_plot, mask_sheet
from adipocyte.simulation import simulate_field
from adipocyte.staining.stainer import Stainer
from adipocyte.store.paths import field_path
from adipocyte.store.reader import Store
from adipocyte.training.augmentations import Augmenter
from adipocyte.training.generator import completed, painting_losses, train_generator
from adipocyte.training.patches import Patches
from adipocyte.training.segmenter import train_segmenter
from adipocyte.training.validation import validate_generator
from tests.support.plates import SHAPE_PX
from tests.support.stores import prepared
from tests.support.trainings import ALL_STAINS, SEGMENTER, Notes

# By well and field of view. C02 and C03 train, B03 validates, B04 tests.
HAS = {
    ("C02", 1): TARGETS,
    ("C02", 2): ("A1", "A3"),
    ("C03", 1): ("A2",),
    ("C03", 2): TARGETS,
    ("B03", 1): ("A1", "A2"),
    ("B03", 2): TARGETS,
    ("B04", 1): TARGETS,
    ("B04", 2): ("A2", "A3"),
}


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "plate"
    for seed, ((well, fov), targets) in enumerate(HAS.items()):
        field = simulate_field(20, SHAPE_PX, seed=seed)
        stains = {target: field.targets[target] for target in targets}
        write_field(folder, FieldKey(20, well, fov), RawField(field.planes, stains))
    return folder


@pytest.fixture(scope="module")
def store(plate: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepared(plate, tmp_path_factory.mktemp("prepared") / "store", on_error="skip")


@pytest.fixture(scope="module")
def stainer(small_bundle: Path) -> Stainer:
    return Stainer(small_bundle)


def without(plate: Path, copy: Path, pattern: str) -> Path:
    """A copy of the plate without some files."""
    shutil.copytree(plate, copy)
    for path in copy.glob(f"20x_images/{pattern}"):
        path.unlink()
    return copy


# Plate and store


def test_a_missing_stain_stops_the_preparation_with_a_table_and_the_setting(plate, tmp_path):
    with pytest.raises(PlateError) as caught:
        prepared(plate, tmp_path / "store")
    said = str(caught.value)
    assert said.count("which others have") == 5
    assert "20x C03 F001  has no A1 image" in said
    assert "a stain where only that is missing, else the field: -P on_error=skip" in said


def test_on_request_fields_keep_what_they_have(plate, store):
    found = {(key.well, key.fov): store.targets(key) for key in store.manifest.fields}
    assert found == HAS
    assert len(store.manifest.problems) == 5
    assert Store(store.folder).manifest == store.manifest
    scanned = scan_plate(plate)
    for files in (*scanned.fields, *scanned.partial):
        field = read_field(files, store.targets(files.key))
        np.testing.assert_array_equal(store.planes(files.key), field.planes)
        for target, image in field.targets.items():
            np.testing.assert_array_equal(store.stain(files.key, target), image)


def test_a_field_without_any_stain_or_with_other_problems_is_left_out(plate, tmp_path):
    bare = without(plate, tmp_path / "bare", "*C02_T0001F002*C0[13].tif")
    next(bare.glob("20x_images/*C03*F001*Z02C04.tif")).unlink()
    left = prepared(bare, tmp_path / "store", on_error="skip").manifest.fields
    assert {(key.well, key.fov) for key in left} == HAS.keys() - {("C02", 2), ("C03", 1)}


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("*C0[23]_*A02*", "all fields of the train wells C02, C03 lack A2 at 20x: add A2 images"),
        ("*B03_*A03*", "all fields of the validation wells B03 lack A3 at 20x"),
    ],
)
def test_a_stain_that_nothing_can_be_learnt_of_is_refused(plate, tmp_path, pattern, said):
    with pytest.raises(PlateError, match=said):
        prepared(without(plate, tmp_path / "plate", pattern), tmp_path / "store", on_error="skip")


def test_statistics_are_of_the_fields_that_have_the_stain(store):
    having = [store.stain(key, "A2") for key in store.keys("train", ("A2",))]
    assert [image.shape for image in having] == [SHAPE_PX] * 3
    assert store.histogram(20, "A2").sum() == 3 * np.prod(SHAPE_PX)
    assert store.median(20, "A2") == np.median(having)


def test_what_a_field_lacks_cannot_be_read(store):
    key = FieldKey(20, "C02", 2)
    for read in (store.target, store.stain):
        with pytest.raises(StoreError, match="field 20x C02 F002 has no A2, only A1, A3"):
            read(key, "A2")
    nameless = FieldKey(20, "C03", 1)
    assert "labels" not in zarr.open_group(field_path(store.folder, nameless), mode="r")


def test_a_manifest_in_which_a_field_lacks_all_stains_is_damaged(store, tmp_path):
    shutil.copytree(store.folder, tmp_path / "store")
    path = tmp_path / "store" / "manifest.json"
    for lacks in ('["A1", "A2", "A3"]', '["A4"]'):
        content = store.folder.joinpath("manifest.json").read_text()
        start = content.index('"lacks": [') + len('"lacks": ')
        path.write_text(content[:start] + lacks + content[content.index("]", start) + 1 :])
        with pytest.raises(StoreError, match=r"is damaged .*lacks all stains"):
            Store(tmp_path / "store")


def test_a_store_of_the_time_before_fields_could_lack_stains_is_read(small_store, tmp_path):
    folder = shutil.copytree(small_store.folder, tmp_path / "store")
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    for field in content["fields"]:
        assert field.pop("lacks") == []
    path.write_text(json.dumps(content))
    assert Store(folder).manifest == small_store.manifest


def test_pictures_of_the_store_show_what_is_there(store):
    assert len(mask_sheet(store).axes) == 6
    assert histogram_plot(store).axes


# Training


def test_a_patch_is_nan_where_its_field_lacks_the_stain(store):
    patches = Patches(store, TARGETS, (), Augmenter(32, 0.5, 180), patch_px=32, seed=0)
    seen = set()
    for index in range(40):
        planes, targets, _ = patches[index]
        assert planes.isfinite().all()
        unknown = targets.isnan()
        assert (unknown.all(dim=(1, 2)) == unknown.any(dim=(1, 2))).all()
        seen.add(tuple(unknown[:, 0, 0].tolist()))
    assert seen == {(False, False, False), (False, True, False), (True, False, True)}


def test_patches_come_from_fields_with_a_target_and_masks_from_those_with_nuclei(
    store, monkeypatch
):
    def fields(targets, masks):
        read, read_really = set(), Store.planes_and_targets

        def noted(self, key, *given):
            read.add((key.well, key.fov))
            return read_really(self, key, *given)

        patches = Patches(store, targets, masks, Augmenter(32, 0, 0), patch_px=32, seed=0)
        with monkeypatch.context() as patch:
            patch.setattr(Store, "planes_and_targets", noted)
            for index in range(40):
                patches[index]
        return read

    assert fields(TARGETS, ()) == {("C02", 1), ("C02", 2), ("C03", 1), ("C03", 2)}
    assert fields(("A2",), ()) == {("C02", 1), ("C03", 1), ("C03", 2)}
    assert fields((), (store.mask,)) == {("C02", 1), ("C02", 2), ("C03", 2)}


def test_what_is_missing_costs_nothing_and_moves_nothing():
    torch.manual_seed(0)
    real, fake = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32, requires_grad=True)
    partial = real.clone()
    partial[0, 1] = torch.nan
    known = ~partial.isnan()
    for spectral_weight in (0.0, 1.0):
        settings = {**vars(ALL_STAINS), "spectral_weight": spectral_weight}
        losses = painting_losses(fake, completed(partial, fake), type(ALL_STAINS)(**settings))
        (gradient,) = torch.autograd.grad(sum(losses.values()), fake)
        assert gradient[0, 1].abs().max() == 0
        assert gradient[known].abs().min() > 0
        assert losses["mae"].item() == pytest.approx(
            ((fake - real).abs() * known).mean().item(), rel=1e-6
        )
    assert torch.equal(completed(real, fake), real)


def test_networks_are_trained_on_them_and_validated_by_what_is_there(store, tmp_path):
    notes = Notes()
    best = train_generator(store, ALL_STAINS, None, tmp_path / "painter", notes)
    assert {"val_mae_A1", "val_mae_A2", "val_mae_A3"} < best.keys()
    assert all(np.isfinite(value) for row in notes.rows.values() for value in row.values())
    assert np.isfinite(train_segmenter(store, SEGMENTER, tmp_path / "segmenter", notes)["val_dice"])


def test_validation_is_over_the_fields_that_have_the_stain(store):
    blank = torch.nn.Conv2d(7, 3, 1)
    torch.nn.init.zeros_(blank.weight)
    torch.nn.init.zeros_(blank.bias)
    metrics, picture = validate_generator(blank, store, TARGETS, None)
    for target, n_fields in (("A1", 2), ("A3", 1)):
        keys = store.keys("validation", (target,))
        assert len(keys) == n_fields
        flat = round(store.scaling(20, target).mean)
        due = np.mean([np.abs(store.target(key, target) - float(flat)).mean() for key in keys])
        assert metrics[f"val_mae_{target}"] == pytest.approx(due, abs=0.5)
    assert picture.shape[0] > 3 * 80


def test_features_choose_by_whole_fields_alone(store, plate, tmp_path):
    with pytest.raises(ConfigError, match="field 20x B03 F002 has 96 x 80 pixels to measure"):
        TrainingFeatureMetric(store, TARGETS, 2)
    none = prepared(
        without(plate, tmp_path / "plate", "*B03_T0001F002*A01Z01C01.tif"),
        tmp_path / "store",
        on_error="skip",
    )
    with pytest.raises(ConfigError, match="no validation field has all three stains"):
        TrainingFeatureMetric(none, TARGETS, 2)


# Judging


def test_a_painting_is_judged_by_what_is_there(store, stainer, tmp_path):
    keys = store.keys("test")
    fields = paint_fields(stainer, store, keys, ("none", "matching"), tmp_path)
    assert [sorted(field.truth) for field in fields] == [["A1", "A2", "A3"], ["A2", "A3"]]
    judgement = judge(fields, "none", feature_fields=2, workers=0, seed=0)
    [part] = judgement.scores["none"].parts.values()
    assert part.pixel_metrics.keys() == set(TARGETS)
    first = judgement.measurements[0]
    assert part.pixel_metrics["A1"] == pytest.approx(
        first.pixels["none"]["A1"]["mae"] / np.median(store.stain(keys[0], "A1"))
    )
    both = [store.stain(key, "A2") for key in keys]
    maes = [field.pixels["none"]["A2"]["mae"] for field in judgement.measurements]
    assert part.pixel_metrics["A2"] == pytest.approx(np.mean(maes) / np.median(both))
    # A1 of one well's one field has no other that a table could be fitted to.
    assert cross_calibrated(fields, stainer.histograms, tmp_path) == fields


def test_fields_without_what_a_model_paints_are_passed_over(store, stainer, tmp_path):
    alone = copy.copy(stainer)
    alone.manifest = replace(
        alone.manifest, targets=("A1",), networks={"A1": alone.manifest.networks["A1"]}
    )
    [field] = paint_fields(alone, store, store.keys("test"), ("none",), tmp_path)
    assert field.key == FieldKey(20, "B04", 1)
