"""Plates of several time points: each is a field of its own, in every name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from adipocyte.domain import TARGETS, FieldKey
from adipocyte.evaluation.pairs import pair
from adipocyte.measuring.plate import WELLS, here, measure_plate
from adipocyte.plate.fields import RawField, read_field, stained_name, write_field
from adipocyte.plate.names import parse_name
from adipocyte.plate.scan import scan_plate
from adipocyte.plate.stains import middle_plane
from adipocyte.plate.tiff import write_image
from adipocyte.simulation import simulate_field
from adipocyte.store.reader import Store
from tests.support import drawn
from tests.support.layouts import WRITERS
from tests.support.plates import SHAPE_PX
from tests.support.stores import prepared

WHERE = ("B03", "B04", "C02")
NO_PLANES = np.empty((0, 0, 0), np.uint16)


def fields_at(time: int) -> dict[FieldKey, RawField]:
    """A field of each well as it is at a *time*."""
    made = (simulate_field(20, SHAPE_PX, seed=10 * time + i) for i in range(len(WHERE)))
    return {
        FieldKey(20, well, 1, time): RawField(field.planes, field.targets)
        for well, field in zip(WHERE, made, strict=True)
    }


FIELDS = fields_at(1) | fields_at(2)


def write_challenge(folder: Path, fields: dict[FieldKey, RawField]) -> Path:
    for key, field in fields.items():
        write_field(folder, key, field)
    return folder


def write_imagexpress(folder: Path) -> Path:
    """Each time is exported into a folder of its own."""
    for time in (1, 2):
        export = WRITERS["imagexpress"](folder / f"export{time}", fields_at(time))
        shutil.move(export / "TimePoint_1", folder / f"TimePoint_{time}")
        for path in export.glob("*.HTD"):
            shutil.copy(path, folder)
        shutil.rmtree(export)
    return folder


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_challenge(tmp_path_factory.mktemp("raw") / "plate", FIELDS)


@pytest.fixture(scope="module")
def store(plate: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepared(plate, tmp_path_factory.mktemp("prepared") / "store")


def test_times_are_prepared_as_fields_and_split_with_their_well(store, plate, tmp_path):
    assert [str(key) for key in store.keys("validation")] == ["20x B03 F001", "20x B03 F001 T0002"]
    for key, field in FIELDS.items():
        np.testing.assert_array_equal(store.planes(key), field.planes)
    assert sorted(path.name for path in (store.folder / "20x.zarr/B/3").glob("1*")) == [
        "1",
        "1T0002",
    ]
    assert Store(store.folder).manifest == store.manifest
    told = json.loads((store.folder / "manifest.json").read_text())["fields"]
    assert [one.get("time") for one in told] == [None, 2] * len(WHERE)
    other = prepared(write_imagexpress(tmp_path / "plate"), tmp_path / "store")
    assert other.digest == store.digest


def test_a_store_of_several_times_is_read_as_a_plate(store):
    scanned = scan_plate(store.folder)
    assert [files.key for files in scanned.fields] == sorted(FIELDS)
    last = scanned.fields[-1]
    np.testing.assert_array_equal(read_field(last, TARGETS).planes, FIELDS[last.key].planes)


def test_a_plate_of_one_time_is_the_same_whatever_that_is_called(tmp_path):
    first = write_challenge(tmp_path / "first", fields_at(1))
    third = tmp_path / "third"
    shutil.copytree(first, third)
    for path in list(third.rglob("*.tif")):
        path.rename(path.with_name(path.name.replace("T0001", "T0003")))
    stores = [prepared(raw, tmp_path / f"{raw.name}.store") for raw in (first, third)]
    assert stores[0].digest == stores[1].digest
    assert [str(key) for key in stores[1].manifest.fields] == [f"20x {one} F001" for one in WHERE]
    assert '"time"' not in (stores[1].folder / "manifest.json").read_text()
    [files, *_] = scan_plate(third).fields
    assert "_T0001F001" in stained_name(files, "A1")
    assert len(pair(third, first).fields) == len(WHERE)
    found = middle_plane([third], FieldKey(20, "B03", 1))
    np.testing.assert_array_equal(found, FIELDS[FieldKey(20, "B03", 1)].planes[3])


@pytest.mark.parametrize("layout", ["challenge", "imagexpress"])
def test_stains_of_times_are_measured_apart(layout, plate, tmp_path):
    raw = plate if layout == "challenge" else write_imagexpress(tmp_path / "raw")
    painted = tmp_path / "painted"
    for files in scan_plate(raw, ()).fields:
        more = {(330, 210): drawn.HEALTHY} if files.key.time == 2 else {}
        for target, image in drawn.drawn_field(drawn.NUCLEI | more, 400).items():
            write_image(painted / stained_name(files, target), image)
    names = [parse_name(path.name) for path in painted.rglob("*B03*C01.tif")]
    assert {(name.fov, name.time) for name in names} == {(1, 1), (1, 2)}
    found = measure_plate(
        painted,
        tmp_path / "tables",
        magnification=0,
        labels=False,
        csv=False,
        plate_map=None,
        crew=here(0),
    )
    assert [field.key for field in found.fields] == sorted(FIELDS)
    wells = pd.read_parquet(found.tables[WELLS])
    assert list(wells["Metadata_Timepoint"]) == [1, 2] * len(WHERE)
    n_cells = len(drawn.INSIDE)
    assert list(wells["Image_Count_Cells"]) == [n_cells, n_cells + 1] * len(WHERE)
    images = pd.read_parquet(found.tables["Image"])
    assert list(images["Metadata_Timepoint"]) == [1, 2] * len(WHERE)


def test_times_of_two_folders_are_paired(plate, tmp_path):
    """Also where one folder has only the second time."""
    second = {key: field for key, field in FIELDS.items() if key.time == 2}
    stains = {key: RawField(NO_PLANES, field.targets) for key, field in second.items()}
    late = write_challenge(tmp_path / "late", stains)
    pairs = pair(plate, late)
    assert [one.key for one in pairs.fields] == sorted(second)
    assert all("T0002" in path.name for one in pairs.fields for path in one.truth.values())
