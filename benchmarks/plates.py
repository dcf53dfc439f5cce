"""How staining grows with fields and workers.

    python -m benchmarks.plates [--check]        # 10 to 22 minutes on two cores

Fields of 512 x 512 pixels through random ResNet-18 networks, one thread for each worker. `here`
paints in one process, `one_worker` and `two_workers` on Ray nodes of this machine, of one core
each. Each reading is from a process of its own, from the plate's first outcome to its last, so
start-up is excluded; the best of two by turns counts, because the machine has other guests.
`growth` is the cost of a further field (the difference of two plates over that of their fields)
and must not depend on how many there are already. Two workers must do nearly twice the work of
one.
"""

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import parser, report

os.environ |= {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
from typing import cast

import torch
from ray.cluster_utils import Cluster

from adipocyte.config import Precision, StainConfig
from adipocyte.delivery.batch.cluster import joined
from adipocyte.delivery.batch.painter import Assignment, FieldOutcome
from adipocyte.delivery.batch.plate import Crew, Here, stain_plate
from adipocyte.plate.fields import FieldFiles
from tests.support.bundles import make_bundle, unet_specs
from tests.support.plates import write_plate
from tests.support.served import make_model

N_FIELDS = (8, 32, 128)
SHAPE_PX = (512, 512)
TURNS = 2
AT_MOST = {
    # The cost of a field between 32 and 128 fields, over that between 8 and 32.
    "here.growth": 1.10,
    "two_workers.growth": 1.10,
    "here.memory_growth": 1.05,  # peak of this side's process at 128 fields, over that at 8
    "two_workers.memory_growth": 1.05,
}
AT_LEAST = {"here.growth": 0.9, "two_workers.growth": 0.9, "two_workers.efficiency": 0.9}


class Timed:
    """A crew with a watch: when each record came."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self.n_workers = crew.n_workers
        self.times: list[float] = []
        self.painting_s = 0.0

    def fastest(self) -> str:
        return self._crew.fastest()

    def has_compiler(self) -> bool:
        return self._crew.has_compiler()

    def paint(self, assignment: Assignment, fields: Sequence[FieldFiles]) -> Iterator[FieldOutcome]:
        for record in self._crew.paint(assignment, fields):
            self.times.append(time.perf_counter())
            self.painting_s += record.seconds
            yield record


def paint(plate: str, model: str, address: str, n_workers: int) -> dict[str, float]:
    """One plate, here or by *n_workers* of the cluster at *address*."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out, crew_at(address) as crew:
        crew.n_workers = n_workers
        timed = Timed(crew)
        stain_plate(
            StainConfig(
                plate=Path(plate),
                model=model,
                out=out,
                precision=cast(Precision, os.environ["PRECISION"]),
                compile="false",
            ),
            timed,
        )
    return {
        "plate_s": timed.times[-1] - timed.times[0],
        "painter_s": timed.painting_s / len(timed.times),
        "first_record_s": timed.times[0] - start,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


@contextmanager
def crew_at(address: str) -> Generator[Crew]:
    """This process, or the workers of the cluster at *address*, of one core each."""
    if not address:
        yield Here()
        return
    with joined(address, 1) as crew:
        yield crew


def measure(folder: Path) -> dict[str, float]:
    """All figures, by "way.figure"."""
    model = str(make_model(folder / "model", make_bundle(folder / "bundle", unet_specs())))
    plates = {
        n: str(write_plate(folder / f"plate{n}", range(1, n + 1), SHAPE_PX)) for n in N_FIELDS
    }
    figures: dict[str, float] = {}
    with ProcessPoolExecutor(
        2, multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:

        def turn(way: str, address: str = "", n_workers: int = 1) -> None:
            for n in N_FIELDS:
                for name, value in (
                    pool.submit(paint, plates[n], model, address, n_workers).result().items()
                ):
                    figures[f"{way}.{name}_{n}"] = min(
                        value, figures.get(f"{way}.{name}_{n}", value)
                    )

        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            for _ in range(2):
                nodes.add_node(num_cpus=1)
            nodes.wait_for_nodes()
            for _ in range(TURNS):
                turn("here")
                turn("one_worker", nodes.address, 1)
                turn("two_workers", nodes.address, 2)
        finally:
            nodes.shutdown()
        pair = [pool.submit(paint, plates[32], model, "", 1) for _ in range(2)]
        figures["side_by_side.plate_s_32"] = (
            sum(process.result()["plate_s"] for process in pair) / 2
        )
    for way in ("here", "one_worker", "two_workers"):
        few, some, many = (figures[f"{way}.plate_s_{n}"] for n in N_FIELDS)
        figures[f"{way}.field_s"] = (many - some) / (N_FIELDS[2] - N_FIELDS[1])
        figures[f"{way}.growth"] = figures[f"{way}.field_s"] / (
            (some - few) / (N_FIELDS[1] - N_FIELDS[0])
        )
        figures[f"{way}.memory_growth"] = (
            figures[f"{way}.peak_mb_{N_FIELDS[2]}"] / figures[f"{way}.peak_mb_{N_FIELDS[0]}"]
        )
    figures["two_workers.efficiency"] = figures["one_worker.field_s"] / (
        2 * figures["two_workers.field_s"]
    )
    figures["side_by_side.efficiency"] = (
        figures["here.plate_s_32"] / figures["side_by_side.plate_s_32"]
    )
    return figures


def main() -> int:
    """Print the figures; with --check, compare them with what is required."""
    check = parser(__doc__).parse_args().check
    # Chosen once: a process that is measured while another one paints may choose otherwise.
    os.environ["PRECISION"] = Here().fastest()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder))
    about = {"torch": torch.__version__, "precision": os.environ["PRECISION"]}
    return report(measured, check, at_most=AT_MOST, at_least=AT_LEAST, **about)


if __name__ == "__main__":
    sys.exit(main())
