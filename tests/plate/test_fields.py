"""A field written is the field read, under the names of its plate."""

import numpy as np
import pytest
import tifffile

from adipocyte.domain import TARGETS, FieldKey
from adipocyte.errors import ImageError, PlateError
from adipocyte.plate.fields import RawField, read_field, stained_name, write_field
from adipocyte.plate.names import ImageName
from adipocyte.plate.scan import scan_plate
from adipocyte.plate.tiff import write_image

KEY = FieldKey(20, "B03", 1)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)


@pytest.fixture
def plate(tmp_path):
    """A raw plate of one field of 8 x 9 pixels."""
    targets = dict(zip(TARGETS, noise(3, 8, 9), strict=True))
    write_field(tmp_path, KEY, RawField(noise(7, 8, 9), targets))
    return tmp_path


def file_of(plate, ending: str):
    (path,) = (plate / "20x_images").glob(f"*{ending}.tif")
    return path


def test_a_field_written_and_read_is_the_same_field(plate):
    (files,) = scan_plate(plate).fields
    field = read_field(files, TARGETS)
    assert (files.key, tuple(files.targets), files.n_z_planes) == (KEY, TARGETS, 7)
    np.testing.assert_array_equal(field.planes, noise(7, 8, 9))
    np.testing.assert_array_equal(list(field.targets.values()), noise(3, 8, 9))


def test_a_fields_files_tell_the_size_of_its_pixels(tmp_path):
    write_field(tmp_path, FieldKey(40, "B03", 1), RawField(noise(1, 8, 9), {"A1": noise(8, 9)}))
    write_field(tmp_path, KEY, RawField(noise(1, 8, 9), {}), 0.3)
    n_told = {"40x": 0, "20x": 0}
    for path in tmp_path.rglob("*.tif"):
        with tifffile.TiffFile(path) as file:
            n_px, n_um = file.pages.first.tags["XResolution"].value
        at = path.parent.name.partition("_")[0]
        assert n_um / n_px == {"40x": 0.163, "20x": 0.3}[at]
        n_told[at] += 1
    assert n_told == {"40x": 2, "20x": 1}


def test_targets_are_found_under_the_organisers_names_too(plate):
    old = file_of(plate, "A03Z01C03")
    old.rename(old.with_name(old.name.replace("A03Z01C03", "A01Z01C03")))
    field = read_field(scan_plate(plate).fields[0], ("A3",))
    np.testing.assert_array_equal(field.targets["A3"], noise(3, 8, 9)[2])


def test_fields_come_by_magnification_well_and_number_and_other_files_are_left_alone(plate):
    for key in (
        FieldKey(60, "C02", 1),
        FieldKey(20, "B03", 12),
        FieldKey(20, "B03", 2),
        FieldKey(40, "A01", 1),
    ):
        write_field(plate, key, RawField(noise(7, 8, 9), {}))
    (plate / "20x_images" / "thumbnail.tif").write_bytes(b"no image")
    other = ImageName(well="B03", fov=1, action=5, z_plane=1, channel=5)
    write_image(plate / "20x_images" / str(other), noise(8, 9))
    scanned = scan_plate(plate, targets=())
    assert (len(scanned.ignored), scanned.problems) == (2, ())
    assert [str(files.key) for files in scanned.fields] == [
        "20x B03 F001",
        "20x B03 F002",
        "20x B03 F012",
        "40x A01 F001",
        "60x C02 F001",
    ]


def test_a_stained_image_has_the_name_of_the_plate_it_was_made_from(plate):
    for path in (plate / "20x_images").iterdir():
        path.rename(path.with_name(path.name.replace("AssayPlate_Greiner_#655090", "Mine")))
    (files,) = scan_plate(plate).fields
    assert stained_name(files, "A2") == "20x_images/Mine_B03_T0001F001L01A02Z01C02.tif"


@pytest.mark.parametrize("ending", ["Z07C04", "A02Z01C02"])
def test_images_of_two_sizes_are_refused_with_both(plate, ending):
    (files,) = scan_plate(plate).fields
    write_image(file_of(plate, ending), noise(9, 8))
    with pytest.raises(PlateError, match=r"\(9, 8\), but .*Z01C04\.tif is \(8, 9\)") as refusal:
        read_field(files, TARGETS)
    assert refusal.value.found.startswith(f"{file_of(plate, ending)} is ")
    assert refusal.value.remedy.startswith("all images of a field must have one size")


@pytest.mark.parametrize("ending", ["Z03C04", "A02Z01C02"])
def test_an_image_that_cannot_be_used_is_refused_with_its_file(plate, ending):
    (files,) = scan_plate(plate).fields
    path = file_of(plate, ending)
    path.write_bytes(b"no TIFF")
    with pytest.raises(ImageError, match=rf"^{path} cannot be read as TIFF"):
        read_field(files, TARGETS)
