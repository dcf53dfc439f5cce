"""From finished runs to a version of a registered model, with the alias that it earned."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

import adipocyte
from adipocyte.config import RegisterConfig, plain
from adipocyte.delivery.models.assemble import assemble, teach_trust
from adipocyte.delivery.models.load import load_stainer
from adipocyte.delivery.models.package import as_model, code_digest, copy_code, requirements
from adipocyte.delivery.models.versions import (
    AGAINST,
    CANDIDATE,
    CHAMPION,
    DIGEST,
    REASON,
    UNJUDGED,
    VERDICT,
    Registered,
    active_run,
    champion,
    make_room,
    settled,
    version_of,
)
from adipocyte.delivery.runs.datasets import store_dataset
from adipocyte.delivery.runs.runs import commit, log_table
from adipocyte.domain import Intensities
from adipocyte.errors import (
    AdipocyteError,
    BundleError,
    MissingFilesError,
    NewerBundleError,
    RunError,
    StoreError,
)
from adipocyte.evaluation.comparison import Verdict, compare
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.grades import earned_by, grade_metrics, to_json, to_rows
from adipocyte.evaluation.judge import Judgement, judge, measure_more
from adipocyte.evaluation.metric import Score
from adipocyte.evaluation.painting import cross_calibrated, paint_fields
from adipocyte.evaluation.pictures import judged
from adipocyte.evaluation.tables import metrics, table
from adipocyte.plate.tiff import encode_stack
from adipocyte.staining.bundle import add_grades, read_manifest
from adipocyte.store.reader import Store
from adipocyte.system.files import short_digest

PICTURE = "fields.png"
_EXAMPLE_PX = 64
# Settings that do not change a version, or are stated by `runs`.
_INDIFFERENT = ("store", "segmenter", "a1", "a2", "a3", "workers")


def register(store: Store, runs: dict[str, str], config: RegisterConfig) -> Registered:
    """Bundle the networks of *runs*, log the bundle as a model and register it.

    *runs* maps "segmenter" and each target to a run id. The new version paints the store's
    validation wells with every way of intensities; its bundle keeps the way that scores best. The
    champion, if there is one, paints the same fields, and the better of both becomes champion (see
    `evaluation.comparison.compare`).

    The call is idempotent: the same runs, store, settings and code give the same version, as long
    as its files are there; else they give a new one. Killed at
    any moment it leaves a registry that can be used, and the same call completes it, because of the
    order of its steps. It first does everything slow or fallible, on an unregistered model. Then it
    makes the version, with its description and tags in one transaction, then sets its alias. Last
    it sets the tag that records the alias, so that an alias that is moved by hand afterwards is
    never moved back.

    Raises RunError when a run does not fit its network or no run is active, BundleError when a
    network is damaged.
    """
    run = active_run()
    digest = _digest(store, runs, config)
    known = version_of(digest, config.name)
    version = known or _make_version(store, runs, config, digest, run)
    return settled(version, digest, run, is_new=known is None)


def _digest(store: Store, runs: dict[str, str], config: RegisterConfig) -> str:
    """A short name for everything that makes a version what it is."""
    settings = {name: value for name, value in plain(config).items() if name not in _INDIFFERENT}
    content = {
        "store": store.digest,
        "runs": runs,
        "code": code_digest(),
        "packages": requirements(),
    }
    return short_digest({"settings": settings, **content})


def _make_version(
    store: Store, runs: dict[str, str], config: RegisterConfig, digest: str, run: Run
) -> ModelVersion:
    """Make a version with its description and tags, but no alias."""
    held = champion(config.name)
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
        teach_trust(assembled.folder, store, config.seed)
        measured = measure_more(judgement, config.grade_fields, config.workers)
        earned = earned_by(measured, judgement.kept, config.seed)
        if earned.grades:
            add_grades(assembled.folder, to_json(earned))
            log_table(to_rows(earned.grades), "grades")
        origins = read_manifest(assembled.folder).started_from
        picture = _draw(judgement, Path(scratch) / PICTURE)
        mlflow.log_artifact(str(picture))
        model = as_model(assembled.folder, _example(store), copy_code(Path(scratch)))
        model["artifacts"]["picture"] = str(picture)
        info = mlflow.pyfunc.log_model(name="model", tags={DIGEST: digest}, **model)
    numbers = metrics(judgement) | grade_metrics(earned.grades)
    found = {f"validation_{name}": value for name, value in numbers.items()}
    mlflow.log_metrics(found, dataset=store_dataset(store), model_id=info.model_id)
    verdict = _verdict(judgement.scores, judgement.kept, held, obstacle, config.tolerance)
    rows = [{"figure": name, "new": new, "champion": old} for name, new, old in verdict.table]
    log_table(rows, "comparison")
    made_of = {
        DIGEST: digest,
        "store": store.digest,
        **{f"run.{network}": run_id for network, run_id in runs.items()},
        **{f"started_from.{target}": origin for target, origin in origins.items()},
    }
    client = mlflow.MlflowClient()
    make_room(client, config.name)
    return client.create_model_version(
        config.name,
        info.model_uri,
        run.info.run_id,
        made_of | _tags(verdict, judgement, held),
        description=_description(verdict, judgement, held, info.model_id, run, origins),
        model_id=info.model_id,
    )


def _tags(verdict: Verdict, judgement: Judgement, held: ModelVersion | None) -> dict[str, str]:
    """What the tags of a version say of its code, its verdict and its metrics."""
    tags = {
        VERDICT: CHAMPION if verdict.wins else CANDIDATE,
        REASON: verdict.reason,
        "intensities": judgement.kept,
        "adipocyte": adipocyte.__version__,
        "code": code_digest(),
        "commit": commit(),
        **{name: f"{new:.4f}" for name, new, _ in verdict.table},
    }
    return tags | {AGAINST: str(held.version)} if held else tags


def _draw(judgement: Judgement, path: Path) -> Path:
    """A picture of a field at each magnification, one of those with most stains, in *path*."""
    fields: dict[int, FieldPaths] = {}
    for field in sorted(judgement.fields, key=lambda field: (-len(field.truth), field.key)):
        fields.setdefault(field.key.magnification, field)
    judged([*fields.values()], judgement.kept).savefig(path, dpi=100)
    return path


def _example(store: Store) -> pd.DataFrame:
    """A corner of a training field, as a request."""
    key = store.keys("train")[0]
    corner = store.planes(key, (slice(_EXAMPLE_PX), slice(_EXAMPLE_PX)))
    return pd.DataFrame({"stack": [encode_stack(corner)], "magnification": [key.magnification]})


def _beside(
    fields: Sequence[FieldPaths], held: ModelVersion, store: Store, folder: Path
) -> tuple[list[FieldPaths], AdipocyteError | None]:
    """The *fields* with the champion's images beside the new ones; or without, and the obstacle.

    The champion paints with the intensities that it keeps. A champion that was calibrated on these
    very fields is judged as the new version is: each field by a table fitted to others.
    """
    try:
        stainer = load_stainer(f"models:/{held.name}/{held.version}")
        if stainer.manifest.targets != store.manifest.targets:
            theirs, ours = (", ".join(of.targets) for of in (stainer.manifest, store.manifest))
            return list(fields), RunError(f"it paints {theirs}, not {ours}")
        kept = stainer.manifest.intensities
        ways = list(dict.fromkeys([Intensities.NONE, kept]))
        painted = paint_fields(stainer, store, [field.key for field in fields], ways, folder)
    except (StoreError, RunError, BundleError) as error:
        return list(fields), error
    if Intensities(kept).takes_calibrations and stainer.manifest.store_digest == store.digest:
        painted = cross_calibrated(painted, stainer.histograms, folder)
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
    """Whether the new version becomes champion after the version *held*, if there is one.

    A champion that can no longer be loaded, because its files are gone or this code cannot read
    them, gives way: it could be neither served nor judged. So does one that no plate has judged, if
    it cannot be compared. A champion of newer code stays, and one whose files cannot be fetched
    just now.
    """
    own = compare(scores[kept], scores[kept], tolerance).table
    alone = [(name, new, None) for name, new, _ in own]
    if held is None:
        return Verdict(True, f"the first version ({alone[0][0]} {alone[0][1]:.4f})", alone)
    of_held = f"version {held.version}"
    is_newer = isinstance(obstacle, NewerBundleError)
    if isinstance(obstacle, (BundleError, MissingFilesError)) and not is_newer:
        reason = f"{of_held}, the champion before, can no longer be loaded: {obstacle.found[:300]}"
        return Verdict(True, reason, alone)
    if CHAMPION not in scores and UNJUDGED in held.tags:
        reason = (
            f"{of_held}, the champion before, was judged on no plate, and cannot be on this one"
        )
        return Verdict(True, f"{reason}: {str(obstacle)[:300]}", alone)
    if CHAMPION not in scores:
        reason = (
            f"{of_held} stays champion, because it cannot be compared on this store: "
            f"{str(obstacle)[:300]}"
        )
        return Verdict(False, reason, alone)
    verdict = compare(scores[kept], scores[CHAMPION], tolerance)
    reason = f"{verdict.reason} of {of_held} on the same wells"
    return replace(verdict, reason=reason if verdict.wins else f"{reason}, which stays champion")


def _description(
    verdict: Verdict,
    judgement: Judgement,
    held: ModelVersion | None,
    model_id: str,
    run: Run,
    origins: Mapping[str, str],
) -> str:
    """What the registry's page says of a version, in Markdown.

    It has at most 5000 characters, because a database takes no more.
    """
    other = f"version {held.version}" if held else "champion"
    # Both addresses are relative to the page that shows them, so they hold on any host and port.
    page = f"#/experiments/{run.info.experiment_id}/models/{model_id}"
    picture = (
        f"ajax-api/2.0/mlflow/logged-models/{model_id}/artifacts/files"
        f"?artifact_file_path=artifacts/{PICTURE}"
    )
    lines = [verdict.reason[0].upper() + verdict.reason[1:] + "."]
    lines += ["", f"Intensities: {judgement.kept}, as the validation wells prefer.", ""]
    if origins:
        started = ", ".join(f"{target} from {origin}" for target, origin in origins.items())
        lines += [f"Its training started from trained networks: {started}.", ""]
    lines += [f"| validation wells | this version | {other} |", "|---|---|---|"]
    lines += [
        f"| {name} | {new:.4f} | {'–' if old is None else f'{old:.4f}'} |"
        for name, new, old in verdict.table
    ]
    lines += ["", f"[![Validation wells, true and painted]({picture})]({page})", ""]
    return "\n".join([*lines, "```", table(judgement), "```"])
