"""The folder of a store: one preparation at a time, replaced whole, never over something else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adipocyte.errors import StoreError
from tests.support.stores import Killed, contents, kill, prepared

# Not in this process: its own locks do not keep it out.
HOLD = """
import sys
from pathlib import Path
from adipocyte.system.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_preparations_of_one_store_do_not_get_in_each_others_way(wide_plate, tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".store.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(
            StoreError,
            match=r"another preprocess is at work on .*store: wait for it, or name another",
        ):
            prepared(wide_plate, tmp_path / "store")
    assert prepared(wide_plate, tmp_path / "store").folder == tmp_path / "store"


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_preparation_killed_while_the_stores_are_swapped_is_finished_without_any_work(
    plate, tmp_path, monkeypatch, moment
):
    folder = tmp_path / "store"
    prepared(plate, folder, mask_threshold=3.0)
    n_steps = 1 + ["before", "between", "after"].index(moment)
    steps = [Path.rename, Path.rename, shutil.rmtree][:n_steps]

    def counted(step):
        def act(path, *args, **kwargs):
            if steps == [step]:
                raise Killed
            if steps and step is steps[0] and path.name != "records":
                steps.pop(0)
            return step(path, *args, **kwargs)

        return act

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        with pytest.raises(Killed):
            prepared(plate, folder)
    monkeypatch.setattr("adipocyte.preparation.prepare.prepare_field", kill)
    assert prepared(plate, folder).manifest.origin.settings["mask_threshold"] == 2.0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".store.lock") == [
        "plate",
        "store",
    ]


def test_a_preparation_continues_an_interrupted_one(plate, tmp_path):
    (tmp_path / "store.partial" / "20x.zarr").mkdir(parents=True)
    (tmp_path / "store.old.partial").mkdir()
    prepared(plate, tmp_path / "store")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".store.lock") == [
        "plate",
        "store",
    ]


@pytest.mark.parametrize(
    "names",
    [["notes.txt"], ["manifest.json"], ["manifest.json", "histograms.safetensors", "index.html"]],
    ids=str,
)
def test_a_folder_of_something_else_is_refused_and_left_alone(plate, tmp_path, names):
    folder = tmp_path / "store"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{}")
    before = contents(folder)
    with pytest.raises(
        StoreError,
        match=r"is no prepared store: name another folder with -P store=<folder>",
    ):
        prepared(plate, folder)
    assert contents(folder) == before


def test_a_file_in_the_stores_place_is_refused_and_left_alone(plate, tmp_path):
    (tmp_path / "store").write_text("notes")
    with pytest.raises(StoreError, match="no prepared store: name another folder"):
        prepared(plate, tmp_path / "store")
    assert (tmp_path / "store").read_text() == "notes"


def test_a_store_that_is_a_link_stays_one(plate, tmp_path):
    (tmp_path / "disk" / "store").mkdir(parents=True)
    (tmp_path / "store").symlink_to(tmp_path / "disk" / "store")
    for threshold in (2.0, 3.0, 2.5):
        store = prepared(plate, tmp_path / "store", mask_threshold=threshold)
        assert store.manifest.origin.settings["mask_threshold"] == threshold
    assert (tmp_path / "store").is_symlink()
