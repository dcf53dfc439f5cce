"""A bundle whose networks paint several stains each, and one of the time before there were such."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adipocyte.domain import BRIGHTFIELD, TARGETS
from adipocyte.errors import BundleError
from adipocyte.networks.files import load_network
from adipocyte.networks.tiles import predict_field
from adipocyte.staining.bundle import NetworkEntry, read_manifest
from adipocyte.staining.stainer import Stainer
from tests.support.bundles import SMALLEST, make_bundle, spec
from tests.support.plates import planes

ALL = NetworkEntry(TARGETS, sees_mask=False)
LIPIDS = NetworkEntry(("A2",), sees_mask=False)
OTHERS = NetworkEntry(("A1", "", "A3"), sees_mask=True)  # its A2 is not used


def unet(entry: NetworkEntry):
    channels = {"in_channels": 7 + entry.sees_mask, "out_channels": len(entry.paints)}
    return replace(spec("A2", SMALLEST), **channels)


def bundle_of(folder: Path, *entries: NetworkEntry) -> Path:
    specs = {entry.name: unet(entry) for entry in entries} | {"segmenter": spec("segmenter")}
    return make_bundle(folder, specs, networks={entry.name: entry for entry in entries})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(tmp_path_factory.mktemp("shared") / "bundle", ALL)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(tmp_path_factory.mktemp("mixed") / "bundle", LIPIDS, OTHERS)


def test_one_network_paints_all_stains_and_there_is_no_segmenter(shared):
    assert {path.name for path in shared.iterdir() if path.is_dir()} == {"A1-A2-A3"}
    stainer, stack = Stainer(shared, precision="32"), planes()
    assert list(stainer.predictors) == ["A1-A2-A3"]
    painted = stainer.stain(stack, 20, intensities="none").images
    light = stainer.manifest.scaling(20, BRIGHTFIELD).normalise(stack)
    outputs = predict_field(load_network(shared / "A1-A2-A3")[1], light)
    for target, output in zip(TARGETS, outputs, strict=True):
        expected = stainer.manifest.scaling(20, target).denormalise(output).astype(int)
        np.testing.assert_allclose(painted[target].astype(int), expected, atol=1)


@pytest.mark.parametrize("targets", [("A2",), ("A3", "A1"), TARGETS])
def test_some_stains_of_a_network_are_those_of_all(shared, targets):
    stainer, stack = Stainer(shared), planes()
    everything, some = (stainer.stain(stack, 20, targets=asked) for asked in (None, targets))
    assert some.images.keys() == set(targets)
    for target in targets:
        np.testing.assert_array_equal(some.images[target], everything.images[target])


def test_an_output_that_another_network_paints_is_not_used(mixed):
    stainer, stack = Stainer(mixed, precision="32"), planes()
    assert list(stainer.predictors) == ["segmenter", "A2", "A1-A3"]
    painted = stainer.stain(stack, 20).images
    alone = stainer.stain(stack, 20, targets=["A2"]).images
    np.testing.assert_array_equal(painted["A2"], alone["A2"])
    light = stainer.manifest.scaling(20, BRIGHTFIELD).normalise(stack)
    [output] = predict_field(load_network(mixed / "A2")[1], light)
    expected = stainer.manifest.scaling(20, "A2").denormalise(output).astype(int)
    np.testing.assert_allclose(painted["A2"].astype(int), expected, atol=1)


def test_tiles_and_flips_of_several_stains_are_those_of_the_whole(shared):
    stainer, stack = Stainer(shared, precision="32"), planes(0, (960, 64))
    whole = stainer.stain(stack, 20).images
    tiled = stainer.stain(stack, 20, tile_px=928).images
    turned = stainer.stain(stack, 20, tta=True).images
    for target in TARGETS:
        # Its encoder looks at the mean of its tile (squeeze and excitation).
        assert np.abs(whole[target].astype(int) - tiled[target]).mean() < 0.05 * np.ptp(
            whole[target]
        )
        assert (turned[target] != whole[target]).any()


def test_more_outputs_take_more_memory(shared, tmp_path):
    one = bundle_of(tmp_path / "bundle", *(NetworkEntry((t,), sees_mask=False) for t in TARGETS))
    needed = [Stainer(folder).memory_needed_mb((1024, 1024)) for folder in (shared, one)]
    assert needed[0] > needed[1]


def test_a_bundle_of_separate_networks_is_read_as_it_was_written(small_bundle, tmp_path):
    """Format 4 did not say what its networks paint: each its target, and A1's sees the mask."""
    old = shutil.copytree(small_bundle, tmp_path / "bundle")
    content = json.loads((old / "bundle.json").read_text())
    del content["networks"]
    (old / "bundle.json").write_text(json.dumps(content | {"format": 4}))
    assert read_manifest(old) == read_manifest(small_bundle)
    expected = Stainer(small_bundle).stain(planes(), 20).images
    for target, image in Stainer(old).stain(planes(), 20).images.items():
        np.testing.assert_array_equal(image, expected[target])


@pytest.mark.parametrize(
    ("networks", "sentence"),
    [
        ({}, "the bundle's networks paint , not A1, A2, A3"),
        ({"A1-A2": {"paints": ["A1", "A2"], "sees_mask": False}}, "paint A1, A2, not A1, A2, A3"),
        (
            {
                "A1-A2-A3": {"paints": ["A1", "A2", "A3"], "sees_mask": False},
                "A2": {"paints": ["A2"], "sees_mask": False},
            },
            "paint A1, A2, A3, A2, not",
        ),
        ({"../x": {"paints": ["A1", "A2", "A3"], "sees_mask": False}}, "no name of a file"),
        ({"A1-A2-A3": {"paints": ["A1", "A2", "A3"]}}, "sees_mask"),
        (
            {"A1-A2-A3": {"paints": ["A1", "A2", "A3"], "sees_mask": True}},
            "has no checksum of segmenter/network.json",
        ),
        (
            {"A1-A2-A3": {"paints": ["A1", "A2", "A3", ""], "sees_mask": False}},
            "the bundle's network A1-A2-A3 has 7 inputs and 3 outputs, not 7 and 4",
        ),
    ],
    ids=["none", "too few", "twice", "elsewhere", "no mask said", "a mask", "an output"],
)
def test_what_its_networks_do_not_paint_is_refused(shared, tmp_path, networks, sentence):
    folder = shutil.copytree(shared, tmp_path / "bundle")
    content = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(content | {"networks": networks}))
    with pytest.raises(BundleError, match=sentence):
        Stainer(folder)
