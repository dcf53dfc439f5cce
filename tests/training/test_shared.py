"""One generator for several stains: its loss, schedule, average, validation and pace."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from adipocyte.config import GeneratorConfig, build
from adipocyte.domain import TARGETS
from adipocyte.errors import ConfigError
from adipocyte.networks.files import load_network
from adipocyte.networks.losses import bright_mae
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.training import pace
from adipocyte.training.generator import averaging, generator_spec, rate_factor, train_generator
from adipocyte.training.pace import fitted
from adipocyte.training.patches import Patches
from adipocyte.training.validation import validate_generator
from tests.support.trainings import ALL_STAINS, LIPIDS, NUCLEI, Notes
from tests.training.test_training import PLAIN

COSINE = replace(ALL_STAINS, epochs=10)


def test_the_shared_recipe_asks_for_one_network_that_sees_no_mask():
    config = build(GeneratorConfig, {"target": "all", "recipe": "shared"})
    assert generator_spec(config, 7) == UNetSpec(
        encoder="none", in_channels=7, out_channels=3, architecture="compact"
    )
    assert not config.sees_mask


@pytest.mark.parametrize(
    ("target", "targets"),
    [("A2", ("A2",)), ("A3,A1", ("A1", "A3")), (" A1 , A2 ", ("A1", "A2")), ("all", TARGETS)],
)
def test_stains_are_named_by_commas_in_any_order(target, targets):
    assert build(GeneratorConfig, {"target": target}).targets == targets


@pytest.mark.parametrize("target", ["", "A9", "A1,A1", "all,A1", "nuclei", "A1 A2"])
def test_another_stain_is_refused(target):
    with pytest.raises(ConfigError, match="target must be some of A1, A2, A3, or all, got"):
        build(GeneratorConfig, {"target": target})


def test_a_network_of_nuclei_sees_the_mask_beside_other_stains_too():
    config = replace(NUCLEI, target="A1,A2")
    assert generator_spec(config, 7).in_channels == 8
    assert generator_spec(replace(config, mask_source="none"), 7).in_channels == 7


def test_a_patch_holds_all_stains_in_order(small_store):
    make = {"masks": (), "augmenter": PLAIN, "patch_px": 32, "seed": 0}
    planes, stains, mask = Patches(small_store, TARGETS, **make)[3]
    assert (planes.shape, stains.shape, mask.shape) == ((7, 32, 32), (3, 32, 32), (1, 32, 32))
    for stain, target in zip(stains, TARGETS, strict=True):
        assert torch.equal(stain, Patches(small_store, (target,), **make)[3][1][0])
    assert not mask.any()


def test_bright_pixels_weigh_more_up_to_a_limit():
    real = torch.tensor([-1.0, 0.0, 0.5, 2.0, 9.0])
    assert bright_mae(real + 1, real, most=2.0) == pytest.approx((1 + 1 + 1.5 + 3 + 3) / 5)
    assert bright_mae(real - 1, real, most=0.0) == 1


def test_the_rate_warms_up_and_then_falls_along_a_cosine():
    rates = [rate_factor(step, 20, COSINE) for step in range(200)]
    np.testing.assert_allclose(rates[:9], np.arange(1, 10) / 10)
    assert max(rates) == rates[9] == 1
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[(10 + 200) // 2 - 1] == pytest.approx(0.5)
    assert rates[-1] == 0


@pytest.mark.parametrize(("epochs", "highest"), [(50, 1), (400, 1 / 4)])
def test_the_rate_of_a_longer_training_is_lower(epochs, highest):
    config = replace(COSINE, epochs=epochs)
    rates = [rate_factor(step, 50, config) for step in range(50 * epochs)]
    assert max(rates) == pytest.approx(highest, rel=1e-3)
    assert rates.index(max(rates)) + 1 == 50 * epochs // 20


@pytest.mark.parametrize("n", [0, 5, 100, 10_000])
def test_an_average_forgets_its_first_weights(n):
    averages, weights = [torch.tensor([10.0])], [torch.tensor([0.0])]
    averaging(replace(COSINE, ema=0.99))(averages, weights, n)
    assert averages[0].item() == pytest.approx(10 * min(0.99, (1 + n) / (10 + n)))


def test_an_average_of_the_report_has_one_decay():
    averages, weights = [torch.tensor([10.0])], [torch.tensor([0.0])]
    averaging(replace(LIPIDS, ema=0.9))(averages, weights, 0)
    assert averages[0].item() == pytest.approx(9)


def test_one_network_is_trained_validated_and_kept_for_all_stains(small_store, tmp_path):
    notes = Notes()
    best = train_generator(small_store, ALL_STAINS, None, tmp_path, notes)
    spec, network = load_network(tmp_path / "network")
    assert spec.out_channels == 3
    finest = ALL_STAINS.finest_um_per_px
    metrics, picture = validate_generator(network, small_store, TARGETS, None, None, finest)
    assert {name: best[name] for name in metrics} == pytest.approx(metrics, rel=1e-3)
    for name in ("val_mae", "val_pixel_metric"):
        of_each = [metrics[f"{name}_{target}"] for target in TARGETS]
        assert metrics[name] == pytest.approx(np.mean(of_each))
        of_20x = [metrics[f"{name}_{target}_20x"] for target in TARGETS]
        assert metrics[f"{name}_20x"] == pytest.approx(np.mean(of_20x))
    assert picture.shape[0] == 3 * 96
    assert all(row.keys() >= {"step_mae", "step_bright_mae"} for row in notes.rows.values())
    assert not any("spectral" in name for row in notes.rows.values() for name in row)


def test_each_output_learns_its_own_stain(small_store):
    torch.manual_seed(0)
    make = {"masks": (), "augmenter": PLAIN, "patch_px": 32, "seed": 0}
    planes, stains, _ = Patches(small_store, TARGETS, **make)[0]
    network = build_unet(generator_spec(ALL_STAINS, 7))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(30):
        painted = network(planes[None].repeat(2, 1, 1, 1))
        loss = bright_mae(painted, stains[None].repeat(2, 1, 1, 1), most=2.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for output, stain in zip(painted[0].detach(), stains, strict=True):
        errors = [(output - other).abs().mean() for other in stains]
        assert min(errors) == (output - stain).abs().mean()


# Minutes.


def test_as_many_epochs_as_fit_into_the_minutes(small_store, monkeypatch):
    clock = iter([0.0, 10.0, 16.0, 20.0])  # begun, the probe's epochs, over

    def train(store, config, segmenter, folder, tracker, features, trained):
        assert (config.epochs, config.epoch_steps, config.patience) == (2, 12, 0)
        for seconds in (8.0, 3.6):  # .3 s a step, and 2.4 s for the validation
            tracker.metrics({1: {"step_mae": 1.0}})
            tracker.metrics({12: {"epoch": 1.0, "seconds": seconds}})

    monkeypatch.setattr(pace, "train_generator", train)
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(clock))
    config = replace(ALL_STAINS, minutes=2.0, epoch_steps=20)
    # 100 s are left, and an epoch takes 20 x .3 + 2.4 s.
    assert fitted(small_store, config, None) == replace(config, epochs=11)


def test_a_pace_is_measured_by_a_training_of_its_own(small_store):
    config = replace(ALL_STAINS, minutes=0.001)
    assert fitted(small_store, config, None).epochs == 1
    assert fitted(small_store, replace(config, minutes=0.6), None).epochs > 10


def test_a_resumed_training_keeps_its_epochs(small_store):
    config = replace(ALL_STAINS, minutes=1.0, resume="some run")
    assert fitted(small_store, config, None) == config


def test_epochs_that_are_named_count_before_the_recipes_minutes():
    settings = {"target": "all", "recipe": "shared"}
    assert build(GeneratorConfig, settings).minutes > 0
    assert build(GeneratorConfig, settings | {"epochs": 3}).minutes == 0
    assert build(GeneratorConfig, settings | {"epochs": 3, "minutes": 1.0}).minutes == 1


def test_several_processes_cannot_train_for_minutes(small_store, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="-P minutes=0 -P epochs=<number>"):
        fitted(small_store, replace(ALL_STAINS, minutes=1.0), None)
