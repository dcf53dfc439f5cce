# ruff: noqa: RUF009  (`option` makes a dataclass field)
"""How a command line is derived from a dataclass, and how a command ends."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mlflow
import pytest
import requests
from click.testing import CliRunner, Result

from adipocyte.config import AutoSwitch, option
from adipocyte.errors import PlateError, StoppedError
from entrypoints.command import command, keep_loopback_direct


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One setting of each type."""

    count: int = option("A number.", 1, low=0, report=7)
    folder: Path = option("A path.", Path("prepared"))
    other: Path | None = option("A path or none.", None)
    switch: bool = option("A switch.", False)
    automatic: AutoSwitch = option("A switch, or by itself.", "auto")
    choice: Literal[0, 20] = option("One of two.", 0)


def given_to(*args: str) -> Settings:
    """The settings that a command receives from a command line."""
    received = []

    @command(Settings, records=False)
    def probe(config: Settings) -> None:
        received.append(config)

    result = CliRunner().invoke(probe, args)
    assert result.exit_code == 0, result.output
    return received[0]


@pytest.mark.parametrize(
    ("word", "value"),
    [("true", True), ("on", True), ("false", False), ("off", False), ("True", True)],
)
def test_every_switch_is_spelt_alike_and_the_older_words_are_still_taken(word, value):
    assert given_to("--switch", word).switch is value


def test_a_switch_that_may_be_automatic_takes_the_same_words():
    words = ("auto", "true", "on", "false", "off")
    read = [given_to("--automatic", word).automatic for word in words]
    assert read == ["auto", "true", "true", "false", "false"]


def test_settings_arrive_in_their_types():
    assert given_to() == Settings()
    read = given_to("--count=3", "--folder=a/b", "--other=", "--choice=20")
    assert read == Settings(count=3, folder=Path("a/b"), other=None, choice=20)


def test_help_shows_choices_ranges_defaults_and_recipes():
    @command(Settings, records=False)
    def probe(config: Settings) -> None:
        """Nothing."""

    shown = " ".join(CliRunner().invoke(probe, ["--help"]).output.split())
    for expected in (
        "A number. [at least 0; default 1; report 7]",
        "A path. [default prepared]",
        "A path or none. [default empty]",
        "A switch. [one of true, false; default false]",
        "A switch, or by itself. [one of auto, true, false; default auto]",
        "One of two. [one of 0, 20; default 0]",
    ):
        assert expected in shown


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "Interrupted. Saved work is kept"),
        (StoppedError("stopped at step 3"), 130, "Stopped: stopped at step 3"),
        (PlateError("no plate: here", "make one"), 2, "Error: no plate: here: make one"),
        (mlflow.MlflowException("lost"), 2, "Error: MLflow could not do its part (lost)"),
        (OSError(28, "No space left", "a.tif"), 2, "Error: the disk is full, where a.tif was"),
        (MemoryError(), 2, "Error: the memory of this machine has run out"),
    ],
    ids=["Ctrl-C", "stopped", "ours", "MLflow's", "disk", "memory"],
)
def test_every_ending_is_one_paragraph_and_a_status(error, status, said):
    @command(Settings, records=False)
    def probe(config: Settings) -> None:
        raise error

    result = CliRunner().invoke(probe, [])
    assert result.exit_code == status
    assert result.stderr.strip().startswith(said)
    assert len(result.stderr.strip().splitlines()) == 1


def unforeseen(*args: str) -> Result:
    """What a command says that fails in a way nobody foresaw."""

    @command(Settings, records=False)
    def probe(config: Settings) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    return CliRunner().invoke(probe, args)


def test_an_unforeseen_error_names_the_command_a_log_and_where_to_report(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["probe", "http://name:secret@host/"])
    result = unforeseen()
    assert result.exit_code == 2
    [log] = tmp_path.glob("adipocyte-*.log")
    said = result.stderr.strip()
    assert said.startswith("Error: probe failed")
    assert "(ZeroDivisionError: first line second line)" in said
    assert str(log) in said
    assert "send that file to those who maintain this project" in said
    assert len(said.splitlines()) == 1
    written = log.read_text()
    assert "Traceback (most recent call last)" in written
    assert "probe http://host/" in written
    assert log.stat().st_mode & 0o777 == 0o600


def test_where_no_log_can_be_written_the_place_in_the_code_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    result = unforeseen()
    assert result.exit_code == 2
    assert "test_command_line.py, line" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_no_request_to_this_machine_goes_through_a_proxy(monkeypatch):
    for name in ("NO_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "lab.example")
    keep_loopback_direct()
    for host in ("127.0.0.1:5001", "localhost:5001", "lab.example"):
        assert not requests.utils.get_environ_proxies(f"http://{host}/")
    assert requests.utils.get_environ_proxies("http://other.example/")
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"]
