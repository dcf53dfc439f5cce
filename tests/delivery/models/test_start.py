"""A training starts from a registered model, a run or a bundle, and says so wherever it is seen."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mlflow import MlflowClient

from adipocyte.config import GeneratorConfig, RegisterConfig, build
from adipocyte.delivery.models.assemble import gather
from adipocyte.delivery.models.register import register
from adipocyte.delivery.models.start import start_of
from adipocyte.delivery.runs.runs import STARTED_TAG, finest_of, step_run
from adipocyte.delivery.runs.training import training_run
from adipocyte.errors import AdipocyteError, ConfigError, OutputError, RunError
from adipocyte.networks.files import load_network
from adipocyte.staining.bundle import read_manifest
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store
from adipocyte.training.generator import train_generator
from entrypoints.train_gan import train_gan
from tests.support.tracking import tracked_at
from tests.support.trainings import Notes

pytestmark = pytest.mark.slow  # trains and registers

SETTINGS = {
    "target": "all",
    "recipe": "shared",
    "epochs": 1,
    "epoch_steps": 2,
    "patch_px": 32,
    "workers": 0,
    "precision": "32",
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("mlflow")
    with tracked_at(f"sqlite:///{folder}/mlflow.db"), pytest.MonkeyPatch.context() as patch:
        made = mlflow.create_experiment("tests", artifact_location=f"file://{folder}/artifacts")
        patch.setenv("MLFLOW_EXPERIMENT_ID", made)
        yield


def config(**given: object) -> GeneratorConfig:
    return build(GeneratorConfig, SETTINGS | given)


def train(store: Store, settings: GeneratorConfig) -> str:
    """A run of train_gan, as its entry point makes it."""
    tags = {"target": ",".join(settings.targets)}
    with (
        start_of(settings) as (start, origin),
        training_run("train_gan", settings, store, **tags, **origin) as training,
    ):
        found = train_generator(
            store, settings, None, training.folder, training.tracker, start=start
        )
        training.finish(found)
    assert training.run_id
    return training.run_id


@pytest.fixture(scope="module")
def first(small_store: Store, registry: None) -> str:
    return train(small_store, config(target="A1,A2,A3"))


@pytest.fixture(scope="module")
def address(small_store: Store, first: str) -> str:
    """A registered model of the first run."""
    settings = RegisterConfig(
        store=small_store.folder, segmenter="", a1=first, a2=first, a3=first, feature_fields=0
    )
    with step_run("register", settings):
        return register(small_store, dict.fromkeys(("A1", "A2", "A3"), first), settings).address


@pytest.fixture(scope="module")
def bundle(small_store: Store, first: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = dict.fromkeys(("A1", "A2", "A3"), first)
    return gather(small_store, runs, tmp_path_factory.mktemp("bundle") / "bundle", "bfloat16")


def test_a_run_says_what_pixels_its_network_sees_and_a_bundle_paints_as_was_validated(
    small_store, first, tmp_path
):
    run = mlflow.get_run(first)
    assert finest_of(first) == float(run.data.params["config.finest_um_per_px"]) == 0.25
    runs = dict.fromkeys(("A1", "A2", "A3"), first)
    stainer = Stainer(gather(small_store, runs, tmp_path / "bundle", "float32"), precision="32")
    [(name, entry)] = stainer.manifest.networks.items()
    assert entry.finest_um_per_px == 0.25
    assert [stainer.manifest.n_joined(name, magnification) for magnification in (20, 40)] == [1, 2]
    for key in small_store.keys("validation"):
        painted = stainer.stain(small_store.planes(key), key.magnification, intensities="none")
        for target, image in painted.images.items():
            error = np.abs(image.astype(np.int32) - small_store.target(key, target)).mean()
            validated = run.data.metrics[f"best_val_mae_{target}_{key.magnification}x"]
            assert error == pytest.approx(validated, rel=1e-4)


def test_a_model_a_run_and_a_bundle_give_the_same_network(small_store, first, address, bundle):
    assert address == "models:/adipocyte@champion"
    states = []
    for given in (first, address, str(bundle)):
        with start_of(config(start=given)) as (start, tags):
            assert start.paints == ("A1", "A2", "A3")
            assert not start.sees_mask
            assert start.um_per_px == (() if given == first else (0.325, 0.326))
            states.append(load_network(start.folder)[1].state_dict())
            sources = {first: f"run {first}", address: "models:/adipocyte/1"}
            assert tags == {"started_from": sources.get(given, str(bundle.resolve()))}
    for name, weight in states[0].items():
        torch.testing.assert_close(states[1][name], weight, rtol=0, atol=0)
        torch.testing.assert_close(states[2][name], weight, rtol=1e-2, atol=1e-3)  # bfloat16


def test_a_started_training_differs_is_slower_and_its_origin_stands_everywhere(
    small_store, first, address, tmp_path
):
    assert config(start=address).largest_rate == pytest.approx(config().learning_rate / 5)
    still = config(target="A1,A2,A3", start=address, learning_rate=0.0, ema=0.0)
    run_id = train(small_store, still)
    assert mlflow.get_run(run_id).data.tags[STARTED_TAG] == "models:/adipocyte/1"
    # With a rate of zero only the statistics of normalisations move.
    kept = [
        load_network(Path(mlflow.artifacts.download_artifacts(f"runs:/{one}/network")))[1]
        for one in (first, run_id)
    ]
    for (name, old), (_, new) in zip(*(n.named_parameters() for n in kept), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0, msg=name)

    runs = dict.fromkeys(("A1", "A2", "A3"), run_id)
    manifest = read_manifest(gather(small_store, runs, tmp_path / "bundle", "float32"))
    assert manifest.started_from == dict.fromkeys(("A1", "A2", "A3"), "models:/adipocyte/1")
    settings = RegisterConfig(store=small_store.folder, feature_fields=0)
    with step_run("register", settings):
        made = register(small_store, runs, settings)
    version = MlflowClient().get_model_version(made.name, made.version)
    assert version.tags["started_from.A2"] == "models:/adipocyte/1"
    assert "started from trained networks: A1 from models:/adipocyte/1" in version.description


def test_the_command_starts_from_a_run_and_records_it(small_store, first):
    given = {**SETTINGS, "store": small_store.folder, "start": first, "epochs": 1}
    options = [f"--{name}={value}" for name, value in given.items()]
    result = CliRunner().invoke(train_gan, options)
    assert result.exit_code == 0, result.output
    [run_id] = re.findall(r"\(run ([0-9a-f]{32})\)", result.output)
    run = mlflow.get_run(run_id)
    assert run.data.tags[STARTED_TAG] == f"run {first}"
    assert run.data.params["config.start"] == first


def test_by_default_the_command_starts_from_the_pretrained_network(small_store, registry):
    given = {**SETTINGS, "store": small_store.folder, "epochs": 1}
    result = CliRunner().invoke(train_gan, [f"--{name}={value}" for name, value in given.items()])
    assert result.exit_code == 0, result.output
    run = mlflow.last_active_run()
    assert run.data.params["config.start"] == "pretrained"
    assert run.data.tags[STARTED_TAG].startswith("pretrained 0.")


@pytest.mark.parametrize("error", [OutputError("the disk is full", "free some"), OSError("lost")])
def test_an_error_of_the_training_is_not_taken_for_one_of_its_start(first, error):
    with pytest.raises(type(error)) as raised, start_of(config(start=first)):
        raise error
    assert raised.value is error


def test_a_start_that_is_named_and_not_given_is_no_training_from_nothing(
    small_store, first, tmp_path
):
    with pytest.raises(ConfigError, match=f"start='{first}' was given none"):
        train_generator(small_store, config(start=first), None, tmp_path, Notes())
    with (
        start_of(config(start=first)) as (start, _),
        pytest.raises(ConfigError, match=f"start='auto' was given run {first}"),
    ):
        train_generator(small_store, config(), None, tmp_path, Notes(), start=start)


def test_a_state_replaces_the_start(small_store, first, tmp_path):
    settings = config(target="A1,A2,A3", start=first, epochs=2, save_every=1)
    with start_of(settings) as (start, _):
        whole = train_generator(small_store, settings, None, tmp_path / "a", Notes(), start=start)
        train_generator(
            small_store, replace(settings, epochs=1), None, tmp_path / "b", Notes(), start=start
        )
    with start_of(replace(settings, resume="any")) as (nothing, tags):
        assert (nothing, tags) == (None, {})
    # It goes on where the state was saved: only the second epoch is trained.
    notes = Notes()
    train_generator(small_store, settings, None, tmp_path / "b", notes)
    assert min(notes.rows) == 3
    assert whole["best_epoch"] in (1, 2)


@pytest.mark.parametrize(
    ("start", "error", "found"),
    [
        ("models:/nobody/1", RunError, "there is no registered model at models:/nobody/1"),
        ("0" * 32, RunError, "there is no run"),
        ("models:/adipocyte@champion", ConfigError, "another kind of network"),
    ],
)
def test_what_cannot_be_a_start_is_refused_and_nothing_is_trained(
    small_store, address, start, error, found, tmp_path
):
    settings = config(start=start, architecture="unet", encoder="resnet18")
    with pytest.raises(error, match=found) as refused, start_of(settings) as (given, _):
        train_generator(small_store, settings, None, tmp_path / "t", Notes(), start=given)
    assert isinstance(refused.value, AdipocyteError)
    assert refused.value.remedy
    assert not (tmp_path / "t" / "state.safetensors").exists()
