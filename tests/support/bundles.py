"""Bundles of random networks, made in seconds."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import adipocyte
from adipocyte.domain import BRIGHTFIELD, N_Z_PLANES, SEGMENTER, TARGETS
from adipocyte.imaging.foreteller import Foreteller
from adipocyte.imaging.histograms import N_COUNTS
from adipocyte.imaging.intervals import Residuals, Widths
from adipocyte.imaging.limits import learn_limits
from adipocyte.imaging.quality import measure_quality
from adipocyte.networks.files import load_network, save_network
from adipocyte.networks.quantisation import measure_ranges
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.staining.bundle import BundleManifest, NetworkEntry, read_manifest, write_bundle
from tests.support.plates import planes

SMALLEST = "tu-mobilenetv3_small_050"  # the smallest encoder at hand: a network has 10 MB
NAMES = (SEGMENTER, *TARGETS)  # of the networks of a bundle in which each paints one target
NARROW = {SEGMENTER: "none"} | dict.fromkeys(TARGETS, "last")
SEPARATE = {target: NetworkEntry((target,), sees_mask=target == "A1") for target in TARGETS}


def spec(name: str, encoder: str = SMALLEST, **options: str) -> UNetSpec:
    """The network *name*: a target's, or the segmenter."""
    return UNetSpec(encoder=encoder, in_channels=N_Z_PLANES + (name == "A1"), **options)


def unet_specs(encoder: str = "resnet18", wide: Mapping[str, str] = NARROW) -> dict[str, UNetSpec]:
    """The four networks with one encoder, each with the *wide* convolutions of its name."""
    return {name: spec(name, encoder, wide_convolutions=wide[name]) for name in NAMES}


def random_network(spec: UNetSpec) -> torch.nn.Module:
    """A network whose normalisations have seen noise: its output is neither flat nor huge."""
    network = build_unet(spec).train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(4, spec.in_channels, 64, 64))
    return network


def some_widths() -> Widths:
    """Of three wells, whose truths are some tens of counts away from what is painted."""
    random, residuals = np.random.default_rng(0), Residuals()
    for well in ("B03", "B04", "C02"):
        painted = random.integers(0, 5000, (64, 64), dtype=np.uint16)
        residuals.note(well, painted, painted + random.integers(0, 50, (64, 64), dtype=np.uint16))
    return residuals.fit()


def some_foreteller(refused: float = 2.0, farthest: float = 0.01) -> Foreteller:
    """One for 20x to which any field is too far from what taught it, unless *farthest* is large."""
    targets = dict.fromkeys(TARGETS, 0.2)
    return Foreteller(
        20,
        ["noise_percent"],
        centres=[0.0],
        scales=[1.0],
        weights={target: [np.log(0.3), 0.0] for target in targets},
        usual=targets,
        precision=[[1.0]],
        doubted=1.2,
        refused=refused,
        farthest=farthest,
        n_parts=4,
        n_wells=2,
    )


def make_bundle(
    folder: Path,
    specs: Mapping[str, UNetSpec] | None = None,
    *,
    networks: Mapping[str, NetworkEntry] = SEPARATE,
    storage: str = "float32",
) -> Path:
    """A bundle for 20x in *folder*, of random networks by *specs*, or of small ones.

    *networks* say what they paint; by default each paints one target.
    Its limits are learnt from `planes(0)` and `planes(1)`, so these cause no warning.
    """
    torch.manual_seed(0)
    manifest = BundleManifest(
        targets=TARGETS,
        networks=dict(networks),
        n_z_planes=N_Z_PLANES,
        scalings={"20": dict.fromkeys(["brightfield", *TARGETS], (2000.0, 500.0))},
        limits={"20": learn_limits([measure_quality(planes(seed)) for seed in (0, 1)])},
        runs=dict.fromkeys(NAMES, "none"),
        store_digest="none",
        commit="none",
        version=adipocyte.__version__,
        licences={"code": "MIT"},
        intensities="none",
        storage=storage,
    )
    random = np.random.default_rng(0)
    histograms = {
        name: np.bincount(random.poisson(3000, 100_000), minlength=N_COUNTS)
        for name in manifest.paintings
    }
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / name for name in manifest.names(TARGETS)}
        for name, path in folders.items():
            built_as = specs[name] if specs else spec(name)
            save_network(path, built_as, random_network(built_as))
        write_bundle(folder, manifest, folders, histograms)
    return folder


COMPACT = NetworkEntry(TARGETS, sees_mask=False)


def make_compact_bundle(folder: Path, network: NetworkEntry = COMPACT) -> Path:
    """A bundle in *folder* of one compact network for all stains, which is loaded in no time."""
    compact = UNetSpec(
        encoder="none", in_channels=N_Z_PLANES, out_channels=3, architecture="compact"
    )
    return make_bundle(folder, {network.name: compact}, networks={network.name: network})


def make_int8_bundle(folder: Path) -> Path:
    """A compact bundle in *folder* whose network knows its ranges on `planes()`."""
    with tempfile.TemporaryDirectory() as scratch:
        plain = make_compact_bundle(Path(scratch) / "plain")
        light = read_manifest(plain).scaling(20, BRIGHTFIELD).normalise(planes())
        network = load_network(plain / COMPACT.name)[1]
    ranges = measure_ranges(network, [light[:, :96, :64]])
    # The same weights again, because they come from the same seed.
    return make_compact_bundle(folder, replace(COMPACT, ranges=ranges))
