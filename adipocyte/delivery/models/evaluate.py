"""Evaluations as MLflow runs: of a registered model, of training runs, of two folders of images."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
from mlflow.data.dataset import Dataset

import adipocyte
from adipocyte.config import EvaluateConfig, RegisterConfig, listed
from adipocyte.delivery.models.assemble import assemble, runs_by_network
from adipocyte.delivery.models.load import load_stainer, model_id_of, pinned
from adipocyte.delivery.runs.datasets import folder_dataset, store_dataset
from adipocyte.delivery.runs.runs import commit, log_table, step_run
from adipocyte.domain import Intensities
from adipocyte.errors import PlateError
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.judge import Judgement, judge
from adipocyte.evaluation.painting import check_fits, paint_fields
from adipocyte.evaluation.pairs import PREDICTION, pair
from adipocyte.evaluation.report import page
from adipocyte.evaluation.tables import feature_rows, feature_tables, metrics, rows, table
from adipocyte.plate.problems import problem_table
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store

REPORT, TABLE = "report.html", "table.txt"


def evaluate_model(config: EvaluateConfig) -> Judgement:
    """Judge a registered model on a part of a store, in all ways it offers. Its metrics are logged on the model's own page too."""
    store, model = Store(config.store), pinned(config.model)  # the alias may move meanwhile
    stainer = load_stainer(model)
    check_fits(stainer, store)
    manifest = stainer.manifest
    origin = {
        "model": model if model == config.model else f"{model} ({config.model})",
        "networks": _text(manifest.runs),
        "trained on the store": manifest.store_digest,
        "commit of the model": manifest.commit,
    }
    with (
        step_run("evaluate", config, store=store.digest, model=config.model),
        tempfile.TemporaryDirectory() as scratch,
    ):
        fields = paint_fields(
            stainer, store, store.keys(config.wells), stainer.manifest.ways, Path(scratch)
        )
        judgement = _judge(config, fields, manifest.intensities)
        origin |= _flattered(
            store,
            config,
            fitted=Intensities.CALIBRATION in stainer.manifest.ways
            and manifest.store_digest == store.digest,
        )
        log_judgement(
            judgement,
            origin | _of_store(store, config),
            store_dataset(store),
            model_id=model_id_of(model),
        )
    return judgement


def evaluate_runs(config: EvaluateConfig) -> Judgement:
    """Judge training runs on a part of a store, in the way of intensities that `register` would keep by its default settings.

    What they do not paint is taken from the true stains. Raises RunError when one is no finished run of train_gan on this store.
    """
    store = Store(config.store)
    runs = runs_by_network(listed(config.runs))
    with (
        step_run("evaluate", config, store=store.digest, runs=config.runs),
        tempfile.TemporaryDirectory() as scratch,
    ):
        assembled = assemble(store, runs, Path(scratch) / "validation")
        n_measured = min(config.feature_fields, RegisterConfig.feature_fields)
        kept = assembled.finish(
            judge(
                assembled.fields,
                Intensities.NONE,
                feature_fields=n_measured,
                workers=config.workers,
                seed=config.seed,
            ).scores
        )
        stainer = Stainer(assembled.folder)
        judgement = _judge(
            config,
            paint_fields(
                stainer, store, store.keys(config.wells), stainer.manifest.ways, Path(scratch)
            ),
            kept,
        )
        origin = {"networks": _text(runs)} | _flattered(
            store, config, fitted=Intensities.CALIBRATION in stainer.manifest.ways
        )
        log_judgement(judgement, origin | _of_store(store, config), store_dataset(store))
    return judgement


def evaluate_folders(config: EvaluateConfig) -> Judgement:
    """Judge anyone's predictions against the true stains: two folders of TIFFs under the challenge's names.

    Raises PlateError, with a table of all that is wrong, when the folders do not pair up and on_error is "stop", or nothing pairs up.
    """
    truth, prediction = config.truth, config.prediction
    pairs = pair(truth, prediction, config.magnification)
    if pairs.problems and (config.on_error == "stop" or not pairs.fields):
        advice = "" if not pairs.fields else ", or go on without these fields with -P on_error=skip"
        raise PlateError(
            f"the two folders do not pair up:\n{problem_table(pairs.problems)}\nMend them{advice}"
        )
    with step_run("evaluate", config):
        judgement = _judge(config, pairs.fields, PREDICTION)
        if pairs.problems:
            log_table([asdict(problem) for problem in pairs.problems], "left_out")
            mlflow.log_metric("n_problems", len(pairs.problems))
        origin = {
            "truth": str(truth.resolve()),
            "prediction": str(prediction.resolve()),
            "left out": f"{len(pairs.problems)} problems",
        }
        log_judgement(
            judgement, origin | _of_run(config), folder_dataset(truth, _digest(judgement))
        )
    return judgement


def log_judgement(
    judgement: Judgement, origin: dict[str, str], dataset: Dataset, *, model_id: str | None = None
) -> None:
    """Log all of a *judgement* in the active run, and its metrics with the model *model_id* and the *dataset*.

    `origin` says in words what was judged and by which settings. Artifacts: report.html; table.txt; fields.json and features.json, which
    MLflow shows as tables; score.json; features/20x/…_Image.csv, as CellProfiler writes them.
    """
    mlflow.log_metrics(metrics(judgement), dataset=dataset, model_id=model_id)
    log_table(rows(judgement), "fields")
    if features := feature_rows(judgement):
        log_table(features, "features")
    mlflow.log_dict({way: asdict(score) for way, score in judgement.scores.items()}, "score.json")
    for name, text in feature_tables(judgement).items():
        mlflow.log_text(text, f"features/{name}")
    mlflow.log_text(table(judgement), TABLE)
    mlflow.log_text(
        page(judgement.figures, judgement.fields, judgement.scores, judgement.kept, origin), REPORT
    )


def _judge(config: EvaluateConfig, fields: Sequence[FieldPaths], kept: str) -> Judgement:
    return judge(
        fields, kept, feature_fields=config.feature_fields, workers=config.workers, seed=config.seed
    )


def _flattered(store: Store, config: EvaluateConfig, *, fitted: bool) -> dict[str, str]:
    """A warning for the report where the calibration was *fitted* to the validation wells and some of these are judged."""
    seen = set(store.keys(config.wells)) & set(store.keys("validation")) if fitted else set()
    return (
        {
            "calibration": f"fitted to {len(seen)} of the fields judged here, whose figures it flatters"
        }
        if seen
        else {}
    )


def _of_store(store: Store, config: EvaluateConfig) -> dict[str, str]:
    wells = ", ".join(store.manifest.split[config.wells])
    return {
        "store": f"{store.folder.resolve()} ({store.digest})",
        "wells": f"{wells} ({config.wells})",
    } | _of_run(config)


def _of_run(config: EvaluateConfig) -> dict[str, str]:
    """What the active run is, and the settings that figures depend on."""
    return {
        "run": mlflow.active_run().info.run_id,
        "adipocyte": adipocyte.__version__,
        "commit of the evaluation": commit(),
        "fields measured by features": f"at most {config.feature_fields} at each magnification",
        "seed": str(config.seed),
    }


def _text(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _digest(judgement: Judgement) -> str:
    """A short name for the true stains that were judged by: the same images, the same digest."""
    digest = hashlib.sha256()
    for field in judgement.figures:
        for target, counts in sorted(field.truth_counts.items()):
            digest.update(f"{field.key} {target}".encode() + counts.tobytes())
    return digest.hexdigest()[:16]
