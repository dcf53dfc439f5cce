"""A bundle: one folder with a network for each target, the segmenter, reference histograms and `bundle.json`. No pickle anywhere."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from adipocyte.errors import BundleError
from adipocyte.imaging.quality import Limits

FORMAT = 2
SEGMENTER = "segmenter"
_MANIFEST, _HISTOGRAMS = "bundle.json", "histograms.safetensors"


@dataclass(frozen=True, kw_only=True)
class BundleManifest:
    """What a bundle holds and where it came from.

    `scalings` maps magnification ("20") and channel ("brightfield", "A1", …) to [mean, std] in counts, `limits` maps magnification and
    figure of quality (see `imaging.quality`) to the [low, high] of the training wells. `runs` maps "segmenter" and each target to the run
    that trained it; `store_digest` names the data, `commit` the code.
    """

    targets: tuple[str, ...]
    n_z_planes: int
    scalings: dict[str, dict[str, tuple[float, float]]]
    limits: dict[str, Limits]
    runs: dict[str, str]
    store_digest: str
    commit: str
    format: int = FORMAT

    @property
    def magnifications(self) -> tuple[int, ...]:
        return tuple(sorted(int(magnification) for magnification in self.scalings))


def write_bundle(folder: Path, manifest: BundleManifest, networks: Mapping[str, Path], histograms: Mapping[str, NDArray[np.int64]]) -> None:
    """Gather a bundle in *folder*, which must not be there.

    *networks* maps "segmenter" and each target to the folder of its network; *histograms* maps "20/A1", … to (65536,) counts.
    """
    folder.mkdir(parents=True)
    for name in names(manifest.targets):
        shutil.copytree(networks[name], folder / name)
    save_file(dict(histograms), folder / _HISTOGRAMS)
    (folder / _MANIFEST).write_text(json.dumps(asdict(manifest), indent=1))


def read_manifest(folder: Path) -> BundleManifest:
    """Raises BundleError when *folder* holds no bundle, or one that is newer than this code."""
    try:
        content = json.loads((folder / _MANIFEST).read_text())
        if content["format"] != FORMAT:
            raise BundleError(
                f"the bundle {folder} has format {content['format']}, this code reads {FORMAT}: update the code, or register anew"
            )
        return BundleManifest(**content | {"targets": tuple(content["targets"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{folder} holds no whole bundle ({error}): register the model again with mlflow run . -e register") from error


def read_histograms(folder: Path) -> dict[str, NDArray[np.int64]]:
    """The reference histograms of a bundle by "20/A1", …; (65536,) each. Raises BundleError when they are damaged."""
    try:
        return load_file(folder / _HISTOGRAMS)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"the histograms of {folder} cannot be read ({error}): register the model again") from error


def names(targets: Iterable[str]) -> list[str]:
    """The networks that painting *targets* takes: A1 needs the segmenter."""
    return [SEGMENTER, *targets] if "A1" in targets else list(targets)
