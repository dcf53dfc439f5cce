"""The network that comes with the package: whole, small, and worth something on the first day."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from adipocyte.delivery.models.load import load_manifest
from adipocyte.delivery.models.start import start_of, with_start
from adipocyte.domain import TARGETS, Intensities
from adipocyte.networks.files import load_network
from adipocyte.pretrained import BUNDLE, CARD
from adipocyte.simulation import draw_conditions, simulate_field
from adipocyte.staining.bundle import check_files, read_manifest
from adipocyte.staining.stainer import Stainer
from entrypoints.register import register
from tests.delivery.models.test_start import config
from tests.support.tracking import tracked_at

MOST_BYTES = 12_000_000


@pytest.fixture(scope="module")
def stainer() -> Stainer:
    return Stainer(BUNDLE, precision="32")


def test_its_files_are_whole_few_and_small():
    manifest = read_manifest(BUNDLE)
    check_files(BUNDLE, manifest)
    files = [path for path in BUNDLE.parent.rglob("*") if path.is_file()]
    files = [path for path in files if path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    assert {path.suffix for path in files} == {".json", ".md", ".py", ".safetensors"}
    assert manifest.targets == TARGETS
    assert manifest.plane_numbers == range(1, 10)
    assert manifest.any_objective
    assert manifest.storage == "bfloat16"
    assert manifest.caution.startswith("painted by the pretrained network")
    assert "simulated cells alone" in manifest.licences["A1-A2-A3"]


# One small field each; the means over other microscopes are in its card.
@pytest.mark.parametrize(
    "magnification", [20, *(pytest.param(one, marks=pytest.mark.slow) for one in (40, 60))]
)
def test_it_paints_cells_that_it_has_not_seen(stainer, magnification):
    side = {20: 320, 40: 448, 60: 640}[magnification]
    made = simulate_field(
        magnification, (side, side), seed=(77, magnification), conditions=draw_conditions(77)
    )
    painted = stainer.stain(made.planes, magnification, intensities=Intensities.NONE)
    assert painted.warnings[0] == stainer.manifest.caution
    for target, least in {"A1": 0.6, "A2": 0.9, "A3": 0.75}.items():
        pair = made.targets[target].ravel(), painted.images[target].ravel()
        assert np.corrcoef(*pair)[0, 1] > least, target


@pytest.fixture
def registry(tmp_path: Path, empty_database: Path) -> Iterator[None]:
    database = tmp_path / "mlflow.db"
    database.write_bytes(empty_database.read_bytes())
    with tracked_at(f"sqlite:///{database}"), pytest.MonkeyPatch.context() as patch:
        made = mlflow.create_experiment("tests", artifact_location=f"file://{tmp_path}/artifacts")
        patch.setenv("MLFLOW_EXPERIMENT_ID", made)
        yield


@pytest.mark.slow  # logs a model three times
def test_it_becomes_champion_alone_and_candidate_beside_one(registry):
    first = CliRunner().invoke(register, ["--pretrained", "true"])
    assert first.exit_code == 0, first.output
    assert "models:/adipocyte/1 is champion: no plate has judged it." in first.output
    assert "-e stain -P model=models:/adipocyte@champion -P plate=<folder>" in first.output
    again = CliRunner().invoke(register, ["--pretrained", "true"])
    assert "models:/adipocyte/1 is champion, registered before" in again.output
    version = MlflowClient().get_model_version("adipocyte", "1")
    assert version.description == CARD.read_text()
    assert load_manifest("models:/adipocyte@champion") == read_manifest(BUNDLE)

    MlflowClient().set_model_version_tag("adipocyte", "1", "digest", "of an older package")
    beside = CliRunner().invoke(register, ["--pretrained", "true"])
    assert "models:/adipocyte/2 is candidate: no plate has judged it, so version 1" in beside.output
    champion = MlflowClient().get_model_version_by_alias("adipocyte", "champion")
    assert str(champion.version) == "1"


def test_a_training_starts_from_it():
    settings = config(start="pretrained")
    assert settings.largest_rate == pytest.approx(settings.learning_rate / 10)
    with start_of(settings) as (start, tags):
        assert start is not None
        assert start.paints == TARGETS
        assert tags["started_from"].startswith("pretrained 0.")
        assert load_network(start.folder)[0].architecture == "compact"


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ({}, "pretrained"),
        ({"target": "A2"}, "pretrained"),
        ({"target": "A1", "augmentations": "any_planes"}, "pretrained"),
        ({"recipe": "fast"}, "none"),
        ({"recipe": "fast", "architecture": "compact", "encoder": "none"}, "none"),
        ({"architecture": "unet", "encoder": "resnet18"}, "none"),
        ({"mask_source": "true"}, "none"),
        ({"start": "none"}, "none"),
        ({"start": ""}, ""),
        ({"start": "models:/adipocyte/1"}, "models:/adipocyte/1"),
        ({"resume": "0" * 32}, "auto"),
    ],
)
def test_auto_is_the_pretrained_network_where_it_fits(given, start):
    settings = config(**given)
    decided = with_start(settings)
    assert decided == replace(settings, start=start)
    share = {"pretrained": 1 / 10, "models:/adipocyte/1": 1 / 5}.get(start, 1.0)
    assert decided.largest_rate == pytest.approx(settings.learning_rate * share)
