"""A Ray cluster paints and measures what one machine does, each field once, whatever dies."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from click.testing import CliRunner
from ray.cluster_utils import Cluster as RealCluster

from adipocyte.config import StainConfig
from adipocyte.delivery.batch.cluster import absolute_uri, begin_staining, joined
from adipocyte.delivery.batch.measuring import begin_measuring, measuring_at
from adipocyte.delivery.batch.output import Output
from adipocyte.delivery.batch.painter import FAILED, PAINTED, Assignment
from adipocyte.delivery.batch.plate import Here, PlateManifest, stain_plate
from adipocyte.delivery.batch.workers import Share
from adipocyte.delivery.models.load import load_manifest
from adipocyte.domain import FieldKey
from adipocyte.errors import ConfigError, OutputError, PlateError, RunError
from adipocyte.measuring.plate import StainedField, Task, here, measure_plate
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.scan import scan_plate
from entrypoints.measure import measure
from entrypoints.stain import stain
from tests.support import ROOT, drawn
from tests.support.plates import images, plane, write_plate
from tests.support.processes import wait_for
from tests.support.tracking import tracked_at

N_FIELDS = 12
AT_WORK = "ray::_Worker.work"  # Ray's name of the process of a worker that has a field in hand


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plate(tmp_path_factory.mktemp("raw") / "plate", range(1, N_FIELDS + 1))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """As many threads as the workers have."""
    n_threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def expected(
    plate: Path, compact_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What this process paints on as many threads as the workers have.

    Sums in float32 depend on how threads share them.
    """
    out = tmp_path_factory.mktemp("here")
    with one_thread():
        stain_plate(config(plate, compact_model, out, precision="32", intensities="none"), Here())
    return images(out)


@pytest.fixture(scope="module")
def nodes() -> Iterator[RealCluster]:
    """A cluster of a head, which paints nothing, and one node of one core; tests add others."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray's workers would give way to all others, and beside busy tests get no time for minutes.
    head = {"num_cpus": 0, "_system_config": {"worker_niceness": 0}}
    started = RealCluster(initialize_head=True, head_node_args=head)
    started.add_node(num_cpus=1)
    started.wait_for_nodes()
    yield started
    ray.shutdown()
    started.shutdown()


def config(plate: Path, model: Path, out: Path, **settings: Any) -> StainConfig:
    return StainConfig(plate=plate, model=str(model), out=str(out), **settings)


def assignment(plate: Path, model: Path | str, out: Path) -> Assignment:
    """For a plate that has been claimed."""
    out.mkdir(exist_ok=True)
    (out / "stained.json").write_text('{"claim": "ours"}')
    return Assignment(
        str(model), str(plate), str(out), "ours", "none", None, False, "32", False, 1000.0
    )


def entries(out: Path) -> dict[str, Any]:
    return json.loads((out / "manifest.json").read_text())["fields"]


def raylet_of(node: Any) -> psutil.Process:
    """The process of a node that starts its workers."""
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def at_work(nodes: RealCluster) -> list[psutil.Process]:
    """The processes of *nodes*, not of another cluster here, that have a field in hand."""
    found = []
    for process in [child for node in nodes.worker_nodes for child in raylet_of(node).children()]:
        with contextlib.suppress(psutil.Error):
            found += [process] if AT_WORK in " ".join(process.cmdline()) else []
    return found


def n_alive() -> int:
    """The nodes that paint and are alive."""
    return sum(node["Alive"] for node in ray.nodes() if node["Resources"].get("CPU"))


def stopped_at_work(nodes: RealCluster, passed: Sequence[int] = ()) -> psutil.Process | None:
    """A process that has a field in hand, stopped with it; none of those that were *passed*."""
    for process in at_work(nodes):
        with contextlib.suppress(psutil.Error):
            if process.pid in passed:
                continue
            process.suspend()
            wait_for(lambda process=process: process.status() == psutil.STATUS_STOPPED)
            if AT_WORK in " ".join(process.cmdline()):
                return process
            process.resume()
    return None


def test_a_node_dies_and_every_field_is_painted_once_and_as_here(
    nodes, compact_model, expected, tmp_path
):
    """A worker is stopped with a field in hand, and its node is killed."""
    plate = write_plate(tmp_path / "plate", range(1, N_FIELDS + 1))
    fields = scan_plate(plate, ()).fields
    nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()

    def kill_a_node_at_work() -> None:
        stuck = wait_for(lambda: stopped_at_work(nodes))
        [its_node] = [node for node in nodes.worker_nodes if raylet_of(node).pid == stuck.ppid()]
        nodes.remove_node(its_node, allow_graceful=False)
        with contextlib.suppress(psutil.Error):
            stuck.kill()

    with joined(nodes.address, 1) as crew, ThreadPoolExecutor(1) as killer:
        assert crew.n_workers == 2
        killing = killer.submit(kill_a_node_at_work)
        manifest = PlateManifest(Output(str(tmp_path / "out")), "ours", {}, ())
        records = list(
            manifest.kept(crew.paint(assignment(plate, compact_model, tmp_path / "out"), fields))
        )
        killing.result()
        wait_for(lambda: n_alive() == 1)
    assert sorted(record.key for record in records) == [field.key for field in fields]
    assert {record.status for record in records} == {PAINTED}
    assert images(tmp_path / "out") == expected
    assert [entry["status"] for entry in entries(tmp_path / "out").values()] == [PAINTED] * N_FIELDS


def test_the_command_paints_on_a_cluster_and_resumes_after_a_kill(
    nodes, compact_model, expected, tmp_path
):
    """One field is bad and is recorded. The plate is another copy of the same fields."""
    plate = write_plate(tmp_path / "plate", range(1, N_FIELDS + 1))
    good = plane(plate, 5, 4).read_bytes()
    plane(plate, 5, 4).write_bytes(b"no TIFF")
    settings = {
        "plate": plate,
        "model": compact_model,
        "out": tmp_path / "out",
        "precision": "32",
        "intensities": "none",
        "cluster": nodes.address,
        "worker_cpus": 1,
    }
    arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "entrypoints.stain", *arguments]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with (tmp_path / "log").open("w") as log:
        painting = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log)
    with painting:
        wait_for(lambda: images(tmp_path / "out"), process=painting, log=tmp_path / "log")
        painting.send_signal(signal.SIGKILL)
    assert images(tmp_path / "out")

    result = CliRunner().invoke(stain, arguments, env=environment)
    assert result.exit_code == 2, result.output
    assert "20x B03 F005" in result.stderr
    told = entries(tmp_path / "out")
    assert {key for key, entry in told.items() if entry["status"] == FAILED} == {"20x B03 F005"}

    plane(plate, 5, 4).write_bytes(good)
    plane(plate, 7, 3).write_bytes(plane(plate, 8, 3).read_bytes())  # as if imaged again
    result = CliRunner().invoke(stain, arguments, env=environment)
    assert result.exit_code == 0, result.output
    assert "The files of field 20x B03 F007 have changed since it was painted" in result.stdout
    assert (
        f"2 fields painted into {tmp_path}/out, {N_FIELDS - 2} were there already" in result.stdout
    )
    differs = {name for name, data in images(tmp_path / "out").items() if data != expected[name]}
    assert images(tmp_path / "out").keys() == expected.keys()
    assert {name.partition("F007")[1] for name in differs} == {"F007"}


def kill_at_work(nodes: RealCluster, times: int) -> None:
    """Kill so many workers that have a field in hand, as the kernel kills for memory."""
    killed: list[int] = []
    while len(killed) < times:
        stuck = wait_for(lambda: stopped_at_work(nodes, killed))
        killed.append(stuck.pid)
        stuck.kill()


def test_workers_write_ome_zarr_as_this_machine_does(nodes, compact_model, tmp_path):
    plate = write_plate(tmp_path / "plate", (1, 2))
    settings = {"format": "ome-zarr", "precision": "32", "intensities": "none"}
    with one_thread():
        stain_plate(config(plate, compact_model, tmp_path / "here", **settings), Here())
    with joined(nodes.address, 1) as crew:
        stain_plate(config(plate, compact_model, tmp_path / "there", **settings), crew)
    here_and_there = [
        {
            path.relative_to(folder): path.read_bytes()
            for path in (folder / "20x.zarr").rglob("*")
            if path.is_file()
        }
        for folder in (tmp_path / "here", tmp_path / "there")
    ]
    assert len(here_and_there[0]) == 3 + 2 * 5  # plate, row, well; three chunks and two heads
    assert here_and_there[0] == here_and_there[1]


def test_a_field_that_kills_its_worker_is_tried_thrice_and_recorded(nodes, compact_model, tmp_path):
    plate = write_plate(tmp_path / "plate", (1,), (1024, 1024))
    fields = scan_plate(plate, ()).fields
    with joined(nodes.address, 1) as crew, ThreadPoolExecutor(1) as killer:
        killing = killer.submit(kill_at_work, nodes, 3)
        [record] = crew.paint(assignment(plate, compact_model, tmp_path / "out"), fields)
        killing.result()
    assert (record.key, record.status) == (fields[0].key, FAILED)
    assert record.problem.found == "its worker died, 3 times"


def test_what_keeps_all_fields_from_being_painted_ends_the_command_at_once(
    nodes, plate, compact_model, tmp_path
):
    fields = scan_plate(plate, ()).fields
    claimed = assignment(plate, compact_model, tmp_path / "out")
    with tracked_at(f"sqlite:///{tmp_path}/mlflow.db"), joined(nodes.address, 0) as crew:
        # The command reads its model's manifest before any worker does. Two workers that are first
        # would both make MLflow's tables.
        with pytest.raises(RunError):
            load_manifest("models:/nobody/1")
        with pytest.raises(
            RunError, match=r"a worker on .* gives up: .*no registered model at models:/nobody/1"
        ):
            list(crew.paint(replace(claimed, model="models:/nobody/1"), fields))
        with pytest.raises(
            RunError,
            match="memory://stained on this node is not the folder that it is where the command",
        ):
            list(crew.paint(replace(claimed, out="memory://stained"), fields))


def test_a_node_that_does_not_see_the_plate_or_its_images_refuses(plate, compact_model, tmp_path):
    claimed = assignment(plate, compact_model, tmp_path / "out")
    assert begin_staining(vars(claimed), Share(1, None))
    elsewhere = replace(claimed, plate=str(tmp_path / "mine"))
    with pytest.raises(
        PlateError,
        match=r"no .*/mine on this node: the plate must lie on a disk that all nodes share",
    ):
        begin_staining(vars(elsewhere), Share(1, None))
    # What another plate left there by the same path.
    with pytest.raises(OutputError, match="out on this node is not the folder"):
        begin_staining(vars(replace(claimed, claim="theirs")), Share(1, None))


def drawn_plate(folder: Path, fovs: Sequence[int]) -> Path:
    """Stained fields at 20x, which do not tell the magnification by their folder."""
    for fov in fovs:
        image = RawField(np.empty((0, 0, 0), np.uint16), drawn.drawn_field(drawn.NUCLEI, 380 + fov))
        write_field(folder, FieldKey(20, "B03", fov), image)
    return folder


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def test_the_command_measures_on_a_cluster_what_it_measures_here(nodes, tmp_path, monkeypatch):
    """A worker is killed, a field is damaged, and the folders are given as seen from here."""
    stained = drawn_plate(tmp_path / "stained", range(1, 6))
    monkeypatch.chdir(tmp_path)
    arguments = ["--images", "stained", "--labels", "true", "--cluster", nodes.address]
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    damaged = next(stained.glob("20x_images/*F002*C02.tif"))
    good = damaged.read_bytes()
    damaged.write_bytes(b"no TIFF")
    with ThreadPoolExecutor(1) as killer:
        killing = killer.submit(kill_at_work, nodes, 1)
        result = CliRunner().invoke(measure, [*arguments, "--out", "theirs"], env=environment)
        killing.result()
    assert result.exit_code == 0, result.output
    assert "20x B03 F002" in result.stdout.partition("Left out:")[2]
    assert "in 4 fields, 4 measured now" in result.stdout

    damaged.write_bytes(good)
    result = CliRunner().invoke(measure, [*arguments, "--out", "theirs"], env=environment)
    assert "in 5 fields, 1 measured now" in result.stdout, result.output
    settings = {"magnification": 0, "labels": True, "csv": False, "plate_map": None}
    measure_plate(stained, Path("ours"), **settings, crew=here(0))
    assert tables(Path("theirs")) == tables(Path("ours"))
    assert len(tables(Path("ours"))) == 5
    assert images(Path("theirs")) == images(Path("ours"))


def test_what_keeps_a_field_or_all_of_them_from_being_measured_is_told(nodes, tmp_path):
    stained = drawn_plate(tmp_path / "stained", [1])
    settings = {"magnification": 0, "labels": False, "csv": False, "plate_map": None}
    elsewhere = StainedField(FieldKey(20, "B03", 1), "plate", {"A1": tmp_path / "mine.tif"})
    with measuring_at(nodes.address, 1) as crew, ThreadPoolExecutor(1) as killer:
        with pytest.raises(RunError, match=r"gives up: there is no .*mine.tif on this node"):
            list(crew([Task(elsewhere, tmp_path / "out", False, "")]))
        killing = killer.submit(kill_at_work, nodes, 3)
        with pytest.raises(PlateError, match="20x B03 F001  its worker died, 3 times"):
            measure_plate(stained, tmp_path / "out", **settings, crew=crew)
        killing.result()


def test_a_node_that_does_not_see_the_folder_of_the_tables_refuses(tmp_path):
    [image] = drawn_plate(tmp_path / "stained", [1]).glob("20x_images/*C01.tif")
    own = {"image": str(image), "out": str(tmp_path / "out"), "claim": "ours"}
    (tmp_path / "out" / "fields").mkdir(parents=True)
    (tmp_path / "out" / "fields" / "cluster").write_text("ours")
    assert begin_measuring(own, Share(1, None))
    for other in ({"claim": "theirs"}, {"out": str(tmp_path)}):
        with pytest.raises(OutputError, match="on this node is not the folder that it is where"):
            begin_measuring(own | other, Share(1, None))


def test_more_cores_than_any_node_has_are_refused(nodes):
    with (
        pytest.raises(
            ConfigError, match=r"the cluster's nodes have \[1\] cores, none of them 64 for a worker"
        ),
        joined(nodes.address, 64),
    ):
        pass


def test_a_cluster_that_does_not_answer_is_named():
    with (
        pytest.raises(
            RunError, match=r"no Ray cluster can be joined at 127.0.0.1:1 .*ray start --head"
        ),
        joined("127.0.0.1:1", 1),
    ):
        pass


def test_without_ray_its_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ConfigError, match=r'pip install "adipocyte\[cluster\]"'),
        joined("127.0.0.1:1", 1),
    ):
        pass


def test_databases_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert absolute_uri("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"
    assert absolute_uri("mlruns") == str(tmp_path / "mlruns")
    assert absolute_uri("http://mlflow:5000") == "http://mlflow:5000"
