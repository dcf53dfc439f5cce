"""The chain on fields of any size: tiles without seams, flips, a limit on memory."""

import numpy as np
import psutil
import pytest

from adipocyte.domain import SEGMENTER
from adipocyte.errors import ConfigError, MemoryLimitError
from adipocyte.networks.tiles import Tiling, smallest_tile_px
from adipocyte.simulation import simulate_field
from adipocyte.staining.stainer import Stainer
from benchmarks.tiles import near_a_border
from tests.support.bundles import make_bundle, unet_specs

SHAPE = (1000, 320)  # one side no multiple of 32, and more than a tile
HALO_PX = 288  # of the bundle's networks
TILE_PX = smallest_tile_px(HALO_PX)


@pytest.fixture(scope="module")
def stainer(tmp_path_factory: pytest.TempPathFactory) -> Stainer:
    """In float32, because bf16 would round where paintings are compared to one count."""
    return Stainer(
        make_bundle(tmp_path_factory.mktemp("bundle") / "bundle", unet_specs()), precision="32"
    )


@pytest.fixture(scope="module")
def planes() -> np.ndarray:
    """A simulated field, mirrored until it is longer than a tile."""
    field = simulate_field(20, (320, 320), seed=0).planes
    return np.pad(field, ((0, 0), (0, SHAPE[0] - 320), (0, 0)), mode="symmetric")


@pytest.fixture(scope="module")
def whole(stainer, planes) -> dict[str, np.ndarray]:
    return stainer.stain(planes, 20).images


# Tiles.


@pytest.mark.slow
def test_tiles_leave_no_seam(stainer, planes, whole):
    tiled = stainer.stain(planes, 20, tile_px=TILE_PX).images
    near = near_a_border(SHAPE[0] + -SHAPE[0] % 32, Tiling(TILE_PX, HALO_PX))[: SHAPE[0]]
    for target, image in whole.items():
        difference = np.abs(tiled[target].astype(int) - image)
        assert difference.mean() <= 0.002 * np.ptp(image)
        # Rounding to counts turns a millionth of a count into a whole one here and there: one pixel
        # in ten thousand may be such.
        assert difference[near].mean() <= 1.2 * difference[~near].mean() + 0.0001


def test_every_network_knows_its_channels_and_the_halo_of_its_tiles(stainer):
    channels = {name: predictor.in_channels for name, predictor in stainer.predictors.items()}
    assert channels == {SEGMENTER: 7, "A1": 8, "A2": 7, "A3": 7}
    assert {predictor.halo_px for predictor in stainer.predictors.values()} == {HALO_PX}


# Targets and flips.


def test_targets_are_painted_alone_as_they_are_together(stainer, planes, whole):
    some = stainer.stain(planes, 20, targets=["A3", "A1"]).images
    assert list(some) == ["A1", "A3"]
    for target, image in some.items():
        np.testing.assert_array_equal(image, whole[target])


@pytest.mark.parametrize(
    ("targets", "found"), [(["A4"], "no target is 'A4'"), ([], "no target is named")]
)
def test_an_unknown_target_is_refused(stainer, planes, targets, found):
    with pytest.raises(ConfigError, match=f"{found}: the model paints A1, A2, A3"):
        stainer.stain(planes, 20, targets=targets)


def test_flips_are_averaged_so_that_a_turned_field_is_the_same_painting_turned(stainer, planes):
    field = planes[:, :64, :96]
    painted = stainer.stain(field, 20, tta=True).images
    for turn in (
        lambda image: np.rot90(image, axes=(-2, -1)),
        lambda image: np.flip(image, -1),
        lambda image: np.flip(image, -2),
    ):
        turned = stainer.stain(np.ascontiguousarray(turn(field)), 20, tta=True).images
        for target, image in painted.items():
            np.testing.assert_allclose(turned[target].astype(int), turn(image), atol=1)
    assert (painted["A2"] != stainer.stain(field, 20).images["A2"]).any()


# Memory.


def test_a_field_that_is_too_large_goes_in_tiles_that_are_not(stainer, planes, whole, monkeypatch):
    in_one_piece = stainer.memory_needed_mb(SHAPE)
    in_tiles = stainer.memory_needed_mb(SHAPE, tile_px=TILE_PX)
    assert in_tiles < in_one_piece
    monkeypatch.setattr(stainer, "memory_mb", in_tiles)
    tiled = stainer.stain(planes, 20, targets=["A2"]).images["A2"]
    np.testing.assert_allclose(tiled.astype(int), whole["A2"], atol=1)


def test_a_field_that_fits_in_no_tiles_is_refused_before_anything_is_taken(stainer, monkeypatch):
    monkeypatch.setattr(stainer, "memory_mb", 150)
    free = psutil.Process().memory_info().rss
    planes = np.zeros((7, 1, 1), dtype=np.uint16)
    enormous = np.broadcast_to(planes, (7, 10_000, 10_000))
    with pytest.raises(
        MemoryLimitError,
        match=r"10000 x 10000 pixels takes \d+ MB of memory in tiles of 832, 150 are allowed: "
        r"send a smaller field, or allow more",
    ):
        stainer.stain(enormous, 20)
    with pytest.raises(MemoryLimitError, match=r"take smaller tiles \(tile_px\)"):
        stainer.stain(enormous, 20, tile_px=1024)
    assert psutil.Process().memory_info().rss - free < 50e6


def test_flips_and_fewer_targets_are_in_the_prediction(stainer):
    needed = stainer.memory_needed_mb((512, 512))
    assert (
        stainer.memory_needed_mb((512, 512), tta=True)
        > needed
        > stainer.memory_needed_mb((512, 512), targets=["A2"])
    )


def test_the_limit_is_a_share_of_what_is_free(stainer):
    assert 0 < stainer.memory_mb < psutil.virtual_memory().total / 1e6
