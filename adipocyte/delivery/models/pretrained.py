"""The network that comes with the package, which has learnt from simulation: as a version."""

import tempfile
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

import adipocyte
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
from adipocyte.delivery.runs.runs import commit
from adipocyte.plate.tiff import encode_stack
from adipocyte.pretrained import BUNDLE, CARD
from adipocyte.simulation import simulate_field
from adipocyte.staining.bundle import BUNDLE_MANIFEST, check_files, read_manifest
from adipocyte.system.files import digest_of, short_digest

_EXAMPLE_PX = 64


def register_pretrained(name: str) -> Registered:
    """Register the network that comes with the package as a version of the model *name*.

    It becomes champion where there is none; beside one it is a candidate, because nothing tells
    which of them paints a plate better. The same package gives the same version.

    Raises BundleError when the package's files are damaged, RunError when no run is active.
    """
    run = active_run()
    check_files(BUNDLE, read_manifest(BUNDLE))
    content = [digest_of(BUNDLE / BUNDLE_MANIFEST), code_digest(), requirements()]
    digest = short_digest({"pretrained": content})
    known = version_of(digest, name)
    version = known or _make_version(name, digest, run)
    return settled(version, digest, run, is_new=known is None)


def _make_version(name: str, digest: str, run: Run) -> ModelVersion:
    """Make a version with its description and tags, but no alias."""
    held, manifest = champion(name), read_manifest(BUNDLE)
    reason = "no plate has judged it"
    if held:
        reason += f", so version {held.version} stays champion"
    with tempfile.TemporaryDirectory() as scratch:
        model = as_model(BUNDLE, _example(), copy_code(Path(scratch)))
        info = mlflow.pyfunc.log_model(name="model", tags={DIGEST: digest}, **model)
    tags = {
        DIGEST: digest,
        VERDICT: CANDIDATE if held else CHAMPION,
        REASON: reason,
        UNJUDGED: "true",
        "store": manifest.store_digest,
        "intensities": manifest.intensities,
        "adipocyte": adipocyte.__version__,
        "code": code_digest(),
        "commit": commit(),
    }
    client = mlflow.MlflowClient()
    make_room(client, name)
    return client.create_model_version(
        name,
        info.model_uri,
        run.info.run_id,
        tags | ({AGAINST: str(held.version)} if held else {}),
        description=CARD.read_text(),
        model_id=info.model_id,
    )


def _example() -> pd.DataFrame:
    """A small simulated field, as a request."""
    planes = simulate_field(20, (_EXAMPLE_PX, _EXAMPLE_PX), seed=0).planes
    return pd.DataFrame({"stack": [encode_stack(planes)], "magnification": [20]})
