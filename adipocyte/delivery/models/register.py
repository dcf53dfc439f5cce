"""From finished runs to a registered model, and back to a stainer."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

import adipocyte
from adipocyte.config import RegisterConfig, plain
from adipocyte.delivery.models.assemble import assemble
from adipocyte.delivery.models.load import load_stainer
from adipocyte.delivery.models.package import as_model, code_digest, requirements
from adipocyte.delivery.runs.datasets import store_dataset
from adipocyte.delivery.runs.runs import commit, log_table
from adipocyte.domain import Intensities
from adipocyte.errors import AdipocyteError, BundleError, NewerBundleError, RunError, StoreError
from adipocyte.evaluation.comparison import Verdict, compare
from adipocyte.evaluation.fields import FieldPaths, spread
from adipocyte.evaluation.judge import Judgement, judge
from adipocyte.evaluation.metric import Score
from adipocyte.evaluation.painting import cross_calibrated, paint_fields
from adipocyte.evaluation.pictures import judged
from adipocyte.evaluation.tables import metrics, table
from adipocyte.plate.tiff import encode_stack
from adipocyte.store.reader import Store
from adipocyte.system.files import short_digest

CHAMPION, CANDIDATE = "champion", "candidate"
# Tags of a version: what it was made of, the alias that it earned, why, against which version, and the alias that it was given.
DIGEST, VERDICT, REASON, AGAINST, PLACED = "digest", "verdict", "reason", "against", "placed"
PICTURE = "fields.png"
_EXAMPLE_PX = 64
_INDIFFERENT = (
    "store",
    "segmenter",
    "a1",
    "a2",
    "a3",
    "workers",
)  # settings that do not change a version, or stand in `runs`


@dataclass(frozen=True)
class Registered:
    """A version: its number, the alias it holds ("" for none), why it was given one, and the way of intensities that its bundle keeps.

    It was made now when it `is_new`; else it was there already. `left_over` are logged models of earlier tries that were interrupted: no
    version points to them.
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
        """Where to serve it from: by its alias, if it has one, so that the server follows a change when it is started again."""
        return f"models:/{self.name}@{self.alias}" if self.alias else self.uri


def register(store: Store, runs: dict[str, str], config: RegisterConfig) -> Registered:
    """Bundle the networks of *runs* ("segmenter" and each target to a run id), log them as a model and register it.

    The new version paints the store's validation wells in every way of intensities; its bundle keeps the way that scores best. The
    champion, if there is one, paints the same fields, and the better one is champion afterwards (see `evaluation.gate.compare`). Must be
    called inside an active run.

    The same runs, store, settings and code are registered once: repeated, the call returns the version that is there. Killed at any
    moment it leaves a registry to be used and, repeated, goes on. For its steps are in this order: all that takes time or can fail first,
    where nobody looks (a logged model); then the version, with its description and tags in one transaction; then its alias; and last the
    tag which says that it was given one, so that an alias that is moved by hand afterwards is never moved back.

    Raises RunError when a run is not what its network takes, BundleError when a network is damaged.
    """
    digest = _digest(store, runs, config)
    known = _version_of(digest, config.name)
    version = known or _make_version(store, runs, config, digest)
    alias = _place(version)
    tags, left_over = version.tags, _left_over(digest, version)
    return Registered(
        version.name,
        str(version.version),
        alias,
        tags[REASON],
        tags["intensities"],
        known is None,
        left_over,
    )


def _digest(store: Store, runs: dict[str, str], config: RegisterConfig) -> str:
    """A short name for all that makes a version what it is."""
    settings = {name: value for name, value in plain(config).items() if name not in _INDIFFERENT}
    content = {
        "store": store.digest,
        "runs": runs,
        "code": code_digest(),
        "packages": requirements(),
    }
    return short_digest({"settings": settings, **content})


def _version_of(digest: str, name: str) -> ModelVersion | None:
    """The version of the model *name* that was registered from what *digest* stands for."""
    client = mlflow.MlflowClient()
    found = client.search_model_versions(f"tags.`{DIGEST}` = '{digest}'")
    numbers = [int(version.version) for version in found if version.name == name]
    return (
        client.get_model_version(name, str(max(numbers))) if numbers else None
    )  # anew, for a search leaves aliases out


def _make_version(
    store: Store, runs: dict[str, str], config: RegisterConfig, digest: str
) -> ModelVersion:
    """Make a version with its description and tags, but no alias."""
    held = _champion(config.name)
    with tempfile.TemporaryDirectory() as scratch:
        assembled = assemble(store, runs, Path(scratch), config.storage)
        fields, obstacle = assembled.fields, None
        if held:
            fields, obstacle = _beside(assembled.fields, held, store, Path(scratch) / CHAMPION)
        judgement = judge(
            fields,
            Intensities.NONE,
            feature_fields=config.feature_fields,
            workers=config.workers,
            seed=config.seed,
        )
        judgement = replace(judgement, kept=assembled.finish(judgement.scores))
        picture = _draw(judgement, Path(scratch) / PICTURE)
        mlflow.log_artifact(str(picture))
        model = as_model(assembled.folder, _example(store))
        model["artifacts"]["picture"] = str(picture)
        info = mlflow.pyfunc.log_model(name="model", tags={DIGEST: digest}, **model)
    found = {f"validation_{name}": value for name, value in metrics(judgement).items()}
    mlflow.log_metrics(found, dataset=store_dataset(store), model_id=info.model_id)
    verdict = _verdict(judgement.scores, judgement.kept, held, obstacle, config.tolerance)
    log_table(
        [{"figure": figure, "new": new, "champion": old} for figure, new, old in verdict.table],
        "comparison",
    )
    tags = {
        DIGEST: digest,
        VERDICT: CHAMPION if verdict.wins else CANDIDATE,
        REASON: verdict.reason,
        "intensities": judgement.kept,
        "store": store.digest,
        "adipocyte": adipocyte.__version__,
        "code": code_digest(),
        "commit": commit(),
        **{f"run.{network}": run for network, run in runs.items()},
        **{figure: f"{new:.4f}" for figure, new, _ in verdict.table},
    }
    if held:
        tags[AGAINST] = str(held.version)
    client = mlflow.MlflowClient()
    _make_room(client, config.name)
    return client.create_model_version(
        config.name,
        info.model_uri,
        mlflow.active_run().info.run_id,
        tags,
        description=_description(verdict, judgement, held, info.model_id),
        model_id=info.model_id,
    )


def _make_room(client: mlflow.MlflowClient, name: str) -> None:
    """See that there is a registered model *name* for versions to belong to."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _place(version: ModelVersion) -> str:
    """Give a *version* the alias that it earned, unless it was given one before. Returns the one it holds, "" for none."""
    if PLACED in version.tags:
        return next((alias for alias in (CHAMPION, CANDIDATE) if alias in version.aliases), "")
    client, name, number = mlflow.MlflowClient(), version.name, str(version.version)
    held = _champion(name)
    # What it won against may no longer be champion, when it was interrupted here and others came in between.
    is_compared = held is None or str(held.version) in (number, version.tags.get(AGAINST))
    alias = version.tags[VERDICT] if is_compared else CANDIDATE
    client.set_registered_model_alias(name, alias, number)
    link = json.dumps(
        [{"name": name, "version": number}]
    )  # as MLflow's own register_model leaves it, for the page of the logged model
    client.set_logged_model_tags(version.source.rpartition("/")[2], {MLFLOW_MODEL_VERSIONS: link})
    client.set_model_version_tag(name, number, PLACED, alias)
    return alias


def _left_over(digest: str, version: ModelVersion) -> tuple[str, ...]:
    """The ids of logged models that were to become what *version* is, in the experiment of the active run."""
    experiment = mlflow.active_run().info.experiment_id
    found = mlflow.MlflowClient().search_logged_models(
        [experiment], f"tags.`{DIGEST}` = '{digest}'"
    )
    return tuple(model.model_id for model in found if not version.source.endswith(model.model_id))


def _draw(judgement: Judgement, path: Path) -> Path:
    """A picture of one field at each magnification, in *path*."""
    shown = spread([field.key for field in judgement.fields], 1)
    judged([field for field in judgement.fields if field.key in shown], judgement.kept).savefig(
        path, dpi=100
    )
    return path


def _example(store: Store) -> pd.DataFrame:
    """A corner of a training field, as a request."""
    key = store.keys("train")[0]
    corner = store.planes(key, (slice(_EXAMPLE_PX), slice(_EXAMPLE_PX)))
    return pd.DataFrame({"stack": [encode_stack(corner)], "magnification": [key.magnification]})


def _champion(name: str) -> ModelVersion | None:
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code not in (
            "RESOURCE_DOES_NOT_EXIST",
            "INVALID_PARAMETER_VALUE",
        ):  # no such model, no such alias
            raise
        return None


def _beside(
    fields: Sequence[FieldPaths], held: ModelVersion, store: Store, folder: Path
) -> tuple[list[FieldPaths], AdipocyteError | None]:
    """The *fields* with the champion's images beside the new version's, in the way it keeps; or without, and what is in the way.

    A champion that was calibrated on these very fields is judged as the new version is: each field by a table fitted to others.
    """
    try:
        stainer = load_stainer(f"models:/{held.name}/{held.version}")
        if stainer.manifest.targets != store.manifest.targets:
            found = f"it paints {', '.join(stainer.manifest.targets)}, not {', '.join(store.manifest.targets)}"
            return list(fields), RunError(found)
        kept = stainer.manifest.intensities
        painted = paint_fields(
            stainer,
            store,
            [field.key for field in fields],
            list(dict.fromkeys([Intensities.NONE, kept])),
            folder,
        )
    except (StoreError, RunError, BundleError) as error:
        return list(fields), error
    if kept == Intensities.CALIBRATION and stainer.manifest.store_digest == store.digest:
        painted = cross_calibrated(painted, folder)
    pairs = zip(fields, painted, strict=True)
    return [
        replace(field, painted={**field.painted, CHAMPION: one.painted[kept]})
        for field, one in pairs
    ], None


def _verdict(
    scores: dict[str, Score],
    kept: str,
    held: ModelVersion | None,
    obstacle: AdipocyteError | None,
    tolerance: float,
) -> Verdict:
    """Whether the new version is to be champion after the version *held*, if there is one.

    One that this code cannot read any more gives way: it could be neither served nor judged. One of newer code stays.
    """
    alone = [
        (figure, new, None)
        for figure, new, _ in compare(scores[kept], scores[kept], tolerance).table
    ]
    if held is None:
        return Verdict(True, f"the first version ({alone[0][0]} {alone[0][1]:.4f})", alone)
    if isinstance(obstacle, BundleError) and not isinstance(obstacle, NewerBundleError):
        return Verdict(
            True,
            f"version {held.version} cannot be read by this code any more: {str(obstacle)[:300]}",
            alone,
        )
    if CHAMPION not in scores:
        return Verdict(
            False,
            f"version {held.version} stays champion, for it cannot be compared on this store: {str(obstacle)[:300]}",
            alone,
        )
    verdict = compare(scores[kept], scores[CHAMPION], tolerance)
    end = f"of version {held.version} on the same wells" + (
        "" if verdict.wins else ", which stays champion"
    )
    return replace(verdict, reason=f"{verdict.reason} {end}")


def _description(
    verdict: Verdict, judgement: Judgement, held: ModelVersion | None, model_id: str
) -> str:
    """What the registry's page says of a version, in Markdown; at most 5000 characters, for a database takes no more."""
    other = f"version {held.version}" if held else "champion"
    # Both addresses are relative to the page that shows this, so they hold on whatever host and port the UI is.
    experiment = mlflow.active_run().info.experiment_id
    picture = f"ajax-api/2.0/mlflow/logged-models/{model_id}/artifacts/files?artifact_file_path=artifacts/{PICTURE}"
    lines = [verdict.reason[0].upper() + verdict.reason[1:] + "."]
    lines += ["", f"Intensities: {judgement.kept}, as the validation wells prefer.", ""]
    lines += [f"| validation wells | this version | {other} |", "|---|---|---|"]
    lines += [
        f"| {figure} | {new:.4f} | {'–' if old is None else f'{old:.4f}'} |"
        for figure, new, old in verdict.table
    ]
    lines += [
        "",
        f"[![Validation wells, true and painted]({picture})](#/experiments/{experiment}/models/{model_id})",
        "",
    ]
    return "\n".join([*lines, "```", table(judgement), "```"])
