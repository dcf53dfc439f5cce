"""The addresses of artifacts in MLflow's database, after a project was moved.

MLflow 3.17 records a folder by its whole path, once for each experiment, run, model and version,
and has no command that changes them (github.com/mlflow/mlflow/issues/3144, 3719 and 8226). Only
the addresses of a server that serves artifacts, `mlflow-artifacts:/…`, hold wherever it runs.
"""

import os
from pathlib import Path

import mlflow
import sqlalchemy
from sqlalchemy import Connection, column, func, literal, select, table, update

from adipocyte.errors import ConfigError, RunError

_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_DATABASES = ("sqlite", "postgresql", "mysql")


def relocate(before: Path, now: Path) -> int:
    """Let each address in the folder *before* lie in *now*, in MLflow's database.

    Returns how many there were; all are changed, or none. No file is touched.

    Raises ConfigError when *now* is no folder, or MLflow's records lie in no database that this
    machine writes to; RunError when no address lies in *before*.
    """
    if not now.is_dir():
        raise ConfigError(f"there is no folder {now}", "give the project's with -P now=<folder>")
    # Not `resolve`, because other links may lie on the way to the old folder today.
    before, now = Path(os.path.abspath(before)), now.resolve()
    # A folder is recorded by its path or as an address: /data/a b, file:///data/a%20b.
    pairs = [(str(before), str(now)), (before.as_uri(), now.as_uri())]
    databases = {mlflow.get_tracking_uri(), mlflow.get_registry_uri()}
    n_changed = sum(_change(uri, pairs) for uri in sorted(databases))
    if not n_changed:
        known = ", ".join(sorted({place for uri in databases for place in _experiments(uri)}))
        raise RunError(
            f"no address in {', '.join(sorted(databases))} lies in {before}",
            f"the folders of experiments are {known}: give what these begin with, -P before=…",
        )
    return n_changed


def _change(uri: str, pairs: list[tuple[str, str]]) -> int:
    with _engine(uri).begin() as database:
        return sum(
            _change_column(database, *place, old, new) for place in _ADDRESSES for old, new in pairs
        )


def _change_column(database: Connection, name: str, of: str, old: str, new: str) -> int:
    address, n_letters = column(of, sqlalchemy.String), len(old)
    # Not LIKE, to which "_" is any letter and A is a.
    is_inside = func.substr(address, 1, n_letters + 1) == f"{old}/"
    moved = literal(new).concat(func.substr(address, n_letters + 1))
    found = database.execute(
        update(table(name, address)).where((address == old) | is_inside).values({of: moved})
    )
    return found.rowcount


def _experiments(uri: str) -> list[str]:
    place = column("artifact_location")
    with _engine(uri).connect() as database:
        return [row[0] for row in database.execute(select(place).select_from(table("experiments")))]


def _engine(uri: str) -> sqlalchemy.Engine:
    """Raises ConfigError for a server, and for a folder of MLflow's older kind."""
    if uri.partition(":")[0].partition("+")[0] not in _DATABASES:
        raise ConfigError(
            f"MLflow's records are kept at {uri}, which is no database that can be changed here",
            "for a server, name its database in MLFLOW_TRACKING_URI on its own machine; a folder "
            "mlruns without one becomes one by mlflow migrate-filestore",
        )
    return sqlalchemy.create_engine(uri)
