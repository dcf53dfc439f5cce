"""Whether runs can be recorded, found out before hours of work."""

import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
import sqlalchemy
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from mlflow.utils.uri import is_local_uri
from sqlalchemy.exc import SQLAlchemyError

from adipocyte.errors import RunError
from adipocyte.system.failures import explained, one_line, without_passwords

PATIENCE_S = 5  # for a lock to be released, or a server to answer
_RETRIES = 1
_SET_IT = "or set MLFLOW_TRACKING_URI to another place, and run the same command again"
_DATABASES = ("postgresql", "mysql", "mssql")


def require_tracking() -> None:
    """Raise RunError, within seconds, where MLflow's database or server takes no records.

    A file is really written to: a database is given its own version number again. Other databases
    and servers are asked for an answer.
    """
    uri = mlflow.get_tracking_uri()
    scheme = urlsplit(uri).scheme.partition("+")[0]
    try:
        if scheme == "sqlite":
            _write_sqlite(uri)
        elif scheme in _DATABASES:
            _ask_database(uri, scheme)
        elif scheme in ("http", "https"):
            _ask_server(uri)
        elif is_local_uri(uri):
            _write_folder(Path(unquote(urlsplit(uri).path)))
    except (OSError, ImportError, SQLAlchemyError, MlflowException) as error:
        known = explained(error)
        raise RunError(
            f"MLflow can record no run at {without_passwords(uri)} "
            f"({known.found if known else one_line(error)})",
            f"{_remedy(scheme)}, {_SET_IT}",
        ) from error


def _remedy(scheme: str) -> str:
    if scheme == "sqlite":
        return "close the program that holds that file, or make it writable with room on its disk"
    if scheme in ("http", "https", *_DATABASES):
        return "see that the server runs and can be reached"
    return "make that folder writable with room on its disk"


def _write_sqlite(uri: str) -> None:
    name = sqlalchemy.make_url(uri).database or ":memory:"
    if name != ":memory:" and not name.startswith("file:"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        if not Path(name).exists():  # SQLite would make it 0644 whatever the umask
            Path(name).touch()
    engine = sqlalchemy.create_engine(
        uri, connect_args={"timeout": PATIENCE_S}, isolation_level="AUTOCOMMIT"
    )
    try:
        with engine.connect() as database:
            database.exec_driver_sql("BEGIN IMMEDIATE")
            version = database.exec_driver_sql("PRAGMA user_version").scalar_one()
            database.exec_driver_sql(f"PRAGMA user_version = {version}")
            database.exec_driver_sql("COMMIT")
    finally:
        engine.dispose()


def _ask_database(uri: str, scheme: str) -> None:
    patience = {"timeout" if scheme == "mssql" else "connect_timeout": PATIENCE_S}
    engine = sqlalchemy.create_engine(uri, connect_args=patience)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _ask_server(uri: str) -> None:
    """Ask as MLflow does, with its credentials, but not for minutes."""
    http_request(
        get_default_host_creds(uri),
        "/api/2.0/mlflow/experiments/search",
        "POST",
        max_retries=_RETRIES,
        backoff_factor=1,
        timeout=PATIENCE_S,
        json={"max_results": 1},
    )


def _write_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0" * 4096)
