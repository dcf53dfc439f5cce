"""A bundle: one folder with a network for each target, the segmenter, histograms, calibrations and `bundle.json`. No pickle anywhere."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from adipocyte.config import WAYS
from adipocyte.errors import BundleError
from adipocyte.imaging.histograms import N_COUNTS
from adipocyte.imaging.quality import Limits

FORMAT = 3
SEGMENTER = "segmenter"
_MANIFEST, _HISTOGRAMS, _CALIBRATIONS = "bundle.json", "histograms.safetensors", "calibrations.safetensors"
_AGAIN = "register the model again with mlflow run . -e register"


@dataclass(frozen=True, kw_only=True)
class BundleManifest:
    """What a bundle holds and where it came from.

    `scalings` maps magnification ("20") and channel ("brightfield", "A1", …) to [mean, std] in counts, `limits` maps magnification and
    figure of quality (see `imaging.quality`) to the [low, high] of the training wells. `runs` maps "segmenter" and each target to the run
    that trained it; `store_digest` names the data, `commit` the code. `intensities` is the way (see `config.WAYS`) in which painted
    images get their intensities unless another is asked for. Raises BundleError when that is none of them.
    """

    targets: tuple[str, ...]
    n_z_planes: int
    scalings: dict[str, dict[str, tuple[float, float]]]
    limits: dict[str, Limits]
    runs: dict[str, str]
    store_digest: str
    commit: str
    intensities: str
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.intensities not in WAYS:
            raise BundleError(f"the bundle keeps the intensities {self.intensities!r}, not one of {', '.join(WAYS)}: {_AGAIN}")

    @property
    def magnifications(self) -> tuple[int, ...]:
        return tuple(sorted(int(magnification) for magnification in self.scalings))

    @property
    def paintings(self) -> tuple[str, ...]:
        """What has a histogram and a calibration of its own: "20/A1", …"""
        return tuple(f"{magnification}/{target}" for magnification in self.magnifications for target in self.targets)


def write_bundle(folder: Path, manifest: BundleManifest, networks: Mapping[str, Path], histograms: Mapping[str, NDArray[np.int64]]) -> None:
    """Gather a bundle in *folder*, which must not be there. It has no calibrations before `calibrate_bundle`.

    *networks* maps "segmenter" and each target to the folder of its network; *histograms* maps "20/A1", … to (65536,) counts.
    """
    folder.mkdir(parents=True)
    for name in names(manifest.targets):
        shutil.copytree(networks[name], folder / name)
    save_file(dict(histograms), folder / _HISTOGRAMS)
    save_file({}, folder / _CALIBRATIONS)
    _write_manifest(folder, manifest)


def calibrate_bundle(folder: Path, calibrations: Mapping[str, NDArray[np.uint16]], intensities: str) -> None:
    """Give the bundle in *folder* its *calibrations* and the way of *intensities* that it keeps; killed at any moment, it stays whole.

    *calibrations* maps "20/A1", … for every magnification and target to a table (65536,) (see `imaging.calibration`); or is empty.

    Raises BundleError when there is no bundle, a table is missing or *intensities* is none of `config.WAYS`.
    """
    manifest = replace(read_manifest(folder), intensities=intensities)
    if calibrations or intensities == "calibration":
        _require_all(manifest, calibrations)
    partial = folder / f".{_CALIBRATIONS}.partial"
    save_file(dict(calibrations), partial)
    partial.replace(folder / _CALIBRATIONS)
    _write_manifest(folder, manifest)  # last, for it may now ask for the tables


def read_manifest(folder: Path) -> BundleManifest:
    """Raises BundleError when *folder* holds no bundle, or one of another format than this code's."""
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
        raise BundleError(f"{folder} holds no whole bundle ({error}): {_AGAIN}") from error


def read_histograms(folder: Path) -> dict[str, NDArray[np.int64]]:
    """The reference histograms of a bundle by "20/A1", …; (65536,) int64 each. Raises BundleError when they are damaged."""
    return _read_tables(folder / _HISTOGRAMS, np.int64)


def read_calibrations(folder: Path, manifest: BundleManifest) -> dict[str, NDArray[np.uint16]]:
    """The calibrations of a bundle by "20/A1", …; (65536,) uint16 each, none when it has not been calibrated.

    Raises BundleError when they are damaged, incomplete, or missing though *manifest* keeps them as its way.
    """
    calibrations = _read_tables(folder / _CALIBRATIONS, np.uint16)
    if calibrations or manifest.intensities == "calibration":
        _require_all(manifest, calibrations)
    return calibrations


def names(targets: Iterable[str]) -> list[str]:
    """The networks that painting *targets* takes: A1 needs the segmenter."""
    return [SEGMENTER, *targets] if "A1" in targets else list(targets)


def _write_manifest(folder: Path, manifest: BundleManifest) -> None:
    partial = folder / f".{_MANIFEST}.partial"
    partial.write_text(json.dumps(asdict(manifest), indent=1))
    partial.replace(folder / _MANIFEST)


def _read_tables(path: Path, dtype: type[np.generic]) -> dict[str, NDArray]:
    try:
        tables = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path} cannot be read ({error}): {_AGAIN}") from error
    for name, table in tables.items():
        if table.shape != (N_COUNTS,) or table.dtype != dtype:
            raise BundleError(f"{name} in {path} is {table.dtype} of shape {table.shape}, not {dtype.__name__} of ({N_COUNTS},): {_AGAIN}")
    return tables


def _require_all(manifest: BundleManifest, calibrations: Mapping[str, NDArray[np.uint16]]) -> None:
    if missing := [name for name in manifest.paintings if name not in calibrations]:
        raise BundleError(f"the bundle has no calibration for {', '.join(missing)}: {_AGAIN}")
