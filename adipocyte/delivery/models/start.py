"""The trained network that a training starts from: of a registered model, a run or a bundle."""

import contextlib
from collections.abc import Generator
from pathlib import Path

import mlflow

import adipocyte
from adipocyte.config import PRETRAINED, GeneratorConfig
from adipocyte.delivery.models.load import bundle_of, pinned
from adipocyte.delivery.runs.runs import fetched_network, segmenter_of, targets_of
from adipocyte.networks.start import Start
from adipocyte.pretrained import BUNDLE
from adipocyte.staining.bundle import BUNDLE_MANIFEST, check_files, read_manifest


@contextlib.contextmanager
def start_of(config: GeneratorConfig) -> Generator[tuple[Start | None, dict[str, str]]]:
    """What the training of *config* starts from, while the block lasts, and the tag that says so.

    Nothing where the config names no start, or resumes a training. Raises RunError when there is no
    such model or run, BundleError when a bundle is damaged.
    """
    if not config.start or config.resume:
        yield None, {}
        return
    with contextlib.ExitStack() as stack:
        if config.start == PRETRAINED:
            start = _of_bundle(BUNDLE, config.targets, f"{PRETRAINED} {adipocyte.__version__}")
        elif config.start.startswith("models:/"):
            address = pinned(config.start)  # an alias moves on
            folder = stack.enter_context(bundle_of(address))
            start = _of_bundle(folder, config.targets, address)
        elif (Path(config.start) / BUNDLE_MANIFEST).is_file():
            folder = Path(config.start).resolve()
            start = _of_bundle(folder, config.targets, str(folder))
        else:
            start = stack.enter_context(_of_run(config.start))
        yield start, {"started_from": start.source}


def _of_bundle(folder: Path, targets: tuple[str, ...], source: str) -> Start:
    """The network of a bundle that paints most of *targets*."""
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    name, entry = max(
        manifest.networks.items(), key=lambda item: len({*item[1].paints} & {*targets})
    )
    return Start(folder / name, entry.paints, entry.sees_mask, source, manifest.normalisation)


@contextlib.contextmanager
def _of_run(run_id: str) -> Generator[Start]:
    sees_mask = segmenter_of(run_id) != ""
    with fetched_network(mlflow.get_run(run_id)) as folder:
        yield Start(folder, targets_of(run_id), sees_mask, f"run {run_id}")
