"""A training resumes bit for bit, and stops when it diverges or no longer learns."""

import json
import resource
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adipocyte.errors import BundleError, DivergedError, StoppedError
from adipocyte.training import generator as generator_loop
from adipocyte.training import journal as journal_module
from adipocyte.training import loop as loop_module
from adipocyte.training import segmenter as segmenter_loop
from adipocyte.training.collapse import collapse_warning, discriminator_metrics
from adipocyte.training.generator import train_generator
from adipocyte.training.journal import Journal
from adipocyte.training.segmenter import train_segmenter
from adipocyte.training.state import STATE, Progress, load_state, save_state, state_step
from tests.support.trainings import ALL_STAINS, LIPIDS, SEGMENTER, Notes, same, weights

# Everything that has a state of its own: moving average, PatchGAN, several epochs.
RICH = replace(LIPIDS, epochs=3, epoch_steps=3, ema=0.5, discriminator="patchgan")
SHARED = replace(ALL_STAINS, epochs=3, epoch_steps=3)


class Stopping(Notes):
    """A tracker that sends this process a signal as soon as a first state is saved."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def state(self, path):
        super().state(path)
        if len(self.states) == 1:
            signal.raise_signal(self.number)


def numbers(*trackers):
    """The measurements of a training in one or more parts, without how long it took."""
    found = {}
    for tracker in trackers:
        for step, row in tracker.rows.items():
            assert found.get(step, {}).keys().isdisjoint(row)
            found.setdefault(step, {}).update(
                {name: value for name, value in row.items() if "second" not in name}
            )
    return found


# Resuming


# Within the first epoch, at its end, within the second.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "save_every"), [(RICH, 1), (RICH, 3), (RICH, 5), (SHARED, 1), (SHARED, 3)]
)
def test_a_generator_stopped_anywhere_and_resumed_is_the_same_bit_for_bit(
    small_store, tmp_path, config, save_every
):
    whole = Notes()
    best = train_generator(small_store, config, None, tmp_path / "whole", whole)
    first, second = Stopping(signal.SIGTERM), Notes()
    with pytest.raises(StoppedError):
        train_generator(
            small_store, replace(config, save_every=save_every), None, tmp_path / "parts", first
        )
    assert state_step(tmp_path / "parts" / STATE) in (save_every, save_every + 1)
    assert train_generator(small_store, config, None, tmp_path / "parts", second) == best
    assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert numbers(first, second) == numbers(whole)


def test_a_segmenter_stopped_and_resumed_is_the_same_bit_for_bit(small_store, tmp_path):
    config = replace(SEGMENTER, epochs=3, epoch_steps=3, workers=1)
    train_segmenter(small_store, config, tmp_path / "whole", Notes())
    with pytest.raises(StoppedError):
        train_segmenter(
            small_store, replace(config, save_every=4), tmp_path / "parts", Stopping(signal.SIGINT)
        )
    train_segmenter(small_store, config, tmp_path / "parts", Notes())
    assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_what_a_layer_draws_it_draws_again_after_a_resume(small_store, tmp_path):
    # EfficientNet drops whole layers at random.
    config = replace(SEGMENTER, encoder="efficientnet-b0", epochs=1, epoch_steps=4, workers=1)
    train_segmenter(small_store, config, tmp_path / "whole", Notes())
    with pytest.raises(StoppedError):
        train_segmenter(
            small_store, replace(config, save_every=1), tmp_path / "parts", Stopping(signal.SIGTERM)
        )
    train_segmenter(small_store, config, tmp_path / "parts", Notes())
    assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_a_training_that_stopped_early_stays_so_after_a_resume(small_store, tmp_path):
    # At a rate of zero no epoch is better.
    config = replace(SEGMENTER, epochs=4, epoch_steps=1, patience=1, learning_rate=0.0)
    train_segmenter(small_store, config, tmp_path, Notes())
    again = Notes()
    train_segmenter(small_store, config, tmp_path, again)  # its last state is still there
    assert again.epochs() == []


def test_a_resumed_training_needs_no_encoder_weights(small_store, tmp_path):
    with pytest.raises(StoppedError):
        train_segmenter(
            small_store, replace(SEGMENTER, save_every=1), tmp_path, Stopping(signal.SIGTERM)
        )
    train_segmenter(
        small_store, replace(SEGMENTER, encoder_weights="gone.safetensors"), tmp_path, Notes()
    )
    assert (tmp_path / "network" / "network.json").exists()


def test_a_training_asked_to_stop_while_it_validates_stops_after_that(
    small_store, tmp_path, monkeypatch
):
    validate = segmenter_loop.validate_segmenter

    def validate_and_be_stopped(*args):
        signal.raise_signal(signal.SIGTERM)
        return validate(*args)

    monkeypatch.setattr(segmenter_loop, "validate_segmenter", validate_and_be_stopped)
    notes = Notes()
    with pytest.raises(StoppedError, match="stopped after epoch 1, as asked"):
        train_segmenter(small_store, SEGMENTER, tmp_path, notes)
    assert len(notes.epochs()) == 1
    monkeypatch.undo()
    train_segmenter(small_store, SEGMENTER, tmp_path, notes)
    assert [row["epoch"] for row in notes.epochs()] == [1, 2]


def test_signals_mean_afterwards_what_they_meant_before(small_store, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    train_segmenter(small_store, SEGMENTER, tmp_path, Notes())
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


# The state


def linear_parts():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    return {"layer": layer, "optimizer": torch.optim.Adam(layer.parameters(), lr=0.1)}


def trained(parts, n_steps):
    for _ in range(n_steps):
        loss = parts["layer"](torch.ones(1, 2, 5, 5)).square().sum()
        parts["optimizer"].zero_grad()
        loss.backward()
        parts["optimizer"].step()
    return parts["layer"].weight.clone()


def test_a_state_holds_all_that_the_next_step_needs(tmp_path):
    saved, loaded = linear_parts(), linear_parts()
    trained(saved, 3)
    save_state(tmp_path, saved, Progress(step=3, totals={"train_loss": [0.1, 3]}))
    assert load_state(tmp_path, loaded) == Progress(step=3, totals={"train_loss": [0.1, 3]})
    average = loaded["optimizer"].state_dict()["state"][0]["exp_avg"]
    assert average.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(trained(saved, 2), trained(loaded, 2))
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


def test_without_a_state_a_training_starts_at_the_beginning(tmp_path):
    assert load_state(tmp_path, linear_parts()) == Progress()
    assert state_step(tmp_path / STATE) == -1


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"\xff" * 32 + data[32:]],
)
def test_a_damaged_state_is_refused(tmp_path, damage):
    path = save_state(tmp_path, linear_parts(), Progress(step=3))
    path.write_bytes(damage(path.read_bytes()))
    assert state_step(path) == -1
    with pytest.raises(BundleError, match=r"state\.safetensors cannot be loaded .*: train anew"):
        load_state(tmp_path, linear_parts())


def test_a_full_disk_keeps_the_state_before(tmp_path):
    parts = linear_parts()
    before = save_state(tmp_path, parts, Progress(step=3)).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As a disk with 100 bytes left answers.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"the state of step 4 could not be written into .*free some space"
        ):
            save_state(tmp_path, parts, Progress(step=4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / STATE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


# Knowing when to stop


def test_a_training_stops_when_epochs_bring_nothing_better(small_store, tmp_path, monkeypatch):
    dice = iter([0.1, 0.7, 0.4, 0.7, 0.9])
    monkeypatch.setattr(
        segmenter_loop,
        "validate_segmenter",
        lambda *_: ({"val_dice": next(dice)}, np.zeros((1, 1), dtype=np.uint8)),
    )
    notes = Notes()
    best = train_segmenter(
        small_store, replace(SEGMENTER, epochs=5, epoch_steps=1, patience=2), tmp_path, notes
    )
    assert best == {"val_dice": 0.7, "best_epoch": 2}
    assert len(notes.epochs()) == 4


@pytest.mark.parametrize("bad_step", [1, 3, 4])
def test_a_loss_that_is_not_finite_stops_at_its_step_and_keeps_the_last_good_state(
    small_store, tmp_path, monkeypatch, bad_step
):
    n_calls = 0

    def spectral_loss(fake, real):
        nonlocal n_calls
        n_calls += 1
        return fake.float().mean() * (float("nan") if n_calls == bad_step else 0.0)

    monkeypatch.setattr(generator_loop, "spectral_loss", spectral_loss)
    notes = Notes()
    with pytest.raises(
        DivergedError,
        match=rf"at step {bad_step}, where .*spectral had no finite value: .*-P learning_rate=",
    ):
        train_generator(
            small_store, replace(LIPIDS, epoch_steps=4, save_every=2), None, tmp_path, notes
        )
    kept = (bad_step - 1) // 2 * 2
    assert state_step(tmp_path / STATE) == (kept or -1)
    assert list(notes.rows) == list(range(1, bad_step))
    assert not (tmp_path / "network").exists()
    if kept:
        assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / STATE).values())


def test_a_gradient_is_cut_to_its_norm(small_store, tmp_path, monkeypatch):
    norms = []
    update = segmenter_loop.update

    def spy(fabric, network, optimizer, loss, clip_norm):
        before = update(fabric, network, optimizer, loss, clip_norm)
        after = torch.nn.utils.get_total_norm(
            [parameter.grad for parameter in network.parameters()]
        )
        norms.append((before.item(), after.item()))
        return before

    monkeypatch.setattr(segmenter_loop, "update", spy)
    train_segmenter(small_store, replace(SEGMENTER, clip_norm=0.01), tmp_path / "cut", Notes())
    assert all(before > 0.011 for before, _ in norms)
    np.testing.assert_allclose([after for _, after in norms], 0.01, rtol=1e-3)


# The journal and the signs of collapse


def test_a_journal_sends_every_step_once_and_averages_the_epoch():
    notes = Notes()
    journal = Journal(notes, {})
    n_steps = 2 * journal_module.SEND_EVERY + 7
    for step in range(1, n_steps + 1):
        values = {"loss": torch.tensor(float(step))}
        if step % 3 == 0:
            values["seldom"] = torch.tensor(5.0)
        journal.note(step, values)
        assert len(notes.rows) == step // journal_module.SEND_EVERY * journal_module.SEND_EVERY
    assert journal.close_epoch() == {"train_loss": (n_steps + 1) / 2, "train_seldom": 5.0}
    assert {step: row["step_loss"] for step, row in notes.rows.items()} == {
        step: step for step in range(1, n_steps + 1)
    }
    assert journal.close_epoch() == {}


def test_a_discriminators_accuracy_counts_patches_by_their_mean_score():
    real, fake = torch.tensor([[1.0, 0.4], [0.9, 0.0]]), torch.tensor([[0.0, 0.2], [0.3, 0.1]])
    found = {name: value.item() for name, value in discriminator_metrics(real, fake).items()}
    assert found == pytest.approx(
        {"d_real": 0.575, "d_fake": 0.15, "d_gap": 0.425, "d_accuracy": 0.75}
    )


def test_a_discriminator_that_has_won_is_named_and_one_that_has_not_is_not():
    won = {"train_d_accuracy": 0.99, "train_d_gap": 0.9}
    warning = collapse_warning(won, 7)
    assert "in epoch 7 the discriminator told 99.0% of the patches right" in warning
    assert "(gap of its scores 0.90): it has won" in warning
    assert collapse_warning({"train_d_accuracy": 0.9, "train_d_gap": 0.5}, 7) == ""
    assert collapse_warning({}, 7) == ""


@pytest.mark.slow
def test_a_run_in_which_the_discriminator_wins_is_warned_of(small_store, tmp_path):
    # The generator stands still; the discriminator has a rate at which it learns in a few steps.
    discriminator = {"discriminator_learning_rate": 1e-3, "discriminator_width": 32}
    training = {"encoder": "resnet18", "epochs": 3, "epoch_steps": 15, "batch": 4}
    config = replace(LIPIDS, learning_rate=0.0, **training, **discriminator)
    notes = Notes()
    train_generator(small_store, config, None, tmp_path, notes)
    assert any("it has won" in sentence for sentence in notes.warnings)


def test_without_a_discriminator_none_is_trained(small_store, tmp_path):
    notes = Notes()
    train_generator(
        small_store, replace(LIPIDS, discriminator="none", save_every=4), None, tmp_path, notes
    )
    assert not any(
        "d_" in name or "adversarial" in name for row in notes.rows.values() for name in row
    )


def test_the_moving_average_is_what_is_kept(small_store, tmp_path, monkeypatch):
    seen = []
    validate = generator_loop.validate_generator

    def spy(network, *args):
        seen.append(network)
        return validate(network, *args)

    monkeypatch.setattr(generator_loop, "validate_generator", spy)
    config = replace(LIPIDS, ema=0.9, epochs=1, epoch_steps=5, save_every=5)
    train_generator(small_store, config, None, tmp_path, Notes())
    state = load_file(tmp_path / STATE)
    name = "segmentation_head.0.weight"
    assert torch.equal(weights(tmp_path)[name], state[f"average/module.{name}"])
    assert not torch.equal(weights(tmp_path)[name], state[f"generator/{name}"])
    assert not seen[0].training


def test_a_state_says_in_plain_json_how_far_it_is(small_store, tmp_path):
    train_segmenter(small_store, replace(SEGMENTER, save_every=1), tmp_path, Notes())
    header = (tmp_path / STATE).read_bytes()
    length = int.from_bytes(header[:8], "little")
    assert json.loads(json.loads(header[8 : 8 + length])["__metadata__"]["progress"])["step"] == 4
    assert loop_module.NETWORK_FOLDER == "network"
