"""A prepared store holds the plate's own counts, opens in public readers, and is there whole or not at all."""

import json
import os
import shutil

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05 import HCS, Image, ImageLabel

from adipocyte.errors import ConfigError, ImageError, PlateError, StoreError
from adipocyte.imaging.masks import nuclei_mask
from adipocyte.plate.reader import read_field, scan_plate
from adipocyte.store.paths import field_path, mask_path, plate_path
from adipocyte.store.pictures import histogram_plot, mask_sheet
from adipocyte.store.prepare import Masking, prepare
from adipocyte.store.reader import BRIGHTFIELD, Store
from adipocyte.store.split import FEW_WELLS, PARTS, split_wells

TARGETS = ("A1", "A2", "A3")
MASKING = Masking(threshold=2.0, superpixel_px=10, smallest_px=50)
SETTINGS = {"masking": MASKING, "normalisation": "plate", "validation_wells": ("B03",), "test_wells": ("B04",), "seed": 0}
CHANNELS = ["Z1", "Z2", "Z3", "Z4", "Z5", "Z6", "Z7", *TARGETS]
WELLS = [f"{row}{column:02d}" for row in "ABCP" for column in (1, 2, 24)]


def contents(folder):
    """What lies in a folder, byte for byte and when it was last written."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


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
    files = scan_plate(small_plate)
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


def test_masks_are_made_of_the_nuclei_stain_with_lengths_that_grow_with_the_magnification(small_store):
    for key in small_store.manifest.fields:
        zoom = key.magnification // 20
        expected = nuclei_mask(small_store.target(key, "A1"), threshold=2.0, superpixel_px=10 * zoom, smallest_px=50 * zoom**2)
        assert small_store.mask(key).dtype == bool
        np.testing.assert_array_equal(small_store.mask(key), expected)
    assert any(small_store.mask(key).any() for key in small_store.keys("train"))


def test_statistics_are_those_of_the_training_wells_alone(small_store):
    for magnification in (20, 40):
        keys = [key for key in small_store.keys("train") if key.magnification == magnification]
        assert {key.well for key in keys} == {"C02", "C03"}
        pixels = {target: np.stack([small_store.target(key, target) for key in keys]) for target in TARGETS}
        pixels[BRIGHTFIELD] = np.stack([small_store.planes(key) for key in keys])
        for channel, counts in pixels.items():
            scaling = small_store.scaling(magnification, channel)
            np.testing.assert_allclose((scaling.mean, scaling.std), (counts.mean(), counts.std()), rtol=1e-9)
            assert small_store.median(magnification, channel) == np.median(counts)
            np.testing.assert_array_equal(small_store.histogram(magnification, channel), np.bincount(counts.ravel(), minlength=65536))


def test_normalisation_report_is_table_3_1_for_brightfield_and_measured_for_the_rest(small_plate, small_store, tmp_path):
    store = prepare(small_plate, tmp_path / "store", **{**SETTINGS, "normalisation": "report"})
    brightfield = [store.scaling(magnification, BRIGHTFIELD) for magnification in (20, 40)]
    assert [(scaling.mean, scaling.std) for scaling in brightfield] == [(2594, 966), (713, 282)]
    assert store.scaling(20, "A2") == small_store.scaling(20, "A2")


def test_pictures_of_a_store_can_be_drawn(small_store, tmp_path):
    for picture in (histogram_plot(small_store), mask_sheet(small_store)):
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
        for path, n_others in ((field_path(small_store.folder, key), 1), (mask_path(small_store.folder, key), 0)):
            (dataset,) = zarr.open_group(path, mode="r").attrs["ome"]["multiscales"][0]["datasets"]
            assert dataset["coordinateTransformations"] == [{"type": "scale", "scale": [1.0] * n_others + [um_per_px] * 2}]


def test_the_reader_that_viewers_use_opens_field_and_mask(small_store):
    key = small_store.keys("validation")[0]
    image, *others = Reader(parse_url(field_path(small_store.folder, key), mode="r"))()
    np.testing.assert_array_equal(image.data[0].compute()[:7], small_store.planes(key))
    masks = [node for node in others if node.zarr.basename() == "nuclei"]
    np.testing.assert_array_equal(masks[0].data[0].compute().astype(bool), small_store.mask(key))


# Preparing


def test_the_raw_plate_is_left_as_it_was(plate, tmp_path):
    before = contents(plate)
    prepare(plate, tmp_path / "store", **SETTINGS)
    assert contents(plate) == before


def test_preparing_again_does_nothing_and_other_settings_start_over(plate, tmp_path):
    folder = tmp_path / "store"
    first = prepare(plate, folder, **SETTINGS)
    n_mask_px = sum(first.mask(key).sum() for key in first.manifest.fields)
    before = contents(folder)
    assert prepare(plate, folder, **SETTINGS).digest == first.digest
    assert contents(folder) == before

    other = prepare(plate, folder, **{**SETTINGS, "masking": Masking(threshold=3.0, superpixel_px=10, smallest_px=50)})
    assert other.digest != first.digest
    assert sum(other.mask(key).sum() for key in other.manifest.fields) < n_mask_px
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plate", "store"]


def test_a_changed_image_makes_another_store(plate, tmp_path):
    first = prepare(plate, tmp_path / "store", **SETTINGS)
    images = sorted((plate / "20x_images").glob("*B03*A02Z01C02.tif"))
    shutil.copy(next((plate / "20x_images").glob("*C02*A02Z01C02.tif")), images[0])
    assert prepare(plate, tmp_path / "store", **SETTINGS).digest != first.digest


def test_the_same_plate_elsewhere_has_the_same_digest(plate, tmp_path):
    first = prepare(plate, tmp_path / "store", **SETTINGS)
    shutil.copytree(plate, tmp_path / "copy")
    assert prepare(tmp_path / "copy", tmp_path / "other", **SETTINGS).digest == first.digest


def test_a_preparation_that_fails_leaves_the_older_store_and_nothing_that_passes_for_one(plate, tmp_path):
    folder = tmp_path / "store"
    prepare(plate, folder, **SETTINGS)
    before = contents(folder)
    bad = next((plate / "20x_images").glob("*C03*Z06C04.tif"))  # the last well, so that the work is nearly done
    bad.write_bytes(bad.read_bytes()[:1000])
    with pytest.raises(ImageError, match=str(bad)):
        prepare(plate, folder, **SETTINGS)
    assert contents(folder) == before
    with pytest.raises(StoreError, match="not whole"):
        Store(tmp_path / "store.partial")


def test_a_preparation_goes_on_after_one_that_was_broken_off(plate, tmp_path):
    (tmp_path / "store.partial" / "20x.zarr").mkdir(parents=True)
    (tmp_path / "store.old.partial").mkdir()
    prepare(plate, tmp_path / "store", **SETTINGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plate", "store"]


@pytest.mark.parametrize("names", [["notes.txt"], ["manifest.json"], ["manifest.json", "histograms.safetensors", "index.html"]], ids=str)
def test_a_folder_of_something_else_is_refused_and_left_alone(plate, tmp_path, names):
    folder = tmp_path / "store"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{}")
    before = contents(folder)
    with pytest.raises(StoreError, match=r"holds something that is no prepared store: name another folder with -P store=<folder>"):
        prepare(plate, folder, **SETTINGS)
    assert contents(folder) == before


def test_a_file_in_the_stores_place_is_refused_and_left_alone(plate, tmp_path):
    (tmp_path / "store").write_text("notes")
    with pytest.raises(StoreError, match="no prepared store: name another folder"):
        prepare(plate, tmp_path / "store", **SETTINGS)
    assert (tmp_path / "store").read_text() == "notes"


def test_a_plate_without_the_nuclei_stain_is_refused(plate, tmp_path):
    for path in (plate / "20x_images").glob("*A01Z01C01.tif"):
        path.unlink()
    with pytest.raises(PlateError, match="the plate has only A2, A3: training needs at least A1"):
        prepare(plate, tmp_path / "store", **SETTINGS)


def test_a_stain_that_no_field_has_is_left_out_and_one_that_some_lack_is_refused(plate, tmp_path):
    first, *others = sorted((plate / "20x_images").glob("*A03Z01C03.tif"))
    first.unlink()
    with pytest.raises(PlateError, match="field 20x B03 F001 has no A3 image"):
        prepare(plate, tmp_path / "store", **SETTINGS)
    for path in others:
        path.unlink()
    store = prepare(plate, tmp_path / "store", **SETTINGS)
    assert store.manifest.targets == ("A1", "A2")
    store.require_target("A2")
    with pytest.raises(StoreError, match="has no A3, only A1, A2: prepare a plate with A3 images"):
        store.require_target("A3")


def test_a_magnification_without_a_training_well_is_refused(plate, small_plate, tmp_path):
    (plate / "40x_images").mkdir()
    for path in (small_plate / "40x_images").glob("*_B03_*"):
        shutil.copy(path, plate / "40x_images")
    with pytest.raises(PlateError, match=r"no training well has a field at 40x: .* -P validation_wells="):
        prepare(plate, tmp_path / "store", **SETTINGS)


# Opening


def test_a_store_that_is_not_there_is_refused_with_the_next_command(tmp_path):
    with pytest.raises(StoreError, match=r"is not there; prepare one with: mlflow run \. -e preprocess -P plate="):
        Store(tmp_path / "store")


def test_a_store_that_is_not_whole_is_refused_with_the_next_command(store):
    (store / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"is not whole \(its preprocessing did not finish\); prepare one with: mlflow run"):
        Store(store)


def test_a_store_of_a_newer_format_is_refused_with_both_formats(store):
    content = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps({**content, "format": 2, "novelty": True}))
    with pytest.raises(StoreError, match="has format 2, this code reads format 1; prepare one with: mlflow run"):
        Store(store)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "fields": [], "targets": [], "split": []}'])
def test_a_damaged_manifest_is_refused_with_its_file(store, content):
    (store / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=r"manifest\.json is damaged .*; remove .* and prepare one with: mlflow run"):
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
def test_a_split_covers_the_wells_disjointly_honours_the_named_and_repeats(wells, named, seed, data):
    order = data.draw(st.permutations(wells))
    validation, test = order[: named[0]], order[named[0] : sum(named)]
    # A part that is not named takes a quarter of the wells for test, an eighth for validation, and at least one.
    n_test = len(test) or max(1, round(len(wells) / 4))
    n_validation = len(validation) or (max(1, round(len(wells) / 8)) if len(wells) >= FEW_WELLS else 0)
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
        (["B03", "B04"], ("E05",), (), ConfigError, "well E05 is not on the plate; its wells are B03, B04"),
        (["B03", "B04"], ("B03",), ("B03",), ConfigError, "B03 stand in validation_wells and in test_wells"),
        (["B03", "B04"], ("B03",), ("B04",), PlateError, "no well is left to train on: 2 wells"),
        (["B03", "B04", "C02"], ("B03", "B04", "C02"), (), PlateError, "no well is left to train on: 3 wells"),
    ],
)
def test_a_split_that_cannot_be_is_refused(wells, validation, test, error, message):
    with pytest.raises(error, match=message):
        split_wells(wells, validation, test, 0)
