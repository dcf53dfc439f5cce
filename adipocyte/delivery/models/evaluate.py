"""Evaluations as MLflow runs: of a registered model, of training runs, of two folders of images."""

import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
from mlflow.data.dataset import Dataset
from mlflow.entities import Run

import adipocyte
from adipocyte.config import EvaluateConfig, RegisterConfig, listed
from adipocyte.delivery.models.assemble import assemble, runs_by_network
from adipocyte.delivery.models.load import load_grades, load_stainer, model_id_of, pinned
from adipocyte.delivery.runs.datasets import folder_dataset, store_dataset
from adipocyte.delivery.runs.runs import commit, log_table, step_run
from adipocyte.domain import UM_PER_PX, Intensities, as_in_challenge
from adipocyte.errors import ConfigError, PlateError
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.grades import (
    from_json,
    grade_metrics,
    reliabilities,
    reliability_metrics,
    to_rows,
)
from adipocyte.evaluation.judge import Judgement, judge
from adipocyte.evaluation.measure import total
from adipocyte.evaluation.painting import check_fits, paint_fields
from adipocyte.evaluation.pairs import PREDICTION, pair
from adipocyte.evaluation.reality import Reality
from adipocyte.evaluation.report import page
from adipocyte.evaluation.sureness import NOT_SURE, Foretold, Sureness, held
from adipocyte.evaluation.tables import feature_rows, feature_tables, metrics, rows, table
from adipocyte.plate.problems import problem_table
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store
from adipocyte.system.files import parse_json

REPORT, TABLE = "report.html", "table.txt"


def evaluate_model(config: EvaluateConfig) -> Judgement:
    """Judge a registered model on a part of a store, with all intensities that it offers.

    The metrics are logged on the model's own page too.
    """
    store, model = Store(config.store), pinned(config.model)  # because the alias may move meanwhile
    stainer = load_stainer(model)
    check_fits(stainer, store, resample=config.resample)
    manifest = stainer.manifest
    origin = {
        "model": model if model == config.model else f"{model} ({config.model})",
        "networks": _text(manifest.runs),
        "trained on the store": manifest.store_digest,
        "commit of the model": manifest.commit,
    }
    is_calibrated = Intensities.CALIBRATION in manifest.ways
    with (
        step_run("evaluate", config, store=store.digest, model=config.model) as run,
        tempfile.TemporaryDirectory() as scratch,
    ):
        keys = store.keys(config.wells)
        fields = paint_fields(
            stainer, store, keys, manifest.ways, Path(scratch), resample=config.resample
        )
        judgement = _judge(config, fields, manifest.intensities)
        if is_calibrated and manifest.store_digest == store.digest:
            origin |= _flattered(store, config)
        origin |= _of_store(store, config) | _of_run(config, run, fields)
        log_judgement(
            judgement,
            origin,
            store_dataset(store),
            model_id=model_id_of(model),
            realities=_realities(model, judgement.kept),
            sureness=_sureness(judgement, stainer, store),
        )
    return judgement


def evaluate_runs(config: EvaluateConfig) -> Judgement:
    """Judge training runs on a part of a store.

    They paint with the intensities that `register` would keep by its default settings. What they do
    not paint is taken from the true stains. Raises RunError when one is not a finished run of
    train_gan on this store.
    """
    store = Store(config.store)
    runs = runs_by_network(listed(config.runs))
    with (
        step_run("evaluate", config, store=store.digest, runs=config.runs) as run,
        tempfile.TemporaryDirectory() as scratch,
    ):
        assembled = assemble(store, runs, Path(scratch) / "validation")
        on_validation = judge(
            assembled.fields,
            Intensities.NONE,
            feature_fields=min(config.feature_fields, RegisterConfig.feature_fields),
            workers=config.workers,
            seed=config.seed,
        )
        kept = assembled.finish(on_validation.scores)
        stainer = Stainer(assembled.folder)
        ways, keys = stainer.manifest.ways, store.keys(config.wells)
        fields = paint_fields(stainer, store, keys, ways, Path(scratch))
        judgement = _judge(config, fields, kept)
        origin = {"networks": _text(runs)}
        if Intensities.CALIBRATION in ways:
            origin |= _flattered(store, config)
        origin |= _of_store(store, config) | _of_run(config, run, fields)
        log_judgement(judgement, origin, store_dataset(store))
    return judgement


def evaluate_folders(config: EvaluateConfig) -> Judgement:
    """Judge anyone's predictions against the true stains: two folders of the challenge's TIFFs.

    Raises ConfigError when a folder is not given. Raises PlateError, with a table of all problems,
    when the folders do not pair up and on_error is "stop", or no field pairs up.
    """
    truth, prediction = config.truth, config.prediction
    if truth is None or prediction is None:
        raise ConfigError(
            "two folders are judged, and one is not given",
            "-P truth=<folder> -P prediction=<folder>",
        )
    pairs = pair(truth, prediction, config.magnification, config.um_per_px)
    if pairs.problems and (config.on_error == "stop" or not pairs.fields):
        advice = ", or leave these fields out with -P on_error=skip" if pairs.fields else ""
        raise PlateError(
            "the two folders do not pair up",
            f"mend these problems{advice}:\n{problem_table(pairs.problems)}",
        )
    with step_run("evaluate", config) as run:
        judgement = _judge(config, pairs.fields, PREDICTION)
        if pairs.problems:
            log_table([asdict(problem) for problem in pairs.problems], "left_out")
            mlflow.log_metric("n_problems", len(pairs.problems))
        origin = {
            "truth": str(truth.resolve()),
            "prediction": str(prediction.resolve()),
            "left out": f"{len(pairs.problems)} problems",
            **_of_run(config, run, pairs.fields),
        }
        log_judgement(judgement, origin, folder_dataset(truth, _digest(judgement)))
    return judgement


def log_judgement(
    judgement: Judgement,
    origin: dict[str, str],
    dataset: Dataset,
    *,
    model_id: str | None = None,
    realities: Sequence[Reality] = (),
    sureness: Sureness = NOT_SURE,
) -> None:
    """Log all of a *judgement* in the active run.

    The metrics are logged with the model *model_id* and the *dataset* too. *origin* says in words
    what was judged and by which settings; *realities* are the model's, which are judged, too;
    *sureness* says whether its intervals hold and its expected errors come true.
    Artifacts: report.html; table.txt; fields.json, features.json, grades.json and intervals.json,
    which MLflow shows as tables; score.json; features/20x/…_Image.csv, as CellProfiler writes them.
    """
    reliable = reliabilities(judgement.measurements, judgement.kept, realities)
    measured = metrics(judgement) | grade_metrics(judgement.grades) | reliability_metrics(reliable)
    measured |= sureness.metrics
    mlflow.log_metrics(measured, dataset=dataset, model_id=model_id)
    log_table(rows(judgement), "fields")
    if judgement.grades:
        log_table(to_rows(judgement.grades), "grades")
    if sureness.held:
        log_table([asdict(one) for one in sureness.held], "intervals")
    if features := feature_rows(judgement):
        log_table(features, "features")
    mlflow.log_dict({way: asdict(score) for way, score in judgement.scores.items()}, "score.json")
    for name, text in feature_tables(judgement).items():
        mlflow.log_text(text, f"features/{name}")
    mlflow.log_text(table(judgement), TABLE)
    report = page(
        judgement.measurements,
        judgement.fields,
        judgement.scores,
        judgement.kept,
        origin,
        judgement.grades,
        reliable,
        sureness,
    )
    mlflow.log_text(report, REPORT)


def _judge(config: EvaluateConfig, fields: Sequence[FieldPaths], kept: str) -> Judgement:
    return judge(
        fields, kept, feature_fields=config.feature_fields, workers=config.workers, seed=config.seed
    )


def _realities(model: str, kept: str) -> list[Reality]:
    """What a model gives its objects their probabilities by, in the way that it keeps."""
    content = load_grades(model)
    earned = from_json(parse_json(content)) if content else None
    return earned.realities if earned and earned.intensities == kept else []


def _sureness(judgement: Judgement, stainer: Stainer, store: Store) -> Sureness:
    """Whether intervals of the *stainer* hold, and its expected errors come true."""
    placed = frozenset(one.key for one in judgement.measurements if one.truth_features)
    trusts = {field.key: field.trust for field in judgement.fields}
    foretold = []
    for one in judgement.measurements:
        errors = {
            target: pixels["mae"] / middle
            for target, pixels in one.pixels[judgement.kept].items()
            if (middle := store.median(one.key.magnification, target)) > 0
        }
        if trusts[one.key].errors:
            foretold.append(Foretold(one.key, trusts[one.key], errors))
    return Sureness(held(judgement.fields, judgement.kept, stainer.widths, placed), foretold)


def _flattered(store: Store, config: EvaluateConfig) -> dict[str, str]:
    """A warning for the report if the calibration was fitted to fields that are judged."""
    seen = set(store.keys(config.wells)) & set(store.keys("validation"))
    if not seen:
        return {}
    return {
        "calibration": f"fitted to {len(seen)} of the fields judged here, whose metrics it flatters"
    }


def _of_store(store: Store, config: EvaluateConfig) -> dict[str, str]:
    wells = ", ".join(store.manifest.split[config.wells])
    return {
        "store": f"{store.folder.resolve()} ({store.digest})",
        "wells": f"{wells} ({config.wells})",
    }


def _of_run(config: EvaluateConfig, run: Run, fields: Iterable[FieldPaths]) -> dict[str, str]:
    """The id of the *run*, and the settings and code that the metrics of *fields* depend on."""
    return _pipelines(fields) | {
        "run": run.info.run_id,
        "adipocyte": adipocyte.__version__,
        "commit of the evaluation": commit(),
        "fields measured by features": f"at most {config.feature_fields} at each magnification",
        "seed": str(config.seed),
    }


def _pipelines(fields: Iterable[FieldPaths]) -> dict[str, str]:
    """How objectives are measured that the challenge has not; nothing where there are none."""
    found = {}
    for field in fields:
        magnification = field.key.magnification
        alike, zoom = as_in_challenge(magnification, field.um_per_px)
        if (alike, zoom) != (magnification, 1):
            found[magnification] = (
                f"{field.um_per_px:g} µm per pixel, measured by the challenge's pipeline of "
                f"{alike}x, in its pixels of {UM_PER_PX[alike]:g} µm"
            )
    return {f"objective {one}x": text for one, text in sorted(found.items())}


def _text(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _digest(judgement: Judgement) -> str:
    """A short name for the true stains: the same images give the same digest."""
    digest = hashlib.sha256()
    for field in judgement.measurements:
        for target, counts in sorted(field.truth_counts.items()):
            digest.update(f"{field.key} {target}".encode() + total([counts]).tobytes())
    return digest.hexdigest()[:16]
