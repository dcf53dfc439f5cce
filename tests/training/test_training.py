"""Patches repeat and stay registered; a training repeats, learns and keeps its best network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import l1_loss

from adipocyte.config import GeneratorConfig, PreprocessConfig, build
from adipocyte.domain import BRIGHTFIELD, FieldKey
from adipocyte.errors import ConfigError, StoreError
from adipocyte.imaging.alignment import Alignment
from adipocyte.networks.files import load_network, save_network
from adipocyte.networks.tiles import predict_field, segment_field
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.plate.fields import RawField, write_field
from adipocyte.preparation.prepare import prepare
from adipocyte.simulation import simulate_field
from adipocyte.store.reader import Store
from adipocyte.training import generator as generator_loop
from adipocyte.training import segmenter as segmenter_loop
from adipocyte.training.augmentations import Augmenter, transforms
from adipocyte.training.device import make_fabric, placed
from adipocyte.training.generator import (
    generator_spec,
    rate_factor,
    train_generator,
    weighted,
)
from adipocyte.training.mask_sources import PredictedMasks
from adipocyte.training.patches import Patches, epoch_steps, patch_loader
from adipocyte.training.segmenter import train_segmenter
from adipocyte.training.validation import source_of, validate_generator, validate_segmenter
from tests.support.stores import prepared
from tests.support.trainings import LIPIDS, NUCLEI, SEGMENTER, Notes, same, weights

PLAIN = Augmenter(32, p=0.0, rotate_deg=9)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """The folder of a segmenter that has learnt nothing."""
    torch.manual_seed(0)
    spec = UNetSpec(encoder="resnet18", in_channels=7)
    folder = tmp_path_factory.mktemp("segmenter")
    save_network(folder, spec, build_unet(spec))
    return folder


@pytest.fixture
def aligned_store(small_store):
    """`small_store` with its fluorescence 5 pixels too far down and 9 too far left.

    The rest of a field has no truth.
    """
    store = Store(small_store.folder)
    alignment = Alignment(dy_px=5.0, dx_px=-9.0, scale=1.0)
    store.manifest = replace(
        store.manifest, alignments={magnification: {1: alignment} for magnification in (20, 40)}
    )
    return store


# Augmentations


@given(seed=st.integers(0, 2**31 - 1), height=st.integers(32, 50), width=st.integers(32, 50))
def test_planes_target_and_mask_are_augmented_alike(seed, height, width):
    image = np.random.default_rng(0).random((height, width), dtype=np.float32)
    augmented = Augmenter(32, p=0.5, rotate_deg=9)(np.stack([image] * 9), seed)
    assert (augmented.shape, augmented.dtype) == ((9, 32, 32), np.float32)
    np.testing.assert_array_equal(augmented, np.stack([augmented[0]] * 9))


@given(seed=st.integers(0, 2**31 - 1))
def test_the_same_seed_augments_alike_whatever_came_before(seed):
    stack = np.random.default_rng(0).random((9, 40, 40), dtype=np.float32)
    used, fresh = Augmenter(32, p=0.5, rotate_deg=9), Augmenter(32, p=0.5, rotate_deg=9)
    used(stack, 1)
    np.testing.assert_array_equal(used(stack, seed), fresh(stack, seed))


@pytest.mark.parametrize(
    "name",
    [
        "Rotate",
        "RandomResizedCrop",
        "VerticalFlip",
        "HorizontalFlip",
        "Transpose",
    ],
)
def test_every_augmentation_moves_the_image(name):
    in_order = transforms(32, p=1.0, rotate_deg=9)
    (transform,) = [one for one in in_order if type(one).__name__ == name]
    image = np.random.default_rng(0).random((40, 40, 3), dtype=np.float32)
    transform.set_random_seed(1)
    moved = transform(image=image)["image"]
    assert moved.shape != image.shape or not np.array_equal(moved, image)


def test_augmentation_invents_no_values_and_without_any_only_crops():
    stack = np.random.default_rng(0).random((9, 40, 40), dtype=np.float32)
    some, all_of_them = Augmenter(32, p=0.5, rotate_deg=9), Augmenter(32, p=1.0, rotate_deg=9)
    assert len({some(stack, seed).tobytes() for seed in range(20)}) == 20
    for seed in range(20):
        assert 0 <= all_of_them(stack, seed).min() <= all_of_them(stack, seed).max() <= 1
        crop = PLAIN(stack, seed)
        assert any(
            (crop == stack[:, y : y + 32, x : x + 32]).all() for y in range(9) for x in range(9)
        )


# Patches


@pytest.fixture(scope="module")
def store_by_plate(small_plate: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """`small_store`, but its fields are normalised by the same constants."""
    folder = tmp_path_factory.mktemp("by_plate") / "store"
    return prepared(small_plate, folder, normalisation="plate")


@pytest.mark.parametrize("name", ["small_store", "store_by_plate"])
def test_a_patch_is_a_part_of_a_training_field_in_network_units(name, request):
    store = request.getfixturevalue(name)
    patches = Patches(store, ("A2",), (store.mask,), PLAIN, patch_px=32, seed=0)
    for planes, target, mask in patches[0], patches[1], patches[2]:
        assert (planes.shape, target.shape, mask.shape) == ((7, 32, 32), (1, 32, 32), (1, 32, 32))
        found = 0
        for key in store.keys("train"):
            lipids = store.target(key, "A2")
            counts = store.field_scaling(key, "A2").denormalise(target[0].numpy())
            light = store.field_scaling(key, BRIGHTFIELD)
            for y, x in np.argwhere(lipids[:65, :49] == counts[0, 0]):
                window = np.s_[y : y + 32, x : x + 32]
                if (lipids[window] == counts).all():
                    brightfield = light.denormalise(planes.numpy())
                    nuclei = mask[0].numpy().astype(bool)
                    np.testing.assert_array_equal(brightfield, store.planes(key, window))
                    np.testing.assert_array_equal(nuclei, store.mask(key, window))
                    found += 1
        assert found == 1


def test_only_the_planes_of_a_patch_are_those_of_another_microscope(small_store):
    def brighter(planes: np.ndarray, ground: float, _: np.random.Generator) -> np.ndarray:
        return planes + np.float32(ground)

    plain, changed = (
        Patches(small_store, ("A2",), (), PLAIN, patch_px=32, seed=0, changes=changes)
        for changes in ((), (brighter,))
    )
    lights = [small_store.field_scaling(key, BRIGHTFIELD) for key in small_store.keys("train")]
    grounds = [light.mean / light.std for light in lights]
    seen = set()
    for i in range(12):
        (planes, target, _), (other, same, _) = plain[i], changed[i]
        assert torch.equal(target, same)
        seen.add(round(float((other - planes).mean()), 3))
    assert seen == {0.0, *(round(ground, 3) for ground in grounds)}


def test_a_patch_depends_on_seed_and_index_alone(small_store):
    make = {
        "targets": ("A1",),
        "masks": (small_store.mask,),
        "augmenter": Augmenter(32, 0.5, 9),
        "patch_px": 32,
    }
    patches = Patches(small_store, **make, seed=0)
    in_order = [patches[i] for i in range(8)]
    for i in (5, 0, 5, 3):
        assert all(torch.equal(a, b) for a, b in zip(patches[i], in_order[i], strict=True))
    assert len({planes.numpy().tobytes() for planes, _, _ in in_order}) == 8
    assert not torch.equal(Patches(small_store, **make, seed=1)[0][0], in_order[0][0])


def test_masks_are_zero_or_one_after_augmentation_and_the_segmenter_gets_no_target(small_store):
    patches = Patches(
        small_store, (), (small_store.mask,), Augmenter(32, 1.0, 9), patch_px=32, seed=0
    )
    masks = torch.cat([mask for _, _, mask in (patches[i] for i in range(20))])
    assert masks.unique().tolist() == [0, 1]
    assert patches[0][1].shape == (0, 32, 32)


def test_a_patch_too_large_for_a_field_is_refused_with_a_size_that_fits(small_store):
    make = {"targets": ("A2",), "masks": (small_store.mask,), "seed": 0}
    with pytest.raises(
        ConfigError,
        match="a patch of 96 pixels does not fit the smallest field's side of 80: -P patch_px=64",
    ):
        Patches(small_store, **make, augmenter=Augmenter(96, 0.5, 9), patch_px=96)
    fits = Patches(small_store, **make, augmenter=Augmenter(64, 0.5, 9), patch_px=64)
    assert fits[0][0].shape == (7, 64, 64)


def test_workers_give_the_same_batches_in_the_same_order(small_store):
    patches = Patches(
        small_store, ("A2",), (small_store.mask,), Augmenter(32, 0.5, 9), patch_px=32, seed=0
    )
    fabric = make_fabric("32")
    loaders = [
        patch_loader(fabric, patches, batch=2, workers=workers, steps=range(3))
        for workers in (0, 1)
    ]
    for here, there in zip(*loaders, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "error",
    [StoreError("a field is damaged", "prepare it again"), OSError(5, "Input/output error")],
)
def test_an_error_in_a_reading_process_arrives_as_it_was_raised(
    small_store, monkeypatch, workers, error
):
    def read(*_: object) -> None:
        raise error

    patches = Patches(
        small_store, ("A2",), (small_store.mask,), Augmenter(32, 0.5, 9), patch_px=32, seed=0
    )
    monkeypatch.setattr(Patches, "__getitem__", read)
    with pytest.raises(type(error)) as raised:
        next(patch_loader(make_fabric("32"), patches, batch=2, workers=workers, steps=range(3)))
    assert (str(raised.value), raised.value.args) == (str(error), error.args)


def test_a_loader_that_starts_late_gives_the_batches_that_are_left(small_store):
    patches = Patches(
        small_store, ("A2",), (small_store.mask,), Augmenter(32, 0.5, 9), patch_px=32, seed=0
    )
    fabric = make_fabric("32")
    whole, late = (
        list(patch_loader(fabric, patches, batch=2, workers=0, steps=steps))
        for steps in (range(4), range(2, 4))
    )
    assert torch.equal(
        torch.stack([planes for planes, _, _ in whole[2:]]),
        torch.stack([planes for planes, _, _ in late]),
    )


def test_mixed_masks_are_each_source_by_turns(small_store):
    def nowhere(key, window):
        return np.zeros_like(small_store.mask(key, window))

    def everywhere(key, window):
        return ~nowhere(key, window)

    patches = Patches(small_store, ("A1",), (nowhere, everywhere), PLAIN, patch_px=32, seed=0)
    shares = [patches[i][2].mean().item() for i in range(40)]
    assert set(shares) == {0.0, 1.0}
    assert 10 < sum(shares) < 30


@pytest.mark.parametrize(
    ("patch_px", "batch", "n_steps"), [(32, 1, 30), (32, 7, 5), (64, 1, 8), (64, 100, 1)]
)
def test_an_epoch_covers_the_training_wells_once(small_store, patch_px, batch, n_steps):
    # Four training fields of 96 x 80 pixels.
    assert epoch_steps(small_store, patch_px, batch) == n_steps


# The loops' small parts


@pytest.mark.parametrize(
    ("target", "in_channels", "wide"), [("A1", 8, "last"), ("A2", 7, "all"), ("A3", 7, "all")]
)
def test_the_report_recipe_asks_for_these_generators(target, in_channels, wide):
    config = build(GeneratorConfig, {"target": target, "recipe": "report"})
    assert generator_spec(config, 7) == UNetSpec(
        encoder="resnet152", in_channels=in_channels, wide_convolutions=wide
    )


def test_the_rate_stays_and_then_falls_in_a_line_to_zero():
    config = replace(LIPIDS, epochs=200, constant_epochs=100)  # the report's
    rates = [rate_factor(3 * epoch + 2, 3, config) for epoch in range(201)]
    assert rates[:101] == [1.0] * 101
    np.testing.assert_allclose(rates[100:], np.linspace(1, 0, 101), atol=1e-12)


@given(epochs=st.integers(1, 50), constant_epochs=st.integers(0, 60))
def test_the_rate_never_rises_and_no_epoch_is_wasted(epochs, constant_epochs):
    config = replace(LIPIDS, epochs=epochs, constant_epochs=constant_epochs)
    rates = [rate_factor(epoch, 1, config) for epoch in range(epochs)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1
    assert rates[-1] > 0


def test_the_generators_loss_is_the_weighted_sum_of_its_parts():
    config = replace(LIPIDS, mae_weight=2.0, spectral_weight=3.0, adversarial_weight=5.0)
    parts = {
        "mae": torch.tensor(1.0),
        "spectral": torch.tensor(10.0),
        "adversarial": torch.tensor(100.0),
    }
    assert weighted(parts, config) == 532


@pytest.mark.parametrize(("precision", "dtype"), [("32", torch.float32), ("bf16", torch.bfloat16)])
def test_weights_stay_in_32_bit_whatever_the_arithmetic(precision, dtype):
    fabric = make_fabric(precision)
    layer = fabric.setup_module(torch.nn.Linear(2, 2))
    assert layer.weight.dtype == torch.float32
    with fabric.autocast():
        ones = torch.ones(1, 2, device=layer.weight.device)
        assert torch.nn.functional.linear(ones, layer.weight).dtype == dtype


@pytest.mark.slow
def test_a_compiled_network_keeps_its_answers_and_the_names_of_its_weights():
    layer = torch.nn.Conv2d(2, 3, 3)
    fabric = make_fabric("32")
    source = torch.randn(1, 2, 8, 8, device=fabric.device)
    expected, names = layer.to(fabric.device)(source), list(layer.state_dict())
    compiled = placed(fabric, layer, compiled=True)
    torch.testing.assert_close(compiled(source), expected)
    assert compiled._compiled_call_impl is not None
    assert list(compiled.state_dict()) == names


def test_predicted_masks_are_the_segmenters_pixel_for_pixel(small_store, segmenter):
    masks = PredictedMasks(segmenter, small_store, "train", torch.device("cpu"))
    network = load_network(segmenter)[1]
    for key in small_store.keys("train"):
        expected = segment_field(network, source_of(small_store, key, None))
        assert 0 < expected.mean() < 1
        np.testing.assert_array_equal(masks(key, np.s_[:, :]), expected)
        np.testing.assert_array_equal(masks(key, np.s_[5:37, 11:80]), expected[5:37, 11:80])


# Validation


class Answer(torch.nn.Module):
    """A network that knows one answer, (Y, X), in network units."""

    def __init__(self, answers):
        super().__init__()
        self.unused, self.answers = torch.nn.Parameter(torch.zeros(1)), list(answers)

    def forward(self, source):
        answer = torch.zeros(1, 1, *source.shape[-2:])
        known = torch.as_tensor(self.answers.pop(0))
        answer[0, 0, : known.shape[0], : known.shape[1]] = known
        return answer


def test_validation_measures_the_challenges_pixel_error(small_store):
    keys = small_store.keys("validation")
    answers, medians = [], {}
    for key in keys:
        scaling = small_store.scaling(key.magnification, "A2")
        answers.append(scaling.normalise(small_store.target(key, "A2") + np.uint16(30)))
        learnt_from = [small_store.target(other, "A2") for other in trained(small_store, key)]
        medians[key.magnification] = np.median(learnt_from)
    metrics, picture = validate_generator(Answer(answers), small_store, ("A2",), None)
    assert metrics["val_mae"] == metrics["val_mae_20x"] == metrics["val_mae_40x"] == 30
    assert metrics["val_pixel_metric_40x"] == pytest.approx(30 / medians[40])
    assert metrics["val_pixel_metric"] == pytest.approx((30 / medians[20] + 30 / medians[40]) / 2)
    assert (picture.dtype, picture.shape) == (np.uint8, (96, 4 * 80 + 3 * 4))


def trained(store, key):
    return [other for other in store.keys("train") if other.magnification == key.magnification]


def test_validation_measures_the_overlap_of_all_fields_together(small_store):
    truths = [small_store.mask(key) for key in small_store.keys("validation")]
    metrics, _ = validate_segmenter(
        Answer(np.where(truth, 5.0, -5.0) for truth in truths), small_store
    )
    assert metrics["val_dice"] == metrics["val_iou"] == 1
    everywhere, _ = validate_segmenter(
        Answer(np.ones(truth.shape) for truth in truths), small_store
    )
    share = np.mean(truths)
    assert everywhere["val_iou"] == pytest.approx(share)
    assert everywhere["val_dice"] == pytest.approx(2 * share / (1 + share))


# Whole trainings


@pytest.mark.slow
def test_a_segmenter_trained_twice_or_with_workers_is_the_same_bit_for_bit(small_store, tmp_path):
    trainings = {
        "first": SEGMENTER,
        "again": SEGMENTER,
        "workers": replace(SEGMENTER, workers=1),
        "other": replace(SEGMENTER, seed=1),
    }
    for name, config in trainings.items():
        train_segmenter(small_store, config, tmp_path / name, Notes())
    first = weights(tmp_path / "first")
    assert same(first, weights(tmp_path / "again"))
    assert same(first, weights(tmp_path / "workers"))
    assert not same(first, weights(tmp_path / "other"))


@pytest.mark.slow
def test_a_generator_trained_twice_or_with_workers_is_the_same_bit_for_bit(small_store, tmp_path):
    for name, config in {
        "first": LIPIDS,
        "again": LIPIDS,
        "workers": replace(LIPIDS, workers=1),
    }.items():
        train_generator(small_store, config, None, tmp_path / name, Notes())
    first = weights(tmp_path / "first")
    assert same(first, weights(tmp_path / "again"))
    assert same(first, weights(tmp_path / "workers"))


def test_the_best_segmenter_is_kept_whenever_it_came(small_store, tmp_path, monkeypatch):
    dice = iter([0.1, 0.7, 0.4])
    seen = []

    def validate(network, store):
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"val_dice": next(dice)}, np.zeros((1, 1), dtype=np.uint8)

    monkeypatch.setattr(segmenter_loop, "validate_segmenter", validate)
    notes = Notes()
    best = train_segmenter(small_store, replace(SEGMENTER, epochs=3), tmp_path, notes)
    assert best == {"val_dice": 0.7, "best_epoch": 2}
    assert same(weights(tmp_path), seen[1])
    assert [row["val_dice"] for row in notes.epochs()] == [0.1, 0.7, 0.4]
    # By step: two in an epoch.
    assert list(notes.pictures) == [("preview", 2), ("preview", 4), ("preview", 6)]


def test_the_best_generator_is_kept_whenever_it_came(small_store, tmp_path, monkeypatch):
    metric = iter([0.9, 0.2, 0.5])
    seen = []

    def validate(network, *_):
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"val_pixel_metric": next(metric)}, np.zeros((1, 1), dtype=np.uint8)

    monkeypatch.setattr(generator_loop, "validate_generator", validate)
    best = train_generator(
        small_store, replace(LIPIDS, epochs=3, epoch_steps=1), None, tmp_path, Notes()
    )
    assert best == {"val_pixel_metric": 0.2, "best_epoch": 2}
    assert same(weights(tmp_path), seen[1])


def test_the_metrics_that_are_returned_are_those_of_the_saved_network(small_store, tmp_path):
    best = train_segmenter(small_store, SEGMENTER, tmp_path / "segmenter", Notes())
    metrics, _ = validate_segmenter(
        load_network(tmp_path / "segmenter" / "network")[1], small_store
    )
    # Loaded weights lie otherwise in memory, so sums run in another order and now and then a pixel
    # rounds to its other side.
    assert {name: best[name] for name in metrics} == pytest.approx(metrics, rel=1e-3, abs=1e-3)

    notes = Notes()
    best = train_generator(small_store, LIPIDS, None, tmp_path / "generator", notes)
    metrics, _ = validate_generator(
        load_network(tmp_path / "generator" / "network")[1], small_store, ("A2",), None
    )
    assert {name: best[name] for name in metrics} == pytest.approx(metrics, rel=1e-3)
    measured = {
        "g_loss",
        "d_loss",
        "mae",
        "spectral",
        "adversarial",
        "g_gradient",
        "d_gradient",
        "d_real",
        "d_fake",
        "d_gap",
        "d_accuracy",
    }
    assert all(row.keys() >= {f"step_{name}" for name in measured} for row in notes.rows.values())
    assert len(notes.rows) == 4
    for row in notes.epochs():
        assert row.keys() >= {
            *metrics,
            "epoch",
            "seconds",
            "patches_per_second",
            *(f"train_{name}" for name in measured),
        }
    assert notes.epochs()[0]["train_mae"] == pytest.approx(
        (notes.rows[1]["step_mae"] + notes.rows[2]["step_mae"]) / 2
    )


@pytest.mark.parametrize("mask_source", ["predicted", "true"])
def test_the_nuclei_generator_sees_masks_as_an_eighth_channel(
    small_store, segmenter, tmp_path, monkeypatch, mask_source
):
    sources = []

    class Spy(generator_loop.Discriminator):
        def forward(self, condition, image):
            sources.append(condition)
            return super().forward(condition, image)

    monkeypatch.setattr(generator_loop, "Discriminator", Spy)
    config = replace(NUCLEI, mask_source=mask_source, epochs=1, epoch_steps=2, augment_p=0.0)
    best = train_generator(small_store, config, segmenter, tmp_path, Notes())
    spec, network = load_network(tmp_path / "network")
    assert spec.in_channels == 8
    masks = PredictedMasks(segmenter, small_store, "validation", torch.device("cpu"))
    assert validate_generator(network, small_store, ("A1",), masks)[0]["val_mae"] == pytest.approx(
        best["val_mae"], rel=1e-3
    )

    # What it trained on: the same patches, by seed and index, with one mask or the other.
    wanted = small_store.mask
    if mask_source == "predicted":
        wanted = PredictedMasks(segmenter, small_store, "train", torch.device("cpu"))
    patches = Patches(small_store, ("A1",), (wanted,), PLAIN, patch_px=32, seed=config.seed)
    planes, _, mask = (
        torch.stack(part) for part in zip(*(patches[i] for i in range(2)), strict=True)
    )
    assert torch.equal(sources[0].cpu(), torch.cat([planes, mask], dim=1))


def test_a_target_that_the_store_lacks_is_refused_before_any_work(
    small_store, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        small_store, "manifest", replace(small_store.manifest, targets=("A1", "A2"))
    )
    with pytest.raises(StoreError, match="has no A3, only A1, A2: prepare a plate with A3 images"):
        train_generator(small_store, replace(LIPIDS, target="A3"), None, tmp_path / "run", Notes())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_segmenters_loss_falls(small_store, tmp_path):
    notes = Notes()
    train_segmenter(
        small_store, replace(SEGMENTER, epochs=3, epoch_steps=10, batch=4), tmp_path, notes
    )
    losses = [row["train_loss"] for row in notes.epochs()]
    assert losses[2] < 0.8 * losses[0]


def test_a_network_learns_one_patch_by_heart(small_store):
    torch.manual_seed(0)
    patches = Patches(small_store, ("A2",), (small_store.mask,), PLAIN, patch_px=32, seed=0)
    planes, target, _ = patches[0]
    network = build_unet(UNetSpec(encoder="resnet18", in_channels=7))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(25):
        loss = l1_loss(network(planes[None].repeat(2, 1, 1, 1)), target[None].repeat(2, 1, 1, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


# Where brightfield and fluorescence do not lie on top of each other


def test_patches_are_cut_where_there_is_truth(aligned_store, monkeypatch):
    windows = []

    def watched(key, targets, window):
        windows.append(window)
        return Store.planes_and_targets(aligned_store, key, targets, window)

    monkeypatch.setattr(aligned_store, "planes_and_targets", watched)
    patches = Patches(aligned_store, ("A2",), (aligned_store.mask,), PLAIN, patch_px=32, seed=0)
    for i in range(200):
        patches[i]
    assert (min(y.start for y, _ in windows), max(y.stop for y, _ in windows)) == (0, 91)
    assert (min(x.start for _, x in windows), max(x.stop for _, x in windows)) == (9, 80)


def test_a_patch_larger_than_the_part_with_truth_is_refused(aligned_store):
    Patches(aligned_store, ("A2",), (aligned_store.mask,), PLAIN, patch_px=71, seed=0)
    with pytest.raises(
        ConfigError,
        match="a patch of 72 pixels does not fit the smallest field's side of 71: -P patch_px=64",
    ):
        Patches(aligned_store, ("A2",), (aligned_store.mask,), PLAIN, patch_px=72, seed=0)


def test_validation_measures_where_there_is_truth(aligned_store, small_store):
    network = build_unet(UNetSpec(encoder="resnet18", in_channels=7)).eval()
    [metrics, _] = validate_generator(network, aligned_store, ("A2",), None)
    errors = []
    for key in aligned_store.keys("validation"):
        painted = small_store.scaling(key.magnification, "A2").denormalise(
            predict_field(network, source_of(small_store, key, None))[0]
        )
        raw = small_store.target(key, "A2").astype(int)
        errors.append(np.abs(painted[:91, 9:] - raw[5:, :-9]).mean())
    assert metrics["val_mae"] == pytest.approx(np.mean(errors), abs=0.5)  # what the spline rounds


def test_a_plate_with_another_number_of_planes_trains_networks_of_as_many(tmp_path):
    for well in ("B03", "B04", "C02"):
        field = simulate_field(20, (64, 64), seed=ord(well[-1]))
        write_field(
            tmp_path / "plate", FieldKey(20, well, 1), RawField(field.planes[:5], field.targets)
        )
    store = prepare(PreprocessConfig(plate=tmp_path / "plate", store=tmp_path / "store", workers=0))
    assert store.manifest.n_z_planes == 5
    train_segmenter(store, SEGMENTER, tmp_path / "segmenter", Notes())
    assert load_network(tmp_path / "segmenter" / "network")[0].in_channels == 5
    train_generator(store, NUCLEI, tmp_path / "segmenter" / "network", tmp_path / "a1", Notes())
    assert load_network(tmp_path / "a1" / "network")[0].in_channels == 6
