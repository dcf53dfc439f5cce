"""Bundles of networks that have learnt nothing, made in a second."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

import adipocyte
from adipocyte.domain import SEGMENTER, TARGETS
from adipocyte.networks.files import save_network
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.staining.bundle import BundleManifest, names, write_bundle

NARROW = {SEGMENTER: "none"} | dict.fromkeys(TARGETS, "last")


def random_network(spec: UNetSpec) -> torch.nn.Module:
    """A network whose normalisations have seen noise, so that its output is neither flat nor huge."""
    network = build_unet(spec).train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(4, spec.in_channels, 64, 64))
    return network


def write_networks(
    folder: Path, targets: tuple[str, ...], encoder: str, wide: Mapping[str, str]
) -> dict[str, Path]:
    """Random networks in folders of their names. *wide* maps each network to its 5x5 convolutions (see `UNetSpec`)."""
    torch.manual_seed(0)
    networks = {}
    for name in names(targets):
        spec = UNetSpec(
            encoder=encoder, in_channels=8 if name == "A1" else 7, wide_convolutions=wide[name]
        )
        save_network(folder / name, spec, random_network(spec))
        networks[name] = folder / name
    return networks


def write_random_bundle(
    folder: Path,
    targets: tuple[str, ...] = TARGETS,
    *,
    encoder: str = "resnet18",
    wide: Mapping[str, str] = NARROW,
    storage: str = "float32",
) -> Path:
    """A bundle for 20x in *folder*/bundle."""
    scaling = {"brightfield": (2000.0, 500.0)} | {target: (1000.0, 300.0) for target in targets}
    manifest = BundleManifest(
        targets=targets,
        n_z_planes=7,
        scalings={"20": scaling},
        limits={"20": {"sharpness": [0.0, None]}},
        runs=dict.fromkeys(names(targets), "none"),
        store_digest="none",
        commit="none",
        version=adipocyte.__version__,
        licences={"code": "MIT"},
        intensities="none",
        storage=storage,
    )
    counts = np.bincount(np.random.default_rng(0).integers(200, 4000, 10_000), minlength=65536)
    histograms = {name: counts.astype(np.int64) for name in manifest.paintings}
    write_bundle(
        folder / "bundle",
        manifest,
        write_networks(folder / "networks", targets, encoder, wide),
        histograms,
    )
    return folder / "bundle"
