"""A model of a bundle, and MLflow's real servers; for tests and benchmarks."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
import requests

from adipocyte.delivery.models.package import as_model
from adipocyte.plate.tiff import encode_stack
from tests.support import ROOT
from tests.support.plates import planes
from tests.support.processes import free_port, wait_for


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
def mlflow_server(
    arguments: Sequence[str],
    log: Path,
    environment: Mapping[str, str] = os.environ,
    *,
    health: str = "/ping",
) -> Generator[Server]:
    """`mlflow` with *arguments* on a free port of this machine, while the block lasts.

    It is ready once it answers at *health*. What it writes goes to *log*.
    """
    port = free_port()
    command = [sys.executable, "-m", "mlflow", *arguments]
    bin_folder = str(Path(sys.executable).parent)  # where uvicorn is
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT,
            env={**environment, "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]])},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: requests.get(url + health, timeout=5).ok, process=process, log=log)
        yield Server(url, process.pid)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


@contextmanager
def serve(model: Path | str, log: Path, *options: str, **environment: str) -> Generator[Server]:
    """`mlflow models serve` over *model*, with further *options* and *environment*."""
    arguments = ["models", "serve", "-m", str(model), "--env-manager", "local", *options]
    with mlflow_server(arguments, log, {**os.environ, **environment}) as server:
        yield server
