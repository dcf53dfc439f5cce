"""The images of a folder of stains."""

import numpy as np
import pytest
import tifffile

from adipocyte.domain import FieldKey
from adipocyte.plate.names import ImageName
from adipocyte.plate.stains import middle_plane
from tests.support.plates import plane, planes, write_plate


def test_the_middle_plane_is_of_the_first_folder_that_has_one(tmp_path):
    """Stained images alone, then a raw plate beside which they may lie."""
    plate, key = write_plate(tmp_path / "plate", (1, 2)), FieldKey(20, "B03", 2)
    folders = [tmp_path / "nowhere", tmp_path, plate]
    expected = tifffile.imread(plane(plate, 2, 4))
    np.testing.assert_array_equal(middle_plane(folders, key), expected)
    np.testing.assert_array_equal(middle_plane([plate / "20x_images"], key), expected)
    assert middle_plane(folders[:2], key) is None
    assert middle_plane(folders, FieldKey(40, "B03", 2)) is None


@pytest.mark.parametrize("n_planes", [1, 6, 7])
def test_a_stack_has_a_middle_plane_too(tmp_path, n_planes):
    stack = planes(0)[:n_planes]
    name = ImageName(well="B03", fov=1, action=4, z_plane=None, channel=4)
    (tmp_path / "20x_images").mkdir()
    tifffile.imwrite(tmp_path / "20x_images" / str(name), stack, photometric="minisblack")
    found = middle_plane([tmp_path], FieldKey(20, "B03", 1))
    np.testing.assert_array_equal(found, stack[n_planes // 2])


def test_a_plane_that_cannot_be_read_is_none(tmp_path):
    plate = write_plate(tmp_path / "plate", (1,))
    for path in (plate / "20x_images").glob("*C04.tif"):
        path.write_bytes(path.read_bytes()[:100])
    assert middle_plane([plate], FieldKey(20, "B03", 1)) is None
