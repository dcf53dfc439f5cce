"""Every setting of a training reaches it: a changed value changes the networks or the steps."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from adipocyte.config import GeneratorConfig, SegmenterConfig, build
from adipocyte.domain import FieldKey
from adipocyte.networks.files import save_network
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.store.reader import Store
from adipocyte.training.generator import train_generator
from adipocyte.training.segmenter import train_segmenter
from adipocyte.training.state import STATE
from tests.support.trainings import Notes, same

Settings = dict[str, Any]
Outcome = tuple[dict[str, torch.Tensor], list[int], int]

SMALLEST = "tu-mobilenetv3_small_050"
BASE = {
    "encoder": SMALLEST,
    "patch_px": 32,
    "batch": 2,
    "epochs": 1,
    "epoch_steps": 1,
    "workers": 0,
    "precision": "32",
}
ENCODER_FILE = "encoder.safetensors"

# For each setting another value, and the settings that a training needs beside it to show one.
SHARED: dict[str, tuple[Any, Settings]] = {
    "architecture": ("unetplusplus", {}),
    "encoder": ("tu-mobilenetv3_small_075", {}),
    "encoder_weights": (ENCODER_FILE, {"encoder": "resnet18"}),
    "learning_rate": (1e-4, {}),
    "clip_norm": (0.01, {}),
    "batch": (3, {}),
    "epochs": (2, {}),
    "epoch_steps": (2, {}),
    "patch_px": (64, {}),
    "augment_p": (1.0, {}),
    "rotate_deg": (90.0, {"augment_p": 1.0}),
    "precision": ("bf16", {}),
    "save_every": (1, {}),
    "seed": (1, {}),
}
CHANGES: dict[type, dict[str, tuple[Any, Settings]]] = {
    SegmenterConfig: SHARED,
    GeneratorConfig: {
        **SHARED,
        "target": ("A3", {}),
        "mask_source": ("true", {"target": "A1"}),
        "wide_convolutions": ("all", {}),
        "discriminator": ("patchgan", {}),
        "discriminator_width": (8, {}),
        "discriminator_learning_rate": (1e-2, {}),
        "mae_weight": (2.0, {}),
        "bright_weight": (2.0, {}),
        "schedule": ("cosine", {}),
        "spectral_weight": (1.0, {}),
        "adversarial_weight": (1.0, {}),
        "select": ("features", {"epochs": 2}),
        "ema": (0.5, {"epoch_steps": 2}),  # the average starts as a copy
        "constant_epochs": (0, {"epochs": 2}),
        "finest_um_per_px": (0.325, {}),
        "augmentations": ("microscope", {}),
    },
}
# Settings that no training of a test here can show, each with the reason.
ELSEWHERE = {
    "recipe": "`config.build` turns it into the other settings: tests/test_config.py",
    "store": "the entry point opens it, and hands the Store over",
    "segmenter": "the entry point turns the run's id into the folder that is handed over",
    "select_fields": "the entry point makes the feature metric of so many fields: "
    "tests/evaluation/test_training_metric.py",
    "minutes": "the entry point turns them into epochs: test_pace.py",
    "patience": "needs epochs that bring nothing better: test_loop.py",
    "workers": "must not change the result: test_training.py",
    "threads": "the arithmetic of sums alone: test_threads.py",
    "compile": "must not change the result: test_training.py",
    "start": "the entry point turns it into the network that is handed over: "
    "tests/delivery/models/test_start.py",
    "resume": "names the run whose state is handed over: tests/delivery/runs",
}


class LikesTheFirst:
    """A feature metric to which every epoch after the first is worse."""

    keys: frozenset[FieldKey] = frozenset()

    def __init__(self) -> None:
        self.n_asked = 0

    def __call__(self, painted: dict[FieldKey, NDArray[np.uint16]]) -> float:
        self.n_asked += 1
        return float(self.n_asked)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a segmenter and an encoder that have learnt nothing."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(1)
    spec = UNetSpec(encoder=SMALLEST, in_channels=7)
    save_network(folder / "segmenter", spec, build_unet(spec))
    encoder = smp.encoders.get_encoder("resnet18", in_channels=3, weights=None)
    save_file(encoder.state_dict(), folder / ENCODER_FILE)
    return folder


@pytest.fixture(scope="module")
def outcome(
    small_store: Store, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[type, Settings], Outcome]:
    """What a training with settings leaves; the same settings are trained with once."""
    known: dict[str, Outcome] = {}

    def train(kind: type, settings: Settings) -> Outcome:
        name = f"{kind.__name__} {sorted(settings.items())}"
        if name not in known:
            folder = tmp_path_factory.mktemp("training")
            known[name] = trained(small_store, build(kind, settings), folder, inputs)
        return known[name]

    return train


def trained(store: Store, config: Any, folder: Path, inputs: Path) -> Outcome:
    """The best and the last network, the recorded steps, and the number of saved states."""
    notes = Notes()
    if config.encoder_weights != "none":
        config = dataclasses.replace(config, encoder_weights=str(inputs / config.encoder_weights))
    if isinstance(config, SegmenterConfig):
        train_segmenter(store, config, folder, notes)
    else:
        segmenter = inputs / "segmenter" if config.target == "A1" else None
        features = None if config.select == "pixels" else LikesTheFirst()
        train_generator(store, config, segmenter, folder, notes, features)
    networks = {
        name: tensor
        for name, tensor in load_file(folder / STATE).items()
        if name.split("/")[0] in ("segmenter", "generator", "best")
    }
    return networks, list(notes.rows), len(notes.states)


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, changes in CHANGES.items() for name in changes]
)
def test_a_changed_setting_changes_the_training(outcome, kind, name):
    value, beside = CHANGES[kind][name]
    needed = {"target": "A2", "discriminator_width": 4} if kind is GeneratorConfig else {}
    settings = BASE | needed | beside
    assert build(kind, settings | {name: value}) != build(kind, settings)
    networks, steps, n_states = outcome(kind, settings)
    others, other_steps, n_other_states = outcome(kind, settings | {name: value})
    changed = not same(networks, others) or steps != other_steps
    # Saving more often must change nothing but the number of saves.
    assert changed is (name != "save_every")
    assert (n_states != n_other_states) is (name == "save_every")


@pytest.mark.parametrize("kind", CHANGES)
def test_every_setting_is_changed_or_listed_with_its_reason(kind):
    settings = {field.name for field in dataclasses.fields(kind)}
    assert settings - ELSEWHERE.keys() == CHANGES[kind].keys()


def test_the_list_names_settings_that_exist():
    settings = {field.name for kind in CHANGES for field in dataclasses.fields(kind)}
    assert ELSEWHERE.keys() <= settings
