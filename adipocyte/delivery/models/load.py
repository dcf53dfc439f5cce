"""Loading registered models.

Painting uses this module, so it imports nothing of evaluation, training, store or simulation.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME

from adipocyte.delivery.runs.runs import fetched, if_moved, lacks, repository_of
from adipocyte.errors import BundleError, MissingFilesError, RunError
from adipocyte.plate.stained import GRADES
from adipocyte.staining.bundle import (
    BUNDLE_MANIFEST,
    BundleManifest,
    check_files,
    read_manifest,
)
from adipocyte.staining.stainer import Stainer

_BUNDLE = "artifacts/bundle"  # in the folder of a logged model


def load_stainer(
    uri: str, memory_mb: float | None = None, *, precision: str = "auto", compiled: bool = False
) -> Stainer:
    """The stainer inside a registered model ("models:/adipocyte@champion").

    The other arguments are those of `Stainer`. Raises RunError when there is no such model,
    MissingFilesError when its files are gone.
    """
    with bundle_of(uri) as bundle:
        return Stainer(bundle, memory_mb, precision=precision, compiled=compiled)


def load_manifest(uri: str) -> BundleManifest:
    """The manifest of a registered model's bundle, without its networks.

    Raises RunError when there is no such model, MissingFilesError when its files are gone.
    """
    with _bundle_file(uri, BUNDLE_MANIFEST) as path:
        return read_manifest(path.parent)


def load_grades(uri: str) -> bytes | None:
    """The file of a registered model's bundle with its grades; None in a model that has none.

    Raises RunError when there is no such model, MissingFilesError when its files are gone.
    """
    if GRADES not in load_manifest(uri).checksums:
        return None
    with _bundle_file(uri, GRADES) as path:
        return path.read_bytes()


@contextlib.contextmanager
def bundle_of(uri: str) -> Generator[Path]:
    """The folder of a registered model's bundle, while the block lasts.

    Raises RunError when there is no such model, MissingFilesError when its files are gone.
    """
    with _bundle_file(uri, "") as folder:
        yield folder


@contextlib.contextmanager
def _bundle_file(uri: str, name: str) -> Generator[Path]:
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(fetched(uri, f"{_BUNDLE}/{name}".rstrip("/")))
        except (MlflowException, OSError) as error:
            raise _refusal(uri, error) from error
        yield path


def _refusal(uri: str, error: Exception) -> RunError:
    """What to say of a model of which nothing can be fetched, because of an *error*."""
    try:
        place = repository_of(uri)
    except MlflowException:
        place = None
    if place is None or not uri.startswith("models:/"):
        return RunError(
            f"there is no registered model at {uri} ({error})",
            "make one with mlflow run . -e register, or name another",
        )
    try:
        is_gone = lacks(place, _BUNDLE, BUNDLE_MANIFEST)
    except (MlflowException, OSError):
        is_gone = False
    if is_gone:
        return MissingFilesError(
            f"{uri} is registered, but its files are gone from where they were recorded, "
            f"{place.artifact_uri}",
            f"{if_moved(place.artifact_uri)}; else name another version, or make one with "
            "mlflow run . -e register",
        )
    return RunError(
        f"{uri} is registered, but its files cannot be fetched from {place.artifact_uri} ({error})",
        "see that this place can be reached and read, and run the same command again",
    )


def is_whole(uri: str) -> bool:
    """Whether every file of a registered model is as it was registered.

    Raises RunError when there is no such model, or its files cannot be fetched just now.
    """
    try:
        with bundle_of(uri) as bundle:
            check_files(bundle, read_manifest(bundle))
    except (MissingFilesError, BundleError):
        return False
    return True


def pinned(uri: str) -> str:
    """The address of the version that an alias stands for now ("models:/adipocyte/3").

    An address without an alias, or with an unknown one, is returned as it is.
    """
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if not at:
        return uri
    try:
        version = mlflow.MlflowClient().get_model_version_by_alias(name, alias).version
    except MlflowException:  # loading it says what is wrong
        return uri
    return f"models:/{name}/{version}"


def model_id_of(uri: str) -> str | None:
    """The id of the logged model behind *uri*, whose page shows metrics; None for a bare folder."""
    with fetched(uri, MLMODEL_FILE_NAME) as path:
        return Model.load(path).model_id
