"""A model made on the spot, from networks that nobody trained, and the real server over it; for tests and benchmarks."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import requests
import torch

import adipocyte
from adipocyte.delivery.models.package import as_model
from adipocyte.domain import SEGMENTER, TARGETS
from adipocyte.imaging import limits, quality
from adipocyte.imaging.histograms import N_COUNTS
from adipocyte.networks.files import save_network
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.plate.tiff import encode_stack
from adipocyte.simulation import simulate_field
from adipocyte.staining.bundle import BundleManifest, names, write_bundle
from tests.support import ROOT

N_Z = 7
SMALLEST = "tu-mobilenetv3_small_050"  # the smallest encoder at hand: the networks, decoders and all, take 10 MB each


def planes(seed: int = 0, shape_px: tuple[int, int] = (96, 80)) -> np.ndarray:
    """A simulated field's brightfield at 20x, (Z, Y, X) in counts."""
    return simulate_field(20, shape_px, seed=seed).planes


def spec(name: str, encoder: str = SMALLEST, **options: str) -> UNetSpec:
    """The network *name*: a target's, or the segmenter."""
    return UNetSpec(encoder=encoder, in_channels=N_Z + (name == "A1"), **options)


def make_bundle(folder: Path, specs: Mapping[str, UNetSpec] | None = None) -> Path:
    """A bundle for 20x in *folder*, of random networks, by *specs* or small ones; its limits are those of `planes(0)` and `planes(1)`."""
    specs = specs or {name: spec(name) for name in names(TARGETS)}
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        networks = {}
        for name, built_as in specs.items():
            networks[name] = Path(scratch) / name
            save_network(networks[name], built_as, build_unet(built_as))
        manifest = BundleManifest(
            targets=TARGETS,
            n_z_planes=N_Z,
            scalings={
                "20": {"brightfield": (2594.0, 966.0)} | dict.fromkeys(TARGETS, (2000.0, 500.0))
            },
            limits={
                "20": limits.learn_limits(
                    [quality.measure_quality(planes(seed)) for seed in (0, 1)]
                )
            },
            runs=dict.fromkeys([SEGMENTER, *TARGETS], "none"),
            store_digest="none",
            commit="none",
            version=adipocyte.__version__,
            licences={"code": "MIT"},
            intensities="none",
        )
        random = np.random.default_rng(0)
        histograms = {
            f"20/{target}": np.bincount(random.poisson(3000, 100_000), minlength=N_COUNTS)
            for target in TARGETS
        }
        write_bundle(folder, manifest, networks, histograms)
    return folder


def make_model(folder: Path, bundle: Path, **changes: object) -> Path:
    """A *bundle* as `register` logs it, in *folder*; *changes* go to `mlflow.pyfunc.save_model`."""
    example = pd.DataFrame({"stack": [encode_stack(planes(0, (64, 64)))], "magnification": [20]})
    mlflow.pyfunc.save_model(folder, **as_model(bundle, example) | changes)
    return folder


@dataclass(frozen=True)
class Server:
    """A running server: its address and its first process."""

    url: str
    pid: int


@contextmanager
def serve(model: Path | str, log: Path, *options: str, **environment: str) -> Iterator[Server]:
    """`mlflow models serve`, real, on a free port of this machine, with further *options* and *environment*. What it says goes to *log*."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        str(model),
        "--env-manager",
        "local",
        "--port",
        str(port),
        *options,
    ]
    path = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ["PATH"]]
    )  # where uvicorn is
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PATH": path, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process, log)
        yield Server(url, process.pid)
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text()}")
        try:
            if requests.get(f"{url}/ping", timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.3)
    raise RuntimeError(f"no answer from {url}: {log.read_text()}")
