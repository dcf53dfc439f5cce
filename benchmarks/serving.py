"""The served model: under load, what a request costs beside the networks, how fast it loads.

python -m benchmarks.serving [--check]

Everything goes through the real `mlflow models serve` on loopback, with models of random
networks; the temporary folder needs about 3 GB.

- load: 8 clients send 300 requests of 512 x 512 pixels to a model of the fast recipe, one in ten
  of them malformed in one of seven ways. Memory is the resident memory of the server and its
  children, read every half second. The first 60 requests warm it up; `load.memory_growth`
  compares the median over the last third of the rest with that over the first third.
- overhead: a full field of 7 x 2154 x 2554 counts, from arrays to arrays, less the time that the
  served process spends in its networks during that request (small ones: their output is as
  large). The fastest of three. Beside it the same stack as JSON numbers: a nested list under
  `inputs`, which a model of another signature takes and answers with three planes, without any
  network.
- report: how long a new process takes to load a model of the report's four ResNet-152 networks,
  whose files were read before.
"""

import base64
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import psutil
import requests
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from adipocyte.client import StainClient
from adipocyte.config import GeneratorConfig, SegmenterConfig, build
from adipocyte.domain import N_Z_PLANES, SEGMENTER, TARGETS
from adipocyte.networks.unet import UNetSpec
from adipocyte.plate.tiff import encode_stack
from adipocyte.training.generator import generator_spec
from benchmarks.report import parser, report
from tests.support.bundles import make_bundle
from tests.support.plates import planes
from tests.support.served import Server, make_model, serve

AT_MOST = {
    "load.failures": 0,
    "load.malformed_unrefused": 0,
    "load.memory_growth": 0.05,
    "overhead.stack_s": 1.5,
    "report.load_s": 15,
}
CLIENTS, N_REQUESTS, N_WARM = 8, 300, 60
SIDE_PX, FULL_PX = 512, (2154, 2554)
HERE = Path(__file__).parent
TIMEOUT = ("--timeout", "1200")


def specs(recipe: str) -> dict[str, UNetSpec]:
    """The networks of a *recipe*."""
    segmenter = build(SegmenterConfig, {"recipe": recipe})
    generators = {
        target: generator_spec(
            build(GeneratorConfig, {"recipe": recipe, "target": target}), N_Z_PLANES
        )
        for target in TARGETS
    }
    return {
        SEGMENTER: UNetSpec(
            encoder=segmenter.encoder, in_channels=N_Z_PLANES, architecture=segmenter.architecture
        )
    } | generators


def row(stack: bytes, magnification: object = 20) -> dict[str, object]:
    """One row of a request."""
    return {"stack": base64.b64encode(stack).decode(), "magnification": magnification}


def malformed(stack: bytes) -> list[tuple[bytes, str]]:
    """Requests that cannot be answered, and what the refusal must say."""
    bodies: list[tuple[dict[str, object], str]] = [
        (
            {"dataframe_records": [row(stack[: len(stack) // 2])]},
            "if the file should have more, it is cut short",
        ),
        (
            {"dataframe_records": [row(b"no TIFF at all")]},
            "row 0: the stack cannot be read as TIFF",
        ),
        (
            {"dataframe_records": [row(stack), row(encode_stack(planes(0, (64, 64))[:6]))]},
            "row 1: the stack has 6 of 7 pages",
        ),
        ({"dataframe_records": [row(stack, 60)]}, "row 0: the model has not seen 60x"),
        ({"dataframe_records": [{"stak": "", "magnification": 20}]}, "row 0: the row has no stack"),
        (
            {"dataframe_records": [row(stack)], "params": {"tile": 128}},
            "there is no parameter ['tile']",
        ),
    ]
    return [(json.dumps(body).encode(), sentence) for body, sentence in bodies] + [
        (b'{"dataframe_records": [', "the body is no JSON")
    ]


def post(session: requests.Session, server: Server, body: bytes) -> requests.Response:
    """One request over a connection that is kept."""
    return session.post(
        f"{server.url}/invocations",
        data=body,
        headers={"Content-Type": "application/json"},
        timeout=1200,
    )


def resident_mb(server: Server) -> float:
    """Resident memory of a server and all its children."""
    first = psutil.Process(server.pid)
    return (
        sum(process.memory_info().rss for process in [first, *first.children(recursive=True)]) / 1e6
    )


class Memory(threading.Thread):
    """Reads a server's memory every half second, with the number of answers there were by then."""

    def __init__(self, server: Server, n_answered: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._server, self._n_answered, self._over = server, n_answered, threading.Event()
        self.readings: list[tuple[int, float]] = []

    def run(self) -> None:
        """Read until `stop`."""
        while not self._over.wait(0.5):
            self.readings.append((self._n_answered(), resident_mb(self._server)))

    def stop(self) -> None:
        """End the reading."""
        self._over.set()
        self.join()

    @property
    def most_mb(self) -> float:
        """The highest reading."""
        return max(mb for _, mb in self.readings)

    def median_mb(self, first: int, last: int) -> float:
        """The median while the answers from *first* to *last* came."""
        return float(np.median([mb for n, mb in self.readings if first <= n < last]))


def measure_load(folder: Path) -> dict[str, float]:
    """Answers, refusals, times and memory under load."""
    model = make_model(folder / "fast", make_bundle(folder / "fast_bundle", specs("fast")))
    stack = encode_stack(planes(0, (SIDE_PX, SIDE_PX)))
    good, bad = json.dumps({"dataframe_records": [row(stack)]}).encode(), malformed(stack)
    asked = [(good, "")] * (N_REQUESTS - N_REQUESTS // 10) + [
        bad[number % len(bad)] for number in range(N_REQUESTS // 10)
    ]
    random.Random(0).shuffle(asked)
    times: list[float] = []
    counts = {"answered": 0, "failures": 0, "malformed_unrefused": 0}
    lock, sessions = threading.Lock(), threading.local()

    with serve(model, folder / "log", *TIMEOUT) as server:

        def ask(body: bytes, sentence: str) -> None:
            sessions.session = getattr(sessions, "session", None) or requests.Session()
            start = time.perf_counter()
            answer = post(sessions.session, server, body)
            took_s = time.perf_counter() - start
            with lock:
                counts["answered"] += 1
                if sentence:
                    counts["malformed_unrefused"] += not (
                        400 <= answer.status_code < 500 and sentence in answer.json()["message"]
                    )
                else:
                    times.append(took_s)
                    counts["failures"] += not (
                        answer.ok and set(TARGETS) <= answer.json()["predictions"][0].keys()
                    )

        memory = Memory(server, lambda: counts["answered"])
        memory.start()
        start = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as clients:
            for done in [clients.submit(ask, *request) for request in asked]:
                done.result()
        took_s = time.perf_counter() - start
        memory.stop()
    third = (N_REQUESTS - N_WARM) // 3
    warm_mb, end_mb = (
        memory.median_mb(N_WARM, N_WARM + third),
        memory.median_mb(N_REQUESTS - third, N_REQUESTS),
    )
    return {
        "load.failures": counts["failures"],
        "load.malformed_unrefused": counts["malformed_unrefused"],
        "load.p50_s": float(np.percentile(times, 50)),
        "load.p99_s": float(np.percentile(times, 99)),
        "load.fields_per_s": len(times) / took_s,
        "load.memory_warm_mb": warm_mb,
        "load.memory_end_mb": end_mb,
        "load.memory_growth": end_mb / warm_mb - 1,
    }


def measure_overhead(folder: Path) -> dict[str, float]:
    """A full field as TIFF, and as JSON numbers."""
    side_px = 512
    field = planes(0, (side_px, side_px))
    mirrored = np.pad(field, [(0, 0), *((0, side - side_px) for side in FULL_PX)], mode="symmetric")
    stack = np.clip(
        mirrored + np.random.default_rng(0).normal(0, 8, mirrored.shape), 0, 65535
    ).astype(np.uint16)
    return measure_stack(folder, stack) | measure_numbers(folder, stack)


def measure_stack(folder: Path, stack: np.ndarray) -> dict[str, float]:
    """From arrays to arrays through the client, less the networks."""
    model = make_model(
        folder / "timed",
        make_bundle(folder / "small_bundle"),
        python_model=str(HERE / "timed_model.py"),
    )
    found = []
    with serve(model, folder / "log", *TIMEOUT) as server:
        client = StainClient(server.url, timeout_s=1200)
        for _ in range(4):  # the first is never like the others
            start = time.perf_counter()
            client.stain(stack, 20)
            whole_s = time.perf_counter() - start
            told = [
                line
                for line in (folder / "log").read_text().splitlines()
                if line.startswith("networks_s ")
            ]
            found.append((whole_s - float(told[-1].split()[1]), whole_s))
    overhead_s, whole_s = min(found[1:])
    return {
        "overhead.stack_s": overhead_s,
        "overhead.stack_with_networks_s": whole_s,
        "overhead.stack_mb": encoded_mb(stack),
    }


def encoded_mb(stack: np.ndarray) -> float:
    """Size of the request, in MB."""
    return len(base64.b64encode(encode_stack(stack))) / 1e6


def measure_numbers(folder: Path, stack: np.ndarray) -> dict[str, float]:
    """The same stack as numbers, to a model that does nothing."""
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint16), (-1, *stack.shape[:1], -1, -1))])
    )
    mlflow.pyfunc.save_model(
        folder / "numbers",
        python_model=str(HERE / "numbers_model.py"),
        signature=signature,
        pip_requirements=[],
    )
    with serve(folder / "numbers", folder / "log", *TIMEOUT) as server:
        memory = Memory(server, lambda: 0)
        memory.start()
        start = time.perf_counter()
        body = json.dumps({"inputs": stack[None].tolist()}).encode()
        answer = post(requests.Session(), server, body)
        answer.raise_for_status()
        painted = np.array(answer.json()["predictions"], dtype=np.uint16)
        took_s = time.perf_counter() - start
        memory.stop()
    if not (painted[0] == stack[:3]).all():
        raise RuntimeError("the numbers came back as others")
    return {
        "overhead.numbers_s": took_s,
        "overhead.numbers_mb": len(body) / 1e6,
        "overhead.numbers_memory_mb": memory.most_mb,
    }


def measure_report(folder: Path) -> dict[str, float]:
    """Load a model with the report's networks in a new process; start a server until it answers."""
    model = make_model(folder / "report", make_bundle(folder / "report_bundle", specs("report")))
    code = (
        "import time, mlflow, sys\nt = time.perf_counter()\n"
        "mlflow.pyfunc.load_model(sys.argv[1])\nprint(time.perf_counter() - t)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code, str(model)],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    start = time.perf_counter()
    with serve(model, folder / "log"):
        start_s = time.perf_counter() - start
    size_mb = sum(path.stat().st_size for path in model.rglob("*.safetensors")) / 1e6
    return {
        "report.load_s": float(loaded.stdout.split()[-1]),
        "report.server_start_s": start_s,
        "report.bundle_mb": size_mb,
    }


def main() -> int:
    """Print the figures; with --check, compare them with what is required."""
    check = parser(__doc__).parse_args().check
    measured = {}
    for measure in (measure_report, measure_overhead, measure_load):
        with tempfile.TemporaryDirectory() as folder:
            measured |= measure(Path(folder))
    return report(measured, check, at_most=AT_MOST, clients=CLIENTS, requests=N_REQUESTS)


if __name__ == "__main__":
    sys.exit(main())
