"""Plates that a test may damage."""

import json
import shutil

import numpy as np
import pytest
import tifffile


@pytest.fixture
def plate(small_plate, tmp_path):
    """A plate to damage: the 20x fields of `small_plate`."""
    shutil.copytree(small_plate / "20x_images", tmp_path / "plate" / "20x_images")
    return tmp_path / "plate"


@pytest.fixture(scope="session")
def wide_plate(small_plate, tmp_path_factory):
    """The 20x fields of `small_plate`, each three times: twelve fields."""
    folder = tmp_path_factory.mktemp("wide") / "plate"
    for path in sorted((small_plate / "20x_images").iterdir()):
        for fov in (1, 2, 3):
            (folder / "20x_images").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / "20x_images" / path.name.replace("F001", f"F{fov:03d}"))
    return folder


@pytest.fixture
def shifted(plate, tmp_path):
    """The plate with stains 2 pixels too far down and 3 too far left, and a file that says so."""
    for path in (plate / "20x_images").glob("*Z01C0[123].tif"):
        tifffile.imwrite(path, np.roll(tifffile.imread(path), (2, -3), axis=(0, 1)))
    (tmp_path / "alignment.json").write_text(
        json.dumps({"20": {"1": {"dy_px": 2.0, "dx_px": -3.0, "scale": 1.0}}})
    )
    return plate
