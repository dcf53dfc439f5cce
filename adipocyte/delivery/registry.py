"""From finished runs to a registered model, and back to a stainer."""

import importlib.metadata
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

import adipocyte
from adipocyte.config import RegisterConfig
from adipocyte.delivery.assembly import assemble
from adipocyte.delivery.parameters import PARAMETERS
from adipocyte.delivery.tracking import log_table, store_dataset
from adipocyte.errors import BundleError, RunError, StoreError
from adipocyte.evaluation.figures import FieldPaths
from adipocyte.evaluation.gate import Verdict, compare
from adipocyte.evaluation.judgement import judge, metrics, table
from adipocyte.evaluation.metric import Score
from adipocyte.evaluation.painting import NONE, paint_fields
from adipocyte.plate.tiff import encode_stack
from adipocyte.staining.bundle import read_manifest
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store

CHAMPION, CANDIDATE = "champion", "candidate"
# What a served model imports, without what only training needs. The versions are those it was made and judged with.
SERVING_PACKAGES = (
    "imagecodecs",
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "psutil",
    "safetensors",
    "scipy",
    "segmentation-models-pytorch",
    "tifffile",
    "torch",
    "torchvision",
)
_EXAMPLE_PX = 64


@dataclass(frozen=True)
class Registered:
    """A new version: its number, the alias it was given, and why; the way of intensities that its bundle keeps."""

    name: str
    version: str
    alias: str
    reason: str
    intensities: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def register(store: Store, runs: dict[str, str], config: RegisterConfig) -> Registered:
    """Bundle the networks of *runs* ("segmenter" and each target to a run id), log them as a model and register it.

    The new version paints the store's validation wells in every way of intensities; its bundle keeps the way that scores best. The
    champion, if there is one, paints the same fields, and the better one is champion afterwards (see `evaluation.gate.compare`). Must be
    called inside an active run.

    Raises RunError when a run is not what its network takes, BundleError when a network is damaged.
    """
    held = _champion(config.name)
    with tempfile.TemporaryDirectory() as scratch:
        assembled = assemble(store, runs, Path(scratch), config.storage)
        fields, obstacle = assembled.fields, ""
        if held:
            fields, obstacle = _beside(assembled.fields, held, store, Path(scratch) / CHAMPION)
        judgement = judge(fields, NONE, feature_fields=config.feature_fields, workers=config.workers, seed=config.seed)
        judgement = replace(judgement, kept=assembled.finish(judgement.scores))
        info = mlflow.pyfunc.log_model(name="model", **as_model(assembled.folder, _example(store)))
    found = {f"validation_{name}": value for name, value in metrics(judgement).items()}
    mlflow.log_metrics(found, dataset=store_dataset(store), model_id=info.model_id)
    verdict = _verdict(judgement.scores, judgement.kept, held, obstacle, config.tolerance)
    log_table([{"figure": figure, "new": new, "champion": old} for figure, new, old in verdict.table], "comparison")
    tags = {"store": store.digest, "intensities": judgement.kept, **{f"run.{network}": run for network, run in runs.items()}}
    version = mlflow.register_model(info.model_uri, config.name, tags=tags)
    client = mlflow.MlflowClient()
    client.update_model_version(config.name, version.version, _description(verdict, judgement.kept, held, table(judgement)))
    alias = CHAMPION if verdict.wins else CANDIDATE
    client.set_registered_model_alias(config.name, alias, version.version)
    return Registered(config.name, version.version, alias, verdict.reason, judgement.kept)


def load_stainer(uri: str, memory_mb: float | None = None) -> Stainer:
    """The stainer inside a registered model ("models:/adipocyte@champion"), bounded to *memory_mb* (see `Stainer`).

    Raises RunError when there is no such model.
    """
    try:
        folder = mlflow.artifacts.download_artifacts(uri)
    except (MlflowException, OSError) as error:
        raise RunError(
            f"there is no registered model at {uri} ({error}): make one with mlflow run . -e register, or name another"
        ) from error
    return Stainer(Path(folder) / "artifacts" / "bundle", memory_mb)


def model_id_of(uri: str) -> str | None:
    """The id of the logged model behind *uri*, on whose page MLflow shows metrics; None for a bare folder."""
    return mlflow.models.get_model_info(uri).model_id


def as_model(bundle: Path, example: pd.DataFrame) -> dict[str, Any]:
    """What `mlflow.pyfunc.log_model` and `save_model` take to make a model of a *bundle*, with an *example* of a request."""
    return {
        "python_model": str(Path(__file__).with_name("stainer_model.py")),
        "artifacts": {"bundle": str(bundle)},
        "code_paths": [str(Path(adipocyte.__file__).parent)],
        "signature": signature(read_manifest(bundle).targets),
        "input_example": example,
        "pip_requirements": requirements(),
    }


def signature(targets: tuple[str, ...]) -> ModelSignature:
    """The columns and parameters of a served model."""
    return ModelSignature(
        inputs=Schema([ColSpec("binary", "stack"), ColSpec("long", "magnification")]),
        outputs=Schema([ColSpec("binary", target) for target in targets] + [ColSpec("string", "warnings")]),
        params=PARAMETERS,
    )


def requirements() -> list[str]:
    """What a served model needs installed, pinned to what is installed here."""
    return [f"{package}=={importlib.metadata.version(package).split('+')[0]}" for package in SERVING_PACKAGES]


def _example(store: Store) -> pd.DataFrame:
    """A corner of a training field, as a request."""
    key = store.keys("train")[0]
    corner = store.planes(key, (slice(_EXAMPLE_PX), slice(_EXAMPLE_PX)))
    return pd.DataFrame({"stack": [encode_stack(corner)], "magnification": [key.magnification]})


def _champion(name: str) -> ModelVersion | None:
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such model, no such alias
            raise
        return None


def _beside(fields: Sequence[FieldPaths], held: ModelVersion, store: Store, folder: Path) -> tuple[list[FieldPaths], str]:
    """The *fields* with the champion's images beside the new version's, in the way it keeps; or without, and what is in the way."""
    try:
        stainer = load_stainer(f"models:/{held.name}/{held.version}")
        if stainer.manifest.targets != store.manifest.targets:
            return list(fields), f"it paints {', '.join(stainer.manifest.targets)}, not {', '.join(store.manifest.targets)}"
        kept = stainer.manifest.intensities
        painted = paint_fields(stainer, store, [field.key for field in fields], [kept], folder)
    except (StoreError, RunError, BundleError) as error:
        return list(fields), str(error)
    pairs = zip(fields, painted, strict=True)
    return [replace(field, painted={**field.painted, CHAMPION: one.painted[kept]}) for field, one in pairs], ""


def _verdict(scores: dict[str, Score], kept: str, held: ModelVersion | None, obstacle: str, tolerance: float) -> Verdict:
    """Whether the new version is to be champion after the version *held*, if there is one."""
    if held is None:
        first = compare(scores[kept], scores[kept], tolerance).table
        return Verdict(True, f"the first version ({first[0][0]} {first[0][1]:.4f})", [(figure, new, None) for figure, new, _ in first])
    if CHAMPION not in scores:
        return Verdict(False, f"version {held.version} stays champion, for it cannot be compared on this store: {obstacle}", [])
    verdict = compare(scores[kept], scores[CHAMPION], tolerance)
    end = f"of version {held.version} on the same wells" + ("" if verdict.wins else ", which stays champion")
    return replace(verdict, reason=f"{verdict.reason} {end}")


def _description(verdict: Verdict, kept: str, held: ModelVersion | None, figures: str) -> str:
    """What the registry's page says of a version, in Markdown."""
    other = f"version {held.version}" if held else "champion"
    lines = [verdict.reason[0].upper() + verdict.reason[1:] + ".", "", f"Intensities: {kept}, as the validation wells prefer.", ""]
    lines += [f"| validation wells | this version | {other} |", "|---|---|---|"]
    lines += [f"| {figure} | {new:.4f} | {'–' if old is None else f'{old:.4f}'} |" for figure, new, old in verdict.table]
    return "\n".join([*lines, "", "```", figures, "```"])
