"""From a raw plate to a store: whole or not at all, resumed after a kill, problems reported."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import tifffile
import zarr
from ome_zarr_models.v05 import HCS

from adipocyte.domain import TARGETS, FieldKey
from adipocyte.errors import ConfigError, PlateError, StoreError
from adipocyte.plate.fields import RawField, read_field, write_field
from adipocyte.plate.scan import scan_plate
from adipocyte.preparation.pictures import quality_rows, quality_sheet
from adipocyte.simulation import simulate_field
from adipocyte.store.paths import field_path, plate_path
from adipocyte.store.reader import Store
from tests.support import ROOT
from tests.support.layouts import write_imagexpress
from tests.support.stores import SETTINGS, contents, damaged, prepared

SCRIPT = """
from adipocyte.config import PreprocessConfig, build
from adipocyte.preparation.prepare import prepare
if __name__ == "__main__":
    prepare(build(PreprocessConfig, {settings}))
"""


def test_the_raw_plate_is_left_as_it_was(plate, tmp_path):
    before = contents(plate)
    prepared(plate, tmp_path / "store")
    assert contents(plate) == before


def test_preparing_again_does_nothing_and_other_settings_start_over(plate, tmp_path):
    folder = tmp_path / "store"
    first = prepared(plate, folder)
    n_mask_px = sum(first.mask(key).sum() for key in first.manifest.fields)
    before = contents(folder)
    assert prepared(plate, folder).digest == first.digest
    assert contents(folder) == before

    other = prepared(plate, folder, mask_threshold=3.0)
    assert other.digest != first.digest
    assert sum(other.mask(key).sum() for key in other.manifest.fields) < n_mask_px
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".store.lock") == [
        "plate",
        "store",
    ]


def test_planes_behind_one_page_are_prepared_like_files_of_their_own(plate, tmp_path):
    expected = prepared(plate, tmp_path / "store")
    images = plate / "20x_images"
    for first in sorted(images.glob("*Z01C04.tif")):
        files = [first.with_name(first.name.replace("Z01C04", f"Z{z:02d}C04")) for z in range(1, 8)]
        planes = np.stack([tifffile.imread(path) for path in files])
        for path in files:
            path.unlink()
        stack = first.with_name(first.name.replace("Z01C04", "C04"))
        tifffile.imwrite(stack, planes, photometric="minisblack", truncate=True)
    store = prepared(plate, tmp_path / "other")
    assert store.manifest.n_z_planes == 7
    for key in expected.manifest.fields:
        np.testing.assert_array_equal(store.planes(key), expected.planes(key))


def test_a_changed_image_makes_another_store(plate, tmp_path):
    first = prepared(plate, tmp_path / "store")
    images = sorted((plate / "20x_images").glob("*B03*A02Z01C02.tif"))
    shutil.copy(next((plate / "20x_images").glob("*C02*A02Z01C02.tif")), images[0])
    assert prepared(plate, tmp_path / "store").digest != first.digest


def test_the_same_plate_elsewhere_has_the_same_digest(plate, tmp_path):
    first = prepared(plate, tmp_path / "store")
    shutil.copytree(plate, tmp_path / "copy")
    assert prepared(tmp_path / "copy", tmp_path / "other").digest == first.digest


def test_the_same_plate_of_another_instrument_has_the_same_digest(plate, tmp_path, capsys):
    first = prepared(plate, tmp_path / "store")
    fields = {files.key: read_field(files, TARGETS) for files in scan_plate(plate).fields}
    other = write_imagexpress(tmp_path / "imagexpress", fields)
    capsys.readouterr()
    assert prepared(other, tmp_path / "other").digest == first.digest
    assert "layout         imagexpress\n" in capsys.readouterr().out
    # The same files for another stain are another store.
    channels = "brightfield=4, A1=1, A3=2"
    again = prepared(other, tmp_path / "other", channels=channels)
    assert again.manifest.targets == ("A1", "A3")


def test_a_preparation_that_fails_leaves_the_older_store_and_no_part_of_a_new_one(plate, tmp_path):
    folder = tmp_path / "store"
    prepared(plate, folder)
    before = contents(folder)
    # In the last well, so that the work is nearly done.
    bad = next((plate / "20x_images").glob("*C03*Z06C04.tif"))
    bad.write_bytes(bad.read_bytes()[:1000])
    with pytest.raises(PlateError, match=str(bad)):
        prepared(plate, folder)
    assert contents(folder) == before
    with pytest.raises(StoreError, match="not there"):
        Store(tmp_path / "store.partial")


def chunks(store):
    return {
        path.relative_to(store.folder): data
        for path, (data, _) in contents(store.folder).items()
        if "c" in path.parts
    }


def test_workers_make_the_same_store_as_one_process(wide_plate, tmp_path):
    alone = prepared(wide_plate, tmp_path / "alone")
    shared = prepared(wide_plate, tmp_path / "shared", workers=2)
    assert shared.manifest == alone.manifest
    # A chunk for each field, and one for each mask that is not empty.
    assert len(chunks(alone)) > 12
    assert chunks(shared) == chunks(alone)


def test_a_killed_preparation_is_no_store_and_resumes(wide_plate, tmp_path):
    folder, partial = tmp_path / "store", tmp_path / "store.partial"
    settings = {"plate": str(wide_plate), "store": str(folder), **SETTINGS, "workers": 1}
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(settings=settings))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(script)], env=environment)
    try:
        deadline = time.monotonic() + 120
        while len(list(partial.glob("records/[0-9]*"))) < 3:
            assert process.poll() is None, "finished before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        workers = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait()
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert gone
    assert not alive
    with pytest.raises(StoreError, match="is not there: prepare one with"):
        Store(folder)
    with pytest.raises(StoreError, match="is not whole"):
        Store(partial)
    finished = [path.stem.split("_") for path in partial.glob("records/[0-9]*")]
    assert 3 <= len(finished) < 12
    keys = [FieldKey(20, well, int(fov)) for _, well, fov in finished]
    before = {key: contents(field_path(partial, key) / "0" / "c") for key in keys}
    store = prepared(wide_plate, folder)
    for key, written in before.items():
        after = contents(field_path(folder, key) / "0" / "c")
        assert list(after.values()) == list(written.values())
    assert store.manifest == prepared(wide_plate, tmp_path / "whole").manifest


def test_unreadable_fields_are_all_reported_and_the_others_are_not_prepared_again(
    wide_plate, tmp_path
):
    plate, folder = tmp_path / "plate", tmp_path / "store"
    shutil.copytree(wide_plate, plate)
    first = next(plate.rglob("*C02*F002*C02.tif"))
    second = next(plate.rglob("*C03*F003*Z06C04.tif"))
    wholes = damaged(first), damaged(second)
    with pytest.raises(
        PlateError, match=rf"(?s)20x C02 F002 .*{first}.*20x C03 F003 .*{second}.* -P on_error=skip"
    ):
        prepared(plate, folder)
    records = contents(tmp_path / "store.partial" / "records")
    assert len(records) == 10
    first.write_bytes(wholes[0])
    with pytest.raises(PlateError, match=str(second)):
        prepared(plate, folder)
    assert records.items() <= contents(tmp_path / "store.partial" / "records").items()
    second.write_bytes(wholes[1])
    assert prepared(plate, folder).digest == prepared(wide_plate, tmp_path / "other").digest


def test_bad_fields_are_left_out_on_request_and_listed(wide_plate, tmp_path):
    plate, folder = tmp_path / "plate", tmp_path / "store"
    shutil.copytree(wide_plate, plate)
    damaged(next(plate.rglob("*C02*F002*C02.tif")))
    next(plate.rglob("*C03*F003*Z06C04.tif")).unlink()
    store = prepared(plate, folder, on_error="skip")
    assert len(store.manifest.fields) == 10
    assert [problem.where for problem in store.manifest.problems] == [
        "20x C03 F003",
        "20x C02 F002",
    ]
    for magnification in store.magnifications:
        HCS.from_zarr(zarr.open_group(plate_path(store.folder, magnification), mode="r"))
    before = contents(folder)
    prepared(plate, folder, on_error="skip")
    assert contents(folder) == before
    with pytest.raises(PlateError, match="20x C03 F003"):
        prepared(plate, folder)


def test_a_folder_of_another_magnification_or_another_channel_is_another_store(plate, tmp_path):
    first = prepared(plate, tmp_path / "store")
    (plate / "20x_images").rename(plate / "40x_images")
    second = prepared(plate, tmp_path / "store")
    assert second.magnifications == (40,)
    for path in (plate / "40x_images").glob("*A03Z01C03.tif"):
        path.unlink()
    third = prepared(plate, tmp_path / "store")
    for path in list((plate / "40x_images").glob("*A02Z01C02.tif")):
        path.rename(path.with_name(path.name.removesuffix("A02Z01C02.tif") + "A03Z01C03.tif"))
    fourth = prepared(plate, tmp_path / "store")
    assert (third.manifest.targets, fourth.manifest.targets) == (("A1", "A2"), ("A1", "A3"))
    assert len({store.digest for store in (first, second, third, fourth)}) == 4


def test_a_store_inside_the_plate_is_refused(plate):
    with pytest.raises(PlateError, match="lies inside the raw plate, which is never written to"):
        prepared(plate, plate / "prepared")


def test_small_fields_are_reported_before_anything_is_read(plate, tmp_path):
    for path in (plate / "20x_images").glob("*_C03_*"):
        tifffile.imwrite(path, tifffile.imread(path)[:60])
    with pytest.raises(
        PlateError, match=r"20x C03 F001 +is 60 x 80 pixels +a side must be at least 64"
    ):
        prepared(plate, tmp_path / "store")
    assert len(prepared(plate, tmp_path / "store", on_error="skip").manifest.fields) == 3


def test_a_plate_without_a_whole_field_or_a_named_well_says_what_was_left_out(plate, tmp_path):
    next((plate / "20x_images").glob("*B04*Z06C04.tif")).unlink()
    with pytest.raises(
        ConfigError, match=r"(?s)well B04 is not on the plate.*left out.*20x B04 F001 +lacks Z6"
    ):
        prepared(plate, tmp_path / "store", on_error="skip")
    for path in (plate / "20x_images").glob("*Z05C04.tif"):
        path.unlink()
    with pytest.raises(
        PlateError, match=r"(?s)no field of the plate is whole:.*20x C02 F001 +lacks Z5"
    ):
        prepared(plate, tmp_path / "store", on_error="skip")


def test_a_full_disk_is_reported_and_the_same_command_resumes(wide_plate, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("adipocyte.preparation.field.write_record", full)
        message = r"cannot be written .*No space left on device.*: make room, and run the same"
        with pytest.raises(StoreError, match=message):
            prepared(wide_plate, tmp_path / "store")
    assert len(prepared(wide_plate, tmp_path / "store").manifest.fields) == 12


def test_a_plate_without_the_nuclei_stain_is_refused(plate, tmp_path):
    for path in (plate / "20x_images").glob("*A01Z01C01.tif"):
        path.unlink()
    with pytest.raises(PlateError, match="the plate has only A2, A3: training needs at least A1"):
        prepared(plate, tmp_path / "store")


def test_a_stain_that_no_field_has_is_left_out_and_one_that_some_lack_is_refused(plate, tmp_path):
    first, *others = sorted((plate / "20x_images").glob("*A03Z01C03.tif"))
    first.unlink()
    with pytest.raises(
        PlateError,
        match=r"20x B03 F001 +has no A3 image, which others have +add AssayPlate.*A03Z01C03.tif",
    ):
        prepared(plate, tmp_path / "store")
    for path in others:
        path.unlink()
    store = prepared(plate, tmp_path / "store")
    assert store.manifest.targets == ("A1", "A2")
    store.require_target("A2")
    with pytest.raises(StoreError, match="has no A3, only A1, A2: prepare a plate with A3 images"):
        store.require_target("A3")


def test_a_magnification_without_a_training_well_is_refused(plate, small_plate, tmp_path):
    (plate / "40x_images").mkdir()
    for path in (small_plate / "40x_images").glob("*_B03_*"):
        shutil.copy(path, plate / "40x_images")
    with pytest.raises(
        PlateError, match=r"no training well has a field at 40x: .* -P validation_wells="
    ):
        prepared(plate, tmp_path / "store")


def darken(plate, well) -> None:
    """Put a lid on the camera while the lipid stain of a well is photographed."""
    [path] = (plate / "20x_images").glob(f"*_{well}_*A02Z01C02.tif")
    tifffile.imwrite(path, np.zeros_like(tifffile.imread(path)))


def test_flagged_fields_are_trained_on_or_left_out_on_request(plate, tmp_path):
    darken(plate, "C02")
    kept = prepared(plate, tmp_path / "store")
    assert [key.well for key in kept.keys("train")] == ["C02", "C03"]
    [dark] = [
        key
        for key in kept.keys("train")
        if any("A2 no image" in flag for flag in kept.manifest.fields[key].flags)
    ]
    assert dark.well == "C02"
    first_panel = quality_sheet(kept).axes[0]
    assert first_panel.get_title() == str(dark)
    assert first_panel.get_xlabel().startswith("A2 ")

    store = prepared(plate, tmp_path / "store", flagged="leave_out")
    flagged = {key.well for key, entry in store.manifest.fields.items() if entry.flags}
    assert {key.well for key in store.left_out} == flagged
    assert [key.well for key in store.keys("train")] == ["C03"]
    [key] = store.keys("train")
    assert store.scaling(20, "A2").mean == pytest.approx(store.target(key, "A2").mean())
    assert [one.well for one in store.keys("test")] == ["B04"]
    assert store.digest != kept.digest
    row = next(row for row in quality_rows(store) if row["well"] == "C02")
    assert "A2 no image" in row["flags"]
    assert row["A2_constant"] == 1


def test_a_plate_whose_validation_wells_are_all_left_out_is_refused(plate, tmp_path):
    darken(plate, "B03")
    with pytest.raises(
        PlateError,
        match=r"no field of the validation wells B03 is left.*or keep .* with -P flagged=keep",
    ):
        prepared(plate, tmp_path / "store", flagged="leave_out")


# Of a store: its format, its objectives, the size of each field's pixels.
OBJECTIVES = {
    "usual": (2, {20: 0.325}, [0.325] * 3),
    "mixed": (3, {20: 0.31}, [0.3, 0.31, 0.35]),
    "other": (3, {10: 0.65}, [0.65] * 3),
}


def test_a_store_tells_its_objectives_and_what_a_field_differs_by(tmp_path):
    """Stores of the challenge's objectives are as they were: older code reads them."""
    for at, well in enumerate(("B03", "B04", "C02")):
        field = simulate_field(20, (96, 80), seed=at)
        raw = RawField(field.planes, field.targets)
        write_field(tmp_path / "usual", FieldKey(20, well, 1), raw)
        write_field(tmp_path / "mixed", FieldKey(20, well, 1), raw, (0.3, 0.31, 0.35)[at])
        write_field(tmp_path / "other", FieldKey(10, well, 1), raw)
    stores = {name: prepared(tmp_path / name, tmp_path / f"{name}-store") for name in OBJECTIVES}
    for name, (formats, objectives, sizes) in OBJECTIVES.items():
        store = Store(stores[name].folder)
        content = json.loads((store.folder / "manifest.json").read_text())
        assert (content["format"], store.objectives) == (formats, objectives)
        assert [store.um_per_px(key) for key in sorted(store.manifest.fields)] == sizes
        assert ("um_per_px" in content) == (formats == 3)
    assert stores["usual"].digest == stores["mixed"].digest != stores["other"].digest
