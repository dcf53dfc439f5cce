"""Versions of a registered model: finding them, making room for them, giving them an alias."""

import json
from dataclasses import dataclass

import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from adipocyte.delivery.models.load import is_whole
from adipocyte.errors import RunError

CHAMPION, CANDIDATE = "champion", "candidate"
# Tags of a version: what it was made of, the alias that it earned, why, the version that it was
# compared with, and the alias that it was given.
# UNJUDGED is "true" of a version that no plate has judged.
UNJUDGED = "unjudged"
DIGEST, VERDICT, REASON, AGAINST, PLACED = "digest", "verdict", "reason", "against", "placed"


@dataclass(frozen=True)
class Registered:
    """A version: its number, its alias ("" for none) and the reason for it.

    `intensities` is the way that its bundle keeps. `is_new` says that this registration made it,
    and that it was not there already. `left_over` are logged models of interrupted registrations:
    no version points to them.
    """

    name: str
    version: str
    alias: str
    reason: str
    intensities: str
    is_new: bool
    left_over: tuple[str, ...]

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def address(self) -> str:
        """The address to serve it from.

        It is that of the alias, if it has one, so that a restarted server follows the alias.
        """
        return f"models:/{self.name}@{self.alias}" if self.alias else self.uri


def active_run() -> Run:
    """The run that registers. Raises RunError when there is none."""
    run = mlflow.active_run()
    if run is None:
        raise RunError("no run is active", "register a model with mlflow run . -e register")
    return run


def version_of(digest: str, name: str) -> ModelVersion | None:
    """The version of the model *name* that was registered with this *digest*, if it is whole."""
    numbers = [int(one.version) for one in _versions_of(digest) if one.name == name]
    if not numbers or not is_whole(f"models:/{name}/{max(numbers)}"):
        return None
    # A search does not give aliases.
    return mlflow.MlflowClient().get_model_version(name, str(max(numbers)))


def _versions_of(digest: str) -> list[ModelVersion]:
    """All versions that were registered with this *digest*: several where files were lost."""
    return mlflow.MlflowClient().search_model_versions(f"tags.`{DIGEST}` = '{digest}'")


def make_room(client: mlflow.MlflowClient, name: str) -> None:
    """Make the registered model *name*, which versions belong to, unless it exists."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def settled(version: ModelVersion, digest: str, run: Run, *, is_new: bool) -> Registered:
    """A *version* of this *digest*, with the alias that it earned; see `Registered`."""
    alias = _give_alias(version)
    return Registered(
        version.name,
        str(version.version),
        alias,
        version.tags[REASON],
        version.tags["intensities"],
        is_new=is_new,
        left_over=_left_over(digest, run),
    )


def _give_alias(version: ModelVersion) -> str:
    """Give a *version* the alias that it earned, unless it was given one before.

    Returns the alias that it has now, "" for none.
    """
    if PLACED in version.tags:
        return next((alias for alias in (CHAMPION, CANDIDATE) if alias in version.aliases), "")
    client, name, number = mlflow.MlflowClient(), version.name, str(version.version)
    held = champion(name)
    # If this registration was interrupted, the version that it was compared with may no longer be
    # the champion.
    is_compared = held is None or str(held.version) in (number, version.tags.get(AGAINST))
    alias = version.tags[VERDICT] if is_compared else CANDIDATE
    client.set_registered_model_alias(name, alias, number)
    # The logged model's page shows this link; MLflow's register_model makes one, too.
    link = json.dumps([{"name": name, "version": number}])
    client.set_logged_model_tags(_source(version).rpartition("/")[2], {MLFLOW_MODEL_VERSIONS: link})
    client.set_model_version_tag(name, number, PLACED, alias)
    return alias


def _source(version: ModelVersion) -> str:
    """The address of the logged model that a *version* was made from."""
    return version.source or ""


def _left_over(digest: str, run: Run) -> tuple[str, ...]:
    """The ids of logged models of this *digest* that did not become a version.

    They lie in the experiment of *run*.
    """
    kept = {_source(version).rpartition("/")[2] for version in _versions_of(digest)}
    found = mlflow.MlflowClient().search_logged_models(
        [run.info.experiment_id], f"tags.`{DIGEST}` = '{digest}'"
    )
    return tuple(model.model_id for model in found if model.model_id not in kept)


def champion(name: str) -> ModelVersion | None:
    """The version of the model *name* that is champion, if there is one."""
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        # The codes of a model and of an alias that do not exist.
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
