"""A walk over every command with every setting at its ends, just outside, and as nonsense.

Whatever is given, a command ends well or with a refusal: status 0 or 2 and no traceback.
"""

import dataclasses
import importlib
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from click.testing import CliRunner

from adipocyte.config import choices
from adipocyte.errors import RunError
from adipocyte.store.reader import Store
from entrypoints import demo, main
from tests.support.tracking import tracked_at
from tests.test_project import CONFIGS

NONSENSE = ("", "#", "a b", "-1", "nan", "1e999", "ü/…", "../..", "x" * 5000)
# What the walk gives each command where a setting is required, so that work ends at once: nothing
# is there to work on.
NEEDED = {
    "plate": "no_plate",
    "images": "no_images",
    "target": "A2",
    "store": "no_store",
    "server": "nowhere",
    "before": "nowhere",
    "model": "models:/nobody/1",
}
# At their upper ends these take more time or memory than a test has.
COSTLY = {"batch", "discriminator_width", "epochs", "minutes", "epoch_steps", "patch_px", "workers"}
TINY = {"batch": 2, "epochs": 1, "epoch_steps": 1, "patch_px": 32, "workers": 0, "minutes": 0}


@pytest.fixture(autouse=True, scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[None]:
    """A folder to work in, with an MLflow store of its own; `demo` and `main` start no step."""

    def refuse(entry_point: str, *_: object) -> None:
        raise RunError(f"{entry_point} is not started in this test")

    folder = tmp_path_factory.mktemp("walk")
    shutil.copyfile(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patched, tracked_at(f"sqlite:///{folder}/mlflow.db"):
        for module in (demo, main):
            patched.setattr(module, "run_step", refuse)
        patched.chdir(folder)
        yield


def walked(name: str, /, **given: Any) -> str:
    """What a command says at its end, which must be one of those that are allowed."""
    args = [f"--{setting}={value}" for setting, value in given.items()]
    command = getattr(importlib.import_module(f"entrypoints.{name}"), name)
    result = CliRunner().invoke(command, args)
    where = f"{name} {' '.join(args)[:300]}: {result.output[-2000:]}"
    assert result.exit_code in (0, 2), where
    assert result.exception is None or isinstance(result.exception, SystemExit), where
    assert "Traceback" not in result.output, where
    # A failure that nobody foresaw is told as such, and is none that a setting may provoke.
    assert "does not know" not in result.output, where
    return result.stderr


def needed(name: str) -> dict[str, str]:
    if name == "simulate":
        return {"wells": "nowhere"}
    known = {field.name for field in dataclasses.fields(CONFIGS[name])}
    return {setting: value for setting, value in NEEDED.items() if setting in known}


def outside(field: dataclasses.Field) -> list[float]:
    """The numbers next to the ends of a setting's range that lie outside it."""
    step = field.metadata["multiple"]
    low, high = field.metadata["low"], field.metadata["high"]
    return [end for end in (low - step, high + step)]


def numbers(name: str) -> list[dataclasses.Field]:
    types = get_type_hints(CONFIGS[name])
    return [
        field
        for field in dataclasses.fields(CONFIGS[name])
        if types[field.name] in (int, float) and not choices(types[field.name])
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_number_has_two_ends(name):
    """So that none runs over, or runs for ever, in a library."""
    for field in numbers(name):
        ends = field.metadata["low"], field.metadata["high"]
        assert None not in ends, field.name
        assert all(map(math.isfinite, ends)), field.name


@pytest.mark.parametrize("name", CONFIGS)
def test_numbers_at_their_ends_are_taken_and_those_just_outside_refused(name):
    for field in numbers(name):
        for end in (field.metadata["low"], field.metadata["high"]):
            if field.name != "port":  # the page would open
                said = walked(name, **needed(name) | {field.name: end})
                assert f"{field.name} must be" not in said
        for beyond in outside(field):
            said = walked(name, **needed(name) | {field.name: beyond})
            assert f"{field.name} must be between" in said
            assert f"-P {field.name}=" in said


@pytest.mark.parametrize("name", CONFIGS)
def test_nonsense_in_any_setting_ends_in_a_sentence(name):
    for field in dataclasses.fields(CONFIGS[name]):
        for word in NONSENSE:
            walked(name, **needed(name) | {field.name: word})


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("train_segmenter", {"encoder": "tu-mobilenetv3_small_050"}),
        ("train_gan", {"target": "A2", "encoder": "tu-mobilenetv3_small_050"}),
        ("train_gan", {"target": "all", "recipe": "shared"}),
    ],
    ids=["segmenter", "generator", "shared"],
)
def test_a_training_with_all_numbers_at_one_end_ends_well_or_says_why(
    small_store: Store, name, given, end
):
    ends = {field.name: field.metadata[end] for field in numbers(name) if field.name not in COSTLY}
    walked(name, **ends | given | TINY | {"store": small_store.folder})


def test_a_preparation_with_all_numbers_at_one_end_ends_well_or_says_why(
    small_plate: Path, tmp_path: Path
):
    for end in ("low", "high"):
        ends = {field.name: field.metadata[end] for field in numbers("preprocess")}
        walked("preprocess", **ends | {"plate": small_plate, "store": tmp_path / end, "workers": 0})
