"""A prepared store holds the plate's own counts, opens in public readers, and is there whole or not at all."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05 import HCS, Image, ImageLabel

from adipocyte.config import PreprocessConfig
from adipocyte.domain import BRIGHTFIELD
from adipocyte.errors import ConfigError, PlateError, StoreError
from adipocyte.imaging.alignment import Alignment
from adipocyte.imaging.masks import nuclei_mask
from adipocyte.imaging.registration import Registration
from adipocyte.plate.fields import read_field
from adipocyte.plate.scan import scan_plate
from adipocyte.preparation import field as field_module
from adipocyte.preparation import workspace as place
from adipocyte.preparation.alignment import alignment_sentences
from adipocyte.preparation.pictures import histogram_plot, mask_sheet, quality_rows, quality_sheet
from adipocyte.preparation.prepare import prepare
from adipocyte.preparation.split import FEW_WELLS, PARTS, split_wells
from adipocyte.store.paths import field_path, mask_path, plate_path
from adipocyte.store.reader import Store

TARGETS = ("A1", "A2", "A3")
SETTINGS = {"mask_smallest_px": 50, "validation_wells": "B03", "test_wells": "B04", "workers": 0}
SCRIPT = """
from adipocyte.config import PreprocessConfig
from adipocyte.store.prepare import prepare
if __name__ == "__main__":
    prepare(PreprocessConfig(**{settings}))
"""
CHANNELS = ["Z1", "Z2", "Z3", "Z4", "Z5", "Z6", "Z7", *TARGETS]
WELLS = [f"{row}{column:02d}" for row in "ABCP" for column in (1, 2, 24)]


def prepared(plate, folder, **settings) -> Store:
    return prepare(PreprocessConfig(plate=plate, store=folder, **SETTINGS | settings))


def damaged(path) -> bytes:
    """Make a TIFF's header right and its pixels unreadable. Returns the file as it was."""
    whole = path.read_bytes()
    tifffile.imwrite(path, tifffile.imread(path), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages.first.dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[start : start + 8] = b"garbage!"
    path.write_bytes(data)
    return whole


def contents(folder):
    """What lies in a folder, byte for byte and when it was last written."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def plate(small_plate, tmp_path):
    """A plate to do damage to: the 20x fields of `small_plate`."""
    shutil.copytree(small_plate / "20x_images", tmp_path / "plate" / "20x_images")
    return tmp_path / "plate"


@pytest.fixture
def store(small_store, tmp_path):
    """A store to do damage to, without its pixels."""
    shutil.copytree(small_store.folder, tmp_path / "store", ignore=shutil.ignore_patterns("*.zarr"))
    return tmp_path / "store"


# What it holds


def test_a_store_gives_back_the_counts_of_the_tiffs(small_plate, small_store):
    files = scan_plate(small_plate).fields
    assert list(small_store.manifest.fields) == [field.key for field in files]
    for key, field in ((one.key, read_field(one, TARGETS)) for one in files):
        assert small_store.shape(key) == (96, 80)
        np.testing.assert_array_equal(small_store.planes(key), field.planes)
        for target in TARGETS:
            np.testing.assert_array_equal(small_store.target(key, target), field.targets[target])


def test_a_window_is_that_part_of_the_field(small_store):
    key, window = small_store.keys("test")[0], np.s_[17:60, 3:80]
    planes, lipids = small_store.planes_and_target(key, "A2", window)
    np.testing.assert_array_equal(planes, small_store.planes(key)[:, *window])
    np.testing.assert_array_equal(planes, small_store.planes(key, window))
    np.testing.assert_array_equal(lipids, small_store.target(key, "A2")[window])
    np.testing.assert_array_equal(small_store.target(key, "A2", window), lipids)
    np.testing.assert_array_equal(small_store.mask(key, window), small_store.mask(key)[window])


def test_masks_are_made_of_the_nuclei_stain_with_lengths_that_grow_with_the_magnification(
    small_store,
):
    for key in small_store.manifest.fields:
        zoom = key.magnification // 20
        expected = nuclei_mask(
            small_store.target(key, "A1"),
            threshold=2.0,
            superpixel_px=10 * zoom,
            smallest_px=50 * zoom**2,
        )
        assert small_store.mask(key).dtype == bool
        np.testing.assert_array_equal(small_store.mask(key), expected)
    assert any(small_store.mask(key).any() for key in small_store.keys("train"))


def test_statistics_are_those_of_the_training_wells_alone(small_store):
    for magnification in (20, 40):
        keys = [key for key in small_store.keys("train") if key.magnification == magnification]
        assert {key.well for key in keys} == {"C02", "C03"}
        pixels = {
            target: np.stack([small_store.target(key, target) for key in keys])
            for target in TARGETS
        }
        pixels[BRIGHTFIELD] = np.stack([small_store.planes(key) for key in keys])
        for channel, counts in pixels.items():
            scaling = small_store.scaling(magnification, channel)
            np.testing.assert_allclose(
                (scaling.mean, scaling.std), (counts.mean(), counts.std()), rtol=1e-9
            )
            assert small_store.median(magnification, channel) == np.median(counts)
            np.testing.assert_array_equal(
                small_store.histogram(magnification, channel),
                np.bincount(counts.ravel(), minlength=65536),
            )


def test_normalisation_report_is_table_3_1_for_brightfield_and_measured_for_the_rest(
    small_plate, small_store, tmp_path
):
    store = prepared(small_plate, tmp_path / "store", normalisation="report")
    brightfield = [store.scaling(magnification, BRIGHTFIELD) for magnification in (20, 40)]
    assert [(scaling.mean, scaling.std) for scaling in brightfield] == [(2594, 966), (713, 282)]
    assert store.scaling(20, "A2") == small_store.scaling(20, "A2")


def test_pictures_of_a_store_can_be_drawn(small_store, tmp_path):
    for picture in (
        histogram_plot(small_store),
        mask_sheet(small_store),
        quality_sheet(small_store),
    ):
        assert isinstance(picture, Figure)
        picture.savefig(tmp_path / "picture.png", dpi=20)


# Public readers


def test_a_public_validator_finds_a_valid_plate_of_images_with_labels(small_store):
    for magnification in (20, 40):
        HCS.from_zarr(zarr.open_group(plate_path(small_store.folder, magnification), mode="r"))
    for key in small_store.manifest.fields:
        image = Image.from_zarr(zarr.open_group(field_path(small_store.folder, key), mode="r"))
        assert [channel["label"] for channel in image.attributes.ome.omero["channels"]] == CHANNELS
        ImageLabel.from_zarr(zarr.open_group(mask_path(small_store.folder, key), mode="r"))


def test_the_size_of_a_pixel_is_that_of_the_magnification(small_store):
    for key in small_store.manifest.fields:
        um_per_px = {20: 0.325, 40: 0.163}[key.magnification]
        for path, n_others in (
            (field_path(small_store.folder, key), 1),
            (mask_path(small_store.folder, key), 0),
        ):
            (dataset,) = zarr.open_group(path, mode="r").attrs["ome"]["multiscales"][0]["datasets"]
            assert dataset["coordinateTransformations"] == [
                {"type": "scale", "scale": [1.0] * n_others + [um_per_px] * 2}
            ]


def test_the_reader_that_viewers_use_opens_field_and_mask(small_store):
    key = small_store.keys("validation")[0]
    image, *others = Reader(parse_url(field_path(small_store.folder, key), mode="r"))()
    np.testing.assert_array_equal(image.data[0].compute()[:7], small_store.planes(key))
    masks = [node for node in others if node.zarr.basename() == "nuclei"]
    np.testing.assert_array_equal(masks[0].data[0].compute().astype(bool), small_store.mask(key))


# Preparing


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


def test_a_changed_image_makes_another_store(plate, tmp_path):
    first = prepared(plate, tmp_path / "store")
    images = sorted((plate / "20x_images").glob("*B03*A02Z01C02.tif"))
    shutil.copy(next((plate / "20x_images").glob("*C02*A02Z01C02.tif")), images[0])
    assert prepared(plate, tmp_path / "store").digest != first.digest


def test_the_same_plate_elsewhere_has_the_same_digest(plate, tmp_path):
    first = prepared(plate, tmp_path / "store")
    shutil.copytree(plate, tmp_path / "copy")
    assert prepared(tmp_path / "copy", tmp_path / "other").digest == first.digest


def test_a_preparation_that_fails_leaves_the_older_store_and_nothing_that_passes_for_one(
    plate, tmp_path
):
    folder = tmp_path / "store"
    prepared(plate, folder)
    before = contents(folder)
    bad = next(
        (plate / "20x_images").glob("*C03*Z06C04.tif")
    )  # the last well, so that the work is nearly done
    bad.write_bytes(bad.read_bytes()[:1000])
    with pytest.raises(PlateError, match=str(bad)):
        prepared(plate, folder)
    assert contents(folder) == before
    with pytest.raises(StoreError, match="not there"):
        Store(tmp_path / "store.partial")


def test_a_preparation_goes_on_after_one_that_was_broken_off(plate, tmp_path):
    (tmp_path / "store.partial" / "20x.zarr").mkdir(parents=True)
    (tmp_path / "store.old.partial").mkdir()
    prepared(plate, tmp_path / "store")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".store.lock") == [
        "plate",
        "store",
    ]


def test_what_other_fields_left_behind_does_not_get_into_a_store(plate, tmp_path):
    bad = next((plate / "20x_images").glob("*C03*Z06C04.tif"))
    whole = damaged(bad)
    with pytest.raises(PlateError):
        prepared(plate, tmp_path / "store")
    bad.write_bytes(whole)
    for path in (plate / "20x_images").glob("*_C02_*"):
        path.unlink()
    store = prepared(plate, tmp_path / "store")
    assert {key.well for key in store.manifest.fields} == {"B03", "B04", "C03"}
    assert not (store.folder / "20x.zarr" / "C" / "2" / "1").exists()
    HCS.from_zarr(zarr.open_group(plate_path(store.folder, 20), mode="r"))


@pytest.fixture(scope="module")
def wide_plate(small_plate, tmp_path_factory):
    """The 20x fields of `small_plate`, each thrice: twelve fields."""
    folder = tmp_path_factory.mktemp("wide") / "plate"
    for path in sorted((small_plate / "20x_images").iterdir()):
        for fov in (1, 2, 3):
            (folder / "20x_images").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / "20x_images" / path.name.replace("F001", f"F{fov:03d}"))
    return folder


def test_workers_make_the_same_store_as_one_process(wide_plate, tmp_path):
    alone, shared = (
        prepared(wide_plate, tmp_path / "alone"),
        prepared(wide_plate, tmp_path / "shared", workers=2),
    )
    assert shared.manifest == alone.manifest
    pixels = [
        {
            path.relative_to(store.folder): data
            for path, (data, _) in contents(store.folder).items()
            if "c" in path.parts
        }
        for store in (alone, shared)
    ]
    assert len(pixels[0]) > 12  # a chunk for each field, and one for each mask that is not empty
    assert pixels[0] == pixels[1]


def test_a_killed_preparation_is_no_store_and_goes_on_where_it_was(wide_plate, tmp_path):
    folder, partial = tmp_path / "store", tmp_path / "store.partial"
    settings = {"plate": str(wide_plate), "store": str(folder), **SETTINGS, "workers": 1}
    (tmp_path / "script.py").write_text(SCRIPT.format(settings=settings))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")], env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
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
    with pytest.raises(StoreError, match="is not there; prepare one with"):
        Store(folder)
    with pytest.raises(StoreError, match="is not whole"):
        Store(partial)
    finished = [path.stem.split("_") for path in partial.glob("records/[0-9]*")]
    assert 3 <= len(finished) < 12
    before = {
        (well, fov): contents(partial / "20x.zarr" / well[0] / str(int(well[1:])) / fov / "0" / "c")
        for _, well, fov in finished
    }
    store = prepared(wide_plate, folder)
    for (well, fov), chunks in before.items():
        after = contents(folder / "20x.zarr" / well[0] / str(int(well[1:])) / fov / "0" / "c")
        assert list(after.values()) == list(chunks.values())
    assert store.manifest == prepared(wide_plate, tmp_path / "whole").manifest


def test_unreadable_fields_are_all_told_and_the_others_are_not_done_again(wide_plate, tmp_path):
    plate, folder = tmp_path / "plate", tmp_path / "store"
    shutil.copytree(wide_plate, plate)
    first, second = (
        next(plate.rglob("*C02*F002*C02.tif")),
        next(plate.rglob("*C03*F003*Z06C04.tif")),
    )
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


def test_two_preparations_of_one_store_do_not_get_in_each_others_way(wide_plate, tmp_path):
    with (tmp_path / ".store.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(
            StoreError,
            match=r"another preprocess is at work on .*store: wait for it, or name another",
        ):
            prepared(wide_plate, tmp_path / "store")
    assert prepared(wide_plate, tmp_path / "store").folder == tmp_path / "store"


class Killed(BaseException):
    """What stands for SIGKILL where the moment has to be chosen."""


def kill(*_):
    raise Killed


def test_what_a_killed_preparation_of_other_settings_wrote_does_not_pass_for_this_ones(
    wide_plate, tmp_path, monkeypatch
):
    clean, folder = prepared(wide_plate, tmp_path / "clean"), tmp_path / "store"
    with monkeypatch.context() as patch:
        patch.setattr("adipocyte.preparation.prepare.describe_plates", kill)
        with pytest.raises(Killed):
            prepared(wide_plate, folder)
    with monkeypatch.context() as patch:
        patch.setattr("adipocyte.preparation.field.write_record", kill)
        with pytest.raises(Killed):
            prepared(wide_plate, folder, mask_threshold=1.2)
    store = prepared(wide_plate, folder)
    assert store.digest == clean.digest
    for key in store.manifest.fields:
        np.testing.assert_array_equal(store.mask(key), clean.mask(key))


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_preparation_killed_while_the_stores_are_swapped_is_finished_without_any_work(
    plate, tmp_path, monkeypatch, moment
):
    folder = tmp_path / "store"
    prepared(plate, folder, mask_threshold=3.0)
    steps = [Path.rename, Path.rename, shutil.rmtree][
        : 1 + ["before", "between", "after"].index(moment)
    ]

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
        patch.setattr(place.shutil, "rmtree", counted(shutil.rmtree))
        with pytest.raises(Killed):
            prepared(plate, folder)
    monkeypatch.setattr("adipocyte.preparation.prepare.prepare_field", kill)
    assert prepared(plate, folder).manifest.origin.settings["mask_threshold"] == 2.0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".store.lock") == [
        "plate",
        "store",
    ]


def test_a_field_that_changes_while_it_is_prepared_is_told(plate, tmp_path, monkeypatch):
    path, read = next((plate / "20x_images").glob("*C03*Z06C04.tif")), field_module.read_field

    def read_and_touch(files, targets):
        field = read(files, targets)
        os.utime(path, (1, 1))
        return field

    with monkeypatch.context() as patch:
        patch.setattr(field_module, "read_field", read_and_touch)
        with pytest.raises(
            PlateError,
            match=r"20x C03 F001 +changed while it was prepared +run the same command again",
        ):
            prepared(plate, tmp_path / "store")
    assert len(prepared(plate, tmp_path / "store").manifest.fields) == 4


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


def test_a_store_that_is_a_link_stays_one(plate, tmp_path):
    (tmp_path / "disk" / "store").mkdir(parents=True)
    (tmp_path / "store").symlink_to(tmp_path / "disk" / "store")
    for threshold in (2.0, 3.0, 2.5):
        assert (
            prepared(plate, tmp_path / "store", mask_threshold=threshold).manifest.origin.settings[
                "mask_threshold"
            ]
            == threshold
        )
    assert (tmp_path / "store").is_symlink()


def test_a_store_inside_the_plate_is_refused(plate):
    with pytest.raises(PlateError, match="lies inside the raw plate, which is never written to"):
        prepared(plate, plate / "prepared")


def test_small_fields_are_told_before_anything_is_read(plate, tmp_path):
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


def test_an_alignment_that_leaves_nothing_of_a_field_is_refused(plate, tmp_path):
    (tmp_path / "alignment.json").write_text(
        json.dumps({"20": {"1": {"dy_px": 500.0, "dx_px": 0.0, "scale": 1.0}}})
    )
    with pytest.raises(
        ConfigError,
        match=r"alignment\.json does not fit field 20x B03 F001: .* or -P align=estimate",
    ):
        prepared(plate, tmp_path / "store", align=str(tmp_path / "alignment.json"))


def test_a_full_disk_is_told_and_the_same_command_goes_on(wide_plate, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("adipocyte.preparation.field.write_record", full)
        with pytest.raises(
            StoreError,
            match=r"cannot be written .*No space left on device.*: make room, and run the same command again",
        ):
            prepared(wide_plate, tmp_path / "store")
    assert len(prepared(wide_plate, tmp_path / "store").manifest.fields) == 12


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
        match=r"holds something that is no prepared store: name another folder with -P store=<folder>",
    ):
        prepared(plate, folder)
    assert contents(folder) == before


def test_a_file_in_the_stores_place_is_refused_and_left_alone(plate, tmp_path):
    (tmp_path / "store").write_text("notes")
    with pytest.raises(StoreError, match="no prepared store: name another folder"):
        prepared(plate, tmp_path / "store")
    assert (tmp_path / "store").read_text() == "notes"


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


# Quality


def darken(plate, well) -> None:
    """Put a lid on the camera while the lipid stain of a well is photographed."""
    [path] = (plate / "20x_images").glob(f"*_{well}_*A02Z01C02.tif")
    tifffile.imwrite(path, np.zeros_like(tifffile.imread(path)))


def test_flagged_fields_are_trained_on_or_left_out_as_is_asked(plate, tmp_path):
    darken(plate, "C02")
    kept = prepared(plate, tmp_path / "store")
    assert [key.well for key in kept.keys("train")] == ["C02", "C03"]
    [dark] = [
        key
        for key in kept.keys("train")
        if any("A2 no image" in flag for flag in kept.manifest.fields[key].flags)
    ]
    assert dark.well == "C02"

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


def test_a_plate_whose_validation_wells_are_all_flagged_is_refused_when_they_are_to_be_left_out(
    plate, tmp_path
):
    darken(plate, "B03")
    with pytest.raises(
        PlateError,
        match=r"no field of the validation wells B03 is left.*or keep flagged fields with -P flagged=keep",
    ):
        prepared(plate, tmp_path / "store", flagged="leave_out")


# Alignment


@pytest.fixture
def shifted(plate, tmp_path):
    """The plate with its stains 2 pixels too far down and 3 too far left, and a file that says so."""
    for path in (plate / "20x_images").glob("*Z01C0[123].tif"):
        tifffile.imwrite(path, np.roll(tifffile.imread(path), (2, -3), axis=(0, 1)))
    (tmp_path / "alignment.json").write_text(
        json.dumps({"20": {"1": {"dy_px": 2.0, "dx_px": -3.0, "scale": 1.0}}})
    )
    return plate


def test_stains_and_masks_are_read_in_the_frame_of_brightfield_and_stored_as_they_were(
    shifted, small_store, tmp_path
):
    store = prepared(shifted, tmp_path / "store", align=str(tmp_path / "alignment.json"))
    seen = np.s_[0:94, 3:80]
    for key in store.manifest.fields:
        assert store.valid(key) == seen
        np.testing.assert_array_equal(store.planes(key), small_store.planes(key))
        raw_mask = zarr.open_array(mask_path(store.folder, key) / "0", mode="r")[:].astype(bool)
        np.testing.assert_array_equal(
            store.mask(key)[seen], np.roll(raw_mask, (-2, 3), axis=(0, 1))[seen]
        )
        for target in TARGETS:
            aligned, truth = store.target(key, target), small_store.target(key, target)
            assert np.abs(aligned[seen].astype(int) - truth[seen]).max() <= 1
            window = np.s_[15:70, 8:77]
            both = store.planes_and_target(key, target, window)
            np.testing.assert_array_equal(both[0], store.planes(key, window))
            assert np.abs(both[1].astype(int) - aligned[window]).max() <= 1
            raw = zarr.open_array(field_path(store.folder, key) / "0", mode="r")[
                7 + TARGETS.index(target)
            ]
            np.testing.assert_array_equal(raw, np.roll(truth, (2, -3), axis=(0, 1)))


def test_without_alignment_a_field_is_valid_whole(small_store):
    for key in small_store.manifest.fields:
        assert small_store.alignment(key).is_identity
        assert small_store.valid(key) == np.s_[0:96, 0:80]


def test_another_alignment_is_another_store(shifted, tmp_path):
    plain = prepared(shifted, tmp_path / "store", align="none").digest
    aligned = prepared(shifted, tmp_path / "store", align=str(tmp_path / "alignment.json")).digest
    assert aligned != plain
    (tmp_path / "alignment.json").write_text(
        json.dumps({"20": {"1": {"dy_px": 1.0, "dx_px": 1.0, "scale": 1.0}}})
    )
    assert prepared(
        shifted, tmp_path / "store", align=str(tmp_path / "alignment.json")
    ).digest not in (plain, aligned)


def test_what_was_measured_is_told_site_by_site(small_store):
    aligned = Registration(
        Alignment(-4.2, 1.0, 0.999), Alignment(-4.2, 1.0, 0.999), 3, 48, 0.02, 0.7, "aligned"
    )
    refused = small_store.manifest.registrations[20][1]
    assert refused.alignment.is_identity
    assert alignment_sentences({20: {1: aligned, 2: aligned, 3: refused}}) == [
        "20x: stains aligned at 2 of 3 sites, by up to 4.2 pixels",
        f"20x: 1 of 3 sites {refused.verdict}",
    ]
    assert "too little to see" in refused.verdict


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no file of alignments"),
        ("[]", "is no file of alignments"),
        ('{"20": {"1": {"dy_px": 1}}}', "is no file of alignments"),
        ('{"20": {"1": {"dy_px": NaN, "dx_px": 0, "scale": 1}}}', "finite"),
        (
            '{"20": {"2": {"dy_px": 1, "dx_px": 0, "scale": 1}}}',
            "does not say how fluorescence lies at 20x in field of view 1",
        ),
    ],
)
def test_a_file_of_alignments_that_does_not_fit_is_refused(plate, tmp_path, content, message):
    (tmp_path / "alignment.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        prepared(plate, tmp_path / "store", align=str(tmp_path / "alignment.json"))


def test_a_file_of_alignments_that_is_not_there_is_refused(plate, tmp_path):
    with pytest.raises(
        ConfigError, match=r"guess is no file of alignments .*-P align=estimate or -P align=none"
    ):
        prepared(plate, tmp_path / "store", align="guess")


# Opening


def test_a_store_that_is_not_there_is_refused_with_the_next_command(tmp_path):
    with pytest.raises(
        StoreError, match=r"is not there; prepare one with: mlflow run \. -e preprocess -P plate="
    ):
        Store(tmp_path / "store")


def test_a_store_that_is_not_whole_is_refused_with_the_next_command(store):
    (store / "manifest.json").unlink()
    with pytest.raises(
        StoreError,
        match=r"is not whole \(its preprocessing did not finish\); prepare one with: mlflow run",
    ):
        Store(store)


def test_a_store_of_a_newer_format_is_refused_with_both_formats(store):
    content = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps({**content, "format": 3, "novelty": True}))
    with pytest.raises(
        StoreError, match="has format 3, this code reads format 2; prepare one with: mlflow run"
    ):
        Store(store)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 2}', '{"format": 2, "fields": [], "targets": [], "split": []}'],
)
def test_a_damaged_manifest_is_refused_with_its_file(store, content):
    (store / "manifest.json").write_text(content)
    with pytest.raises(
        StoreError,
        match=r"manifest\.json is damaged .*; remove .* and prepare one with: mlflow run",
    ):
        Store(store)


def test_a_store_is_opened_again_as_it_was_prepared(small_store):
    assert Store(small_store.folder).manifest == small_store.manifest


def test_a_store_may_be_moved(small_store, tmp_path):
    os.symlink(small_store.folder, tmp_path / "elsewhere")
    key = small_store.keys("test")[0]
    np.testing.assert_array_equal(Store(tmp_path / "elsewhere").mask(key), small_store.mask(key))


# The split


@given(
    wells=st.lists(st.sampled_from(WELLS), min_size=2, unique=True),
    named=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_a_split_covers_the_wells_disjointly_honours_the_named_and_repeats(
    wells, named, seed, data
):
    order = data.draw(st.permutations(wells))
    validation, test = order[: named[0]], order[named[0] : sum(named)]
    # A part that is not named takes a quarter of the wells for test, an eighth for validation, and at least one.
    n_test = len(test) or max(1, round(len(wells) / 4))
    n_validation = len(validation) or (
        max(1, round(len(wells) / 8)) if len(wells) >= FEW_WELLS else 0
    )
    if n_test + n_validation >= len(wells):
        with pytest.raises(PlateError, match="no well is left to train on"):
            split_wells(wells, validation, test, seed)
        return
    split = split_wells(wells, validation, test, seed)
    assert tuple(split) == PARTS
    assert (len(split["test"]), len(split["validation"])) == (n_test, n_validation or n_test)
    assert set().union(*split.values()) == set(wells)
    assert not set(split["train"]) & {*split["validation"], *split["test"]}
    if n_validation:
        assert not set(split["validation"]) & set(split["test"])
    for part, wanted in (("validation", validation), ("test", test)):
        assert not wanted or split[part] == tuple(sorted(wanted))
    assert split_wells(data.draw(st.permutations(wells)), validation, test, seed) == split


@pytest.mark.parametrize("n_wells", [2, 3, 4])
@given(seed=st.integers(0, 2**32))
def test_with_few_wells_one_validates_and_tests_and_all_others_train(n_wells, seed):
    split = split_wells(WELLS[:n_wells], (), (), seed)
    assert split["validation"] == split["test"]
    assert len(split["test"]) == 1
    assert sorted([*split["train"], *split["test"]]) == sorted(WELLS[:n_wells])


def test_the_eight_wells_of_the_challenge_split_in_five_one_and_two():
    wells = ["B03", "B04", "C02", "C03", "C04", "D02", "D03", "D04"]
    splits = [split_wells(wells * 6, (), (), seed) for seed in range(20)]
    assert {tuple(map(len, split.values())) for split in splits} == {(5, 1, 2)}
    assert len({split["test"] for split in splits}) > 5
    report = split_wells(wells, ("B03",), ("B04",), 0)
    assert report["train"] == ("C02", "C03", "C04", "D02", "D03", "D04")


def test_a_well_named_twice_counts_once():
    assert split_wells(["B03", "B04", "C02"], ("B03", "B03"), (), 0)["validation"] == ("B03",)


@pytest.mark.parametrize(
    ("wells", "validation", "test", "error", "message"),
    [
        (["B03"], (), (), PlateError, r"the plate has one well \(B03\): two are needed"),
        (
            ["B03", "B04"],
            ("E05",),
            (),
            ConfigError,
            "well E05 is not on the plate; its wells are B03, B04",
        ),
        (
            ["B03", "B04"],
            ("B03",),
            ("B03",),
            ConfigError,
            "B03 stand in validation_wells and in test_wells",
        ),
        (["B03", "B04"], ("B03",), ("B04",), PlateError, "no well is left to train on: 2 wells"),
        (
            ["B03", "B04", "C02"],
            ("B03", "B04", "C02"),
            (),
            PlateError,
            "no well is left to train on: 3 wells",
        ),
    ],
)
def test_a_split_that_cannot_be_is_refused(wells, validation, test, error, message):
    with pytest.raises(error, match=message):
        split_wells(wells, validation, test, 0)
