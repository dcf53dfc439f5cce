"""The trained network that a training starts from: of a registered model, a run or a bundle."""

import contextlib
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import mlflow

import adipocyte
from adipocyte.config import AUTO_START, NO_START, PRETRAINED, GeneratorConfig
from adipocyte.delivery.models.load import bundle_of, pinned
from adipocyte.delivery.runs.runs import fetched_network, segmenter_of, targets_of
from adipocyte.networks.files import read_spec
from adipocyte.networks.start import Start, is_same_kind
from adipocyte.pretrained import BUNDLE
from adipocyte.staining.bundle import BUNDLE_MANIFEST, check_files, read_manifest
from adipocyte.training.generator import generator_spec


def with_start(config: GeneratorConfig) -> GeneratorConfig:
    """*config* with its start decided: `auto` is the pretrained network where that fits, else none.

    It fits networks of its kind under recipe=shared, whose rates were measured with it.
    """
    if config.start != AUTO_START or config.resume:
        return config
    start = _of_bundle(BUNDLE, config.targets, PRETRAINED)
    found = read_spec(start.folder)
    fits = (
        config.recipe == "shared"
        and start.sees_mask == config.sees_mask
        and is_same_kind(found, generator_spec(config, found.in_channels))
    )
    return replace(config, start=PRETRAINED if fits else NO_START)


@contextlib.contextmanager
def start_of(config: GeneratorConfig) -> Generator[tuple[Start | None, dict[str, str]]]:
    """What the training of *config* starts from, while the block lasts, and the tag that says so.

    Nothing where the config names no start, or resumes a training. Raises RunError when there is no
    such model or run, BundleError when a bundle is damaged.
    """
    if not config.names_start or config.resume:
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
    seen = {size * manifest.n_joined(name, one) for one, size in manifest.objectives.items()}
    return Start(
        folder / name,
        entry.paints,
        entry.sees_mask,
        source,
        manifest.normalisation,
        tuple(sorted(seen)),
    )


@contextlib.contextmanager
def _of_run(run_id: str) -> Generator[Start]:
    sees_mask = segmenter_of(run_id) != ""
    with fetched_network(mlflow.get_run(run_id)) as folder:
        yield Start(folder, targets_of(run_id), sees_mask, f"run {run_id}")
