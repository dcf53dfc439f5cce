"""From finished runs to a registered model, and back to a stainer."""

import importlib.metadata
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

import adipocyte
from adipocyte.delivery.tracking import commit, network_of
from adipocyte.errors import BundleError, RunError, StoreError
from adipocyte.evaluation.fields import judge, summary
from adipocyte.plate.tiff import encode_stack
from adipocyte.staining.bundle import SEGMENTER, BundleManifest, write_bundle
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store

CHAMPION, CANDIDATE = "champion", "candidate"
# What a served model imports, without what only training needs. The versions are those it was made and judged with.
SERVING_PACKAGES = (
    "imagecodecs",
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "safetensors",
    "scipy",
    "segmentation-models-pytorch",
    "tifffile",
    "torch",
    "torchvision",
)
_EXAMPLE_PX = 64
_METRIC = "validation_pixel_metric"


@dataclass(frozen=True)
class Registered:
    """A new version: its number, the alias it was given, and why."""

    name: str
    version: str
    alias: str
    reason: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def register(store: Store, runs: dict[str, str], name: str) -> Registered:
    """Bundle the networks of *runs* ("segmenter" and each target to a run id), log them as a model and register it as *name*.

    The new version and the champion paint the store's validation wells, before matching; the better one is the champion
    afterwards (lower mean over targets of MAE / median). Must be called inside an active run.

    Raises RunError when a run is not what its network takes, BundleError when a network is damaged.
    """
    with tempfile.TemporaryDirectory() as scratch:
        bundle = gather(store, runs, Path(scratch) / "bundle")
        stainer = Stainer(bundle)
        metrics = validation_metrics(stainer, store)
        mlflow.log_metrics({f"validation_{metric}": value for metric, value in metrics.items()})
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("stainer_model.py")),
            artifacts={"bundle": str(bundle)},
            code_paths=[str(Path(adipocyte.__file__).parent)],
            signature=signature(stainer.manifest.targets),
            input_example=_example(store),
            pip_requirements=requirements(),
        )
    alias, reason = _rank(stainer, metrics["pixel_metric"], _champion(name), store)
    tags = {_METRIC: f"{metrics['pixel_metric']:.6f}", "store": store.digest, **{f"run.{network}": run for network, run in runs.items()}}
    version = mlflow.register_model(info.model_uri, name, tags=tags)
    mlflow.MlflowClient().set_registered_model_alias(name, alias, version.version)
    return Registered(name, version.version, alias, reason)


def gather(store: Store, runs: dict[str, str], folder: Path) -> Path:
    """Write the bundle of *runs* into *folder* and return it. Raises RunError when a run is not what its network takes."""
    targets = store.manifest.targets
    manifest = BundleManifest(
        targets=targets,
        n_z_planes=store.manifest.n_z_planes,
        scalings=store.manifest.scalings,
        limits=store.manifest.limits,
        runs=runs,
        store_digest=store.digest,
        commit=commit(),
    )
    histograms = {f"{m}/{target}": store.histogram(m, target) for m in store.magnifications for target in targets}
    networks = {target: network_of(runs[target], "train_gan", store.digest, target) for target in targets}
    networks[SEGMENTER] = network_of(runs[SEGMENTER], "train_segmenter", store.digest)
    write_bundle(folder, manifest, networks, histograms)
    return folder


def validation_metrics(stainer: Stainer, store: Store) -> dict[str, float]:
    """The summary of the validation wells (see `evaluation.fields.summary`)."""
    return summary(judge(stainer, store, "validation"))


def load_stainer(uri: str) -> Stainer:
    """The stainer inside a registered model ("models:/adipocyte@champion"). Raises RunError when there is no such model."""
    try:
        folder = mlflow.artifacts.download_artifacts(uri)
    except (MlflowException, OSError) as error:
        raise RunError(
            f"there is no registered model at {uri} ({error}): make one with mlflow run . -e register, or name another"
        ) from error
    return Stainer(Path(folder) / "artifacts" / "bundle")


def signature(targets: tuple[str, ...]) -> ModelSignature:
    """The columns and parameters of a served model."""
    return ModelSignature(
        inputs=Schema([ColSpec("binary", "stack"), ColSpec("long", "magnification")]),
        outputs=Schema([ColSpec("binary", target) for target in targets] + [ColSpec("string", "warnings")]),
        params=ParamSchema([ParamSpec("histogram_matching", "boolean", True)]),
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


def _rank(stainer: Stainer, metric: float, champion: ModelVersion | None, store: Store) -> tuple[str, str]:
    """Which alias a new version deserves on the same validation wells as the champion, and why."""
    if champion is None:
        return CHAMPION, f"the first version ({_METRIC} {metric:.4f})"
    stays = f"version {champion.version} stays champion, for it cannot be compared on this store"
    try:
        held = load_stainer(f"models:/{champion.name}/{champion.version}")
        if held.manifest.targets != stainer.manifest.targets:
            return CANDIDATE, f"{stays}: it paints {', '.join(held.manifest.targets)}, not {', '.join(stainer.manifest.targets)}"
        to_beat = validation_metrics(held, store)["pixel_metric"]
    except (StoreError, RunError, BundleError) as error:
        return CANDIDATE, f"{stays}: {error}"
    comparison = f"{_METRIC} {metric:.4f} against {to_beat:.4f} of version {champion.version} on the same wells"
    if metric < to_beat:
        return CHAMPION, f"better: {comparison}"
    return CANDIDATE, f"no better: {comparison}, which stays champion"
