"""Networks that see joined pixels: what they paint comes back in the field's own."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adipocyte.domain import BRIGHTFIELD, TARGETS, Intensities
from adipocyte.errors import BundleError, MemoryLimitError
from adipocyte.imaging.resizing import joined, resized
from adipocyte.networks.files import load_network
from adipocyte.networks.tiles import predict_field
from adipocyte.networks.unet import UNetSpec
from adipocyte.staining.bundle import NetworkEntry, read_manifest, write_intervals
from adipocyte.staining.stainer import Stainer
from tests.support.bundles import (
    COMPACT,
    make_bundle,
    make_compact_bundle,
    some_widths,
)
from tests.support.plates import planes

FINEST = 0.65  # µm: 20x in two by two pixels, 10x as it is


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coarse") / "bundle"
    return make_compact_bundle(folder, replace(COMPACT, finest_um_per_px=FINEST))


def test_what_is_painted_in_joined_pixels_comes_back_in_the_fields_own(coarse):
    stack, stainer = planes(0, (96, 75)), Stainer(coarse, precision="32")
    found = stainer.stain(stack, 20, intensities="none")
    assert not found.is_resampled
    assert not [one for one in found.warnings if "pixels" in one]
    light = stainer.manifest.scaling(20, BRIGHTFIELD)
    outputs = predict_field(
        load_network(coarse / COMPACT.name)[1], light.normalise(joined(stack, 2))
    )
    for target, output in zip(TARGETS, outputs, strict=True):
        assert output.shape == (48, 38)
        expected = stainer.manifest.scaling(20, target).denormalise(resized(output, (96, 75)))
        np.testing.assert_allclose(
            found.images[target].astype(int), expected.astype(int), rtol=0, atol=1
        )


def test_tiles_of_joined_pixels_leave_no_seam(coarse):
    stack, stainer = planes(0, (1920, 128)), Stainer(coarse, precision="32")
    whole, tiled = (
        stainer.stain(stack, 20, intensities="none", tile_px=side).images for side in (None, 512)
    )
    for target, image in whole.items():
        np.testing.assert_allclose(tiled[target].astype(int), image.astype(int), rtol=0, atol=2)


def test_joined_pixels_take_less_memory(coarse, compact_bundle):
    shape_px = (1024, 1024)
    own = Stainer(compact_bundle, precision="32")
    needed_mb = own.memory_needed_mb(shape_px, n_joined=2)
    assert needed_mb < own.memory_needed_mb(shape_px)
    tight = {"memory_mb": needed_mb + 1, "precision": "32"}
    Stainer(coarse, **tight).check(shape_px, 20, tile_px=1024)
    with pytest.raises(MemoryLimitError):
        Stainer(compact_bundle, **tight).check(shape_px, 20, tile_px=1024)


def test_intervals_are_those_of_the_fields_own_pixels(coarse, tmp_path):
    folder, widths = shutil.copytree(coarse, tmp_path / "bundle"), some_widths()
    write_intervals(folder, {f"20/{target}": widths for target in TARGETS})
    stainer = Stainer(folder)
    found = stainer.stain(planes(), 20, intensities=Intensities.NONE, level=0.8)
    for target, (low, high) in found.intervals.items():
        expected = widths.interval(found.images[target], 0.8)
        np.testing.assert_equal((low, high), expected)


def test_each_network_sees_its_own_pixels(tmp_path):
    lipids = NetworkEntry(("A2",), sees_mask=False)
    others = NetworkEntry(("A1", "A3"), sees_mask=True)
    specs = {
        name: UNetSpec(encoder="none", in_channels=n_in, out_channels=n_out, architecture="compact")
        for name, n_in, n_out in (("segmenter", 7, 1), ("A2", 7, 1), ("A1-A3", 8, 2))
    }
    plain, mixed = (
        make_bundle(tmp_path / name, specs, networks={"A2": one, "A1-A3": others})
        for name, one in (("plain", lipids), ("mixed", replace(lipids, finest_um_per_px=FINEST)))
    )
    stack = planes()
    stainers = [Stainer(one, precision="32") for one in (plain, mixed)]
    expected, found = (stainer.stain(stack, 20) for stainer in stainers)
    for target in ("A1", "A3"):
        np.testing.assert_array_equal(found.images[target], expected.images[target])
    assert (found.images["A2"] != expected.images["A2"]).mean() > 0.5
    alone = stainers[1].stain(stack, 20, targets=["A2"])
    np.testing.assert_array_equal(alone.images["A2"], found.images["A2"])


# On disk.


def test_only_such_a_bundle_has_the_format_that_older_code_refuses(coarse, compact_bundle):
    stated = [json.loads((one / "bundle.json").read_text()) for one in (coarse, compact_bundle)]
    assert [one["format"] for one in stated] == [9, 6]
    assert stated[0]["networks"][COMPACT.name]["finest_um_per_px"] == FINEST
    assert "finest_um_per_px" not in stated[1]["networks"][COMPACT.name]
    assert read_manifest(coarse).networks[COMPACT.name].finest_um_per_px == FINEST
    assert read_manifest(compact_bundle).networks[COMPACT.name].finest_um_per_px == 0


@pytest.mark.parametrize(
    "entry",
    [
        *({"finest_um_per_px": one} for one in ("0.65", None, True, -1, 21, float("nan"))),
        {"finest_um_per_px": FINEST, "sees_mask": True},
    ],
)
def test_impossible_pixels_are_refused(coarse, tmp_path, entry):
    stated = json.loads((coarse / "bundle.json").read_text())
    stated["networks"][COMPACT.name] |= entry
    (tmp_path / "bundle.json").write_text(json.dumps(stated))
    with pytest.raises(BundleError, match="holds no whole bundle"):
        read_manifest(tmp_path)
