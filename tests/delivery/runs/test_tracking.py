"""Whether runs can be recorded is known before work begins."""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from adipocyte.delivery.runs import tracking
from adipocyte.delivery.runs.tracking import require_tracking
from adipocyte.errors import RunError
from tests.support.processes import free_port
from tests.support.tracking import tracked_at


def refusal(uri: str) -> str:
    with tracked_at(uri), pytest.raises(RunError) as refused:
        require_tracking()
    assert "MLFLOW_TRACKING_URI" in refused.value.remedy
    assert "\n" not in str(refused.value)
    return refused.value.found


def test_a_database_that_takes_records_is_left_as_it_was(tmp_path: Path):
    path = tmp_path / "plate #655090" / "mlflow.db"
    with tracked_at(f"sqlite:///{path}"):
        require_tracking()
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE kept (x)")
            database.execute("PRAGMA user_version = 7")
        before = path.stat().st_size
        require_tracking()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("kept",)]
        assert database.execute("PRAGMA user_version").fetchone() == (7,)
    assert path.stat().st_size == before


@pytest.mark.parametrize("mask", [0o002, 0o027])
def test_a_new_database_follows_the_umask(tmp_path: Path, mask: int):
    before = os.umask(mask)
    try:
        with tracked_at(f"sqlite:///{tmp_path}/mlflow.db"):
            require_tracking()
    finally:
        os.umask(before)
    assert (tmp_path / "mlflow.db").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_locked_database_is_told_after_seconds(tmp_path: Path, monkeypatch):
    assert tracking.PATIENCE_S <= 10
    monkeypatch.setattr(tracking, "PATIENCE_S", 0.1)
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert "is locked" in refusal(f"sqlite:///{path}")


def test_a_read_only_database_is_told(tmp_path: Path):
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE kept (x)")
    assert "is read-only" in refusal(f"sqlite:///file:{path}?mode=ro&uri=true")


def test_a_file_that_is_no_database_is_told(tmp_path: Path):
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"no database" * 1000)
    assert "is no SQLite database" in refusal(f"sqlite:///{path}")


def test_a_place_that_cannot_be_a_folder_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    for uri in (f"sqlite:///{tmp_path}/file/mlflow.db", f"{tmp_path}/file/mlruns"):
        assert str(tmp_path) in refusal(uri)


def test_a_server_that_is_away_is_told_within_seconds_and_without_its_password():
    start = time.monotonic()
    found = refusal(f"http://name:secret@127.0.0.1:{free_port()}")
    assert time.monotonic() - start < 30  # MLflow itself would try for minutes
    assert "http://127.0.0.1:" in found
    assert "secret" not in found


def test_a_database_server_that_is_away_is_told_without_its_password():
    pytest.importorskip("psycopg2")
    found = refusal(f"postgresql+psycopg2://name:secret@127.0.0.1:{free_port()}/mlflow")
    assert "cannot be reached" in found
    assert "secret" not in found
