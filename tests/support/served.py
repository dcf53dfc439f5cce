"""A model of a bundle, and MLflow's real servers; for tests and benchmarks."""

import base64
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import requests
import uvicorn
from mlflow.pyfunc import scoring_server

from adipocyte.delivery.models.package import as_model, copy_code
from adipocyte.plate.tiff import encode_stack
from adipocyte.staining.stainer import Stainer
from tests.support import ROOT
from tests.support.plates import planes
from tests.support.processes import free_port, wait_for

# Of `mlflow server` and `mlflow ui`: it starts no processes for jobs, which each import MLflow.
UNSCHEDULED = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def make_model(folder: Path, bundle: Path, **changes: object) -> Path:
    """A *bundle* as `register` logs it, in *folder*; *changes* go to `mlflow.pyfunc.save_model`."""
    example = pd.DataFrame({"stack": [encode_stack(planes(0, (64, 64)))], "magnification": [20]})
    with tempfile.TemporaryDirectory() as scratch:
        model = as_model(bundle, example, copy_code(Path(scratch)))
        mlflow.pyfunc.save_model(folder, **model | changes)
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


@contextmanager
def served_here(
    model: Path, monkeypatch: pytest.MonkeyPatch, patience_s: int, request_mb: int | None = None
) -> Generator[Server]:
    """The server of `mlflow models serve` over *model*, in this process, while the block lasts."""
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", str(patience_s))
    if request_mb:
        monkeypatch.setenv("ADIPOCYTE_REQUEST_MB", str(request_mb))
    # MLflow and the model set these for good.
    monkeypatch.setenv("IS_IN_MLFLOW_SERVING_ENVIRONMENT", "true")
    wrapper = scoring_server._async_catch_mlflow_exception
    monkeypatch.setattr(scoring_server, "_async_catch_mlflow_exception", wrapper)
    app, port = scoring_server.init(mlflow.pyfunc.load_model(str(model))), free_port()
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield Server(f"http://127.0.0.1:{port}", os.getpid())
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def rows(*stacks: object, magnification: object = 20, **params: object) -> dict:
    """A request with a row for each of *stacks*, which are bytes, or what stands in their place."""
    texts = [
        base64.b64encode(stack).decode() if isinstance(stack, bytes) else stack for stack in stacks
    ]
    records = [{"stack": text, "magnification": magnification} for text in texts]
    return {"dataframe_records": records} | ({"params": params} if params else {})


class Watched:
    """Watches `Stainer.stain` of a loaded model: counts calls, also at once, and can hold them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n_calls, self.n_inside, self.most, self.may_end = 0, 0, 0, threading.Event()
        self.may_end.set()
        stainer = sys.modules["adipocyte.staining.stainer"].Stainer  # the code of the loaded model
        whole = stainer.stain

        def stain(stainer: Stainer, *args: object, **options: object) -> object:
            self.n_calls += 1
            self.n_inside += 1
            self.most = max(self.most, self.n_inside)
            try:
                self.may_end.wait()
                return whole(stainer, *args, **options)
            finally:
                self.n_inside -= 1

        monkeypatch.setattr(stainer, "stain", stain)
