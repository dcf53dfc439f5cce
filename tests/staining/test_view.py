"""Fields of objectives that a bundle has not seen: refused, or painted in the nearest's pixels."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from adipocyte.errors import BundleError, ConfigError, ImageError, MemoryLimitError
from adipocyte.imaging.resizing import resized
from adipocyte.staining.bundle import add_grades, read_manifest
from adipocyte.staining.stainer import Stainer

PLANES = np.random.default_rng(0).integers(500, 3000, (7, 80, 96), dtype=np.uint16)


@pytest.fixture(scope="module")
def stainer(compact_bundle) -> Stainer:
    """It has seen 20x alone."""
    return Stainer(compact_bundle, precision="32")


@pytest.mark.parametrize(
    ("magnification", "um_per_px", "found"),
    [
        (10, None, "has not seen 10x, only 20x: .*resample=true"),
        (10, 0.65, "has not seen 10x, only 20x"),
        (20, 0.65, r"has not seen 20x with pixels of 0\.65 µm, only of 0\.325 µm"),
        (63, None, "has not seen 63x"),
    ],
)
def test_an_objective_that_was_not_seen_is_refused(stainer, magnification, um_per_px, found):
    for refuse in (
        lambda: stainer.stain(PLANES, magnification, um_per_px=um_per_px),
        lambda: stainer.check(PLANES.shape[1:], magnification, um_per_px=um_per_px),
    ):
        with pytest.raises(ImageError, match=found):
            refuse()


@pytest.mark.parametrize("resample", [False, True])
def test_pixels_nearly_as_they_were_seen_are_painted_as_they_are(stainer, resample):
    plain = stainer.stain(PLANES, 20)
    found = stainer.stain(PLANES, 20, um_per_px=0.3, resample=resample)
    np.testing.assert_equal(found.images, plain.images)
    assert found.warnings == plain.warnings


@pytest.mark.parametrize(("magnification", "um_per_px"), [(10, None), (20, 0.65), (25, 0.65)])
def test_a_field_is_painted_in_the_nearest_objectives_pixels(stainer, magnification, um_per_px):
    found = stainer.stain(PLANES, magnification, um_per_px=um_per_px, resample=True)
    fine = np.stack([resized(plane, (160, 192)) for plane in PLANES])
    expected = stainer.stain(fine, 20)
    for target, image in expected.images.items():
        np.testing.assert_array_equal(found.images[target], resized(image, (80, 96)))
    *same, note = found.warnings
    assert tuple(same) == expected.warnings
    assert note.startswith("resampled to the pixels of 20x")


def test_what_cannot_be_resampled_is_refused(stainer):
    with pytest.raises(ImageError, match=r"how large the pixels are at 25x: .*um_per_px"):
        stainer.stain(PLANES, 25, resample=True)
    with pytest.raises(ImageError, match="25 x 30 pixels as the model sees it, at 20x"):
        stainer.check((80, 96), 63, resample=True)
    with pytest.raises(ImageError, match="intervals hold for objectives that the model has seen"):
        stainer.stain(PLANES, 10, resample=True, level=0.9)


def test_memory_is_judged_by_the_pixels_that_the_networks_see(compact_bundle):
    narrow = Stainer(compact_bundle, memory_mb=120, precision="32")
    narrow.check((80, 96), 20)
    with pytest.raises(MemoryLimitError, match="4923 x 5908 pixels"):
        narrow.stain(PLANES, 20, um_per_px=20.0, resample=True)


def test_a_bundle_may_have_seen_other_pixels_than_are_usual(compact_bundle, tmp_path):
    folder = shutil.copytree(compact_bundle, tmp_path / "bundle")
    manifest = folder / "bundle.json"
    stated = json.loads(manifest.read_text())
    assert "um_per_px" not in stated  # older code reads it, too
    manifest.write_text(json.dumps(stated | {"um_per_px": {"20": 0.65}}))
    binned = Stainer(folder, precision="32")
    np.testing.assert_equal(
        binned.stain(PLANES, 20, um_per_px=0.65).images, binned.stain(PLANES, 20).images
    )
    with pytest.raises(ImageError, match=r"0\.325 µm, only of 0\.65 µm"):
        binned.stain(PLANES, 20, um_per_px=0.325)
    assert binned.manifest.objectives == {20: 0.65}
    add_grades(folder, [])  # writes the manifest again, in a format that older code refuses by name
    assert json.loads(manifest.read_text())["format"] == 7


@pytest.fixture
def pretrained(compact_bundle, tmp_path) -> Path:
    """The bundle of a network that takes any objective, and of which a caution is said."""
    folder = shutil.copytree(compact_bundle, tmp_path / "bundle")
    stated = json.loads((folder / "bundle.json").read_text())
    changed = stated | {"format": 8, "any_objective": True, "caution": "compare shapes alone"}
    (folder / "bundle.json").write_text(json.dumps(changed))
    return folder


def test_a_bundle_of_any_objective_paints_them_without_being_asked(stainer, pretrained):
    own = Stainer(pretrained, precision="32")
    asked = stainer.stain(PLANES, 10, resample=True)
    found = own.stain(PLANES, 10)
    np.testing.assert_equal(found.images, asked.images)
    assert found.is_resampled
    assert found.warnings[-1] == "painted in pixels of 0.325 µm and brought to the field's own"
    own.check(PLANES.shape[1:], 63, um_per_px=0.3)
    with pytest.raises(ImageError, match="how large the pixels are at 25x"):
        own.stain(PLANES, 25)


def test_the_caution_of_a_bundle_is_said_with_every_painting(stainer, pretrained):
    own = Stainer(pretrained, precision="32")
    plain = stainer.stain(PLANES, 20).warnings
    assert own.stain(PLANES, 20).warnings == ("compare shapes alone", *plain)
    assert own.stain(PLANES, 10).warnings[0] == "compare shapes alone"
    with pytest.raises(ConfigError, match="no plate: compare shapes alone: paint without"):
        own.stain(PLANES, 20, level=0.9)


def test_older_code_refuses_a_bundle_with_a_caution_by_its_format(pretrained):
    add_grades(pretrained, [])  # writes the manifest again
    stated = json.loads((pretrained / "bundle.json").read_text())
    assert (stated["format"], stated["any_objective"]) == (8, True)
    assert read_manifest(pretrained).caution == "compare shapes alone"


@pytest.mark.parametrize(
    "damage", [{"caution": 7}, {"caution": "a" * 1001}, {"any_objective": "yes"}]
)
def test_a_caution_of_another_form_is_refused(pretrained, damage):
    stated = json.loads((pretrained / "bundle.json").read_text())
    (pretrained / "bundle.json").write_text(json.dumps(stated | damage))
    with pytest.raises(BundleError, match="holds no whole bundle"):
        read_manifest(pretrained)
