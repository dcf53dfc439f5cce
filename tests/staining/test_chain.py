"""The chain on fields of any size: tiles without seams, flips, a bound on memory."""

import copy

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adipocyte.errors import ConfigError, MemoryLimitError
from adipocyte.networks.memory import bytes_per_px, layout_bytes
from adipocyte.networks.predictor import predictor
from adipocyte.networks.tiles import (
    Tiling,
    halo_of,
    predict_field,
    predict_windows,
    smallest_tile_px,
)
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.simulation import simulate_field
from adipocyte.staining.stainer import Stainer
from benchmarks.tiles import near_a_border
from tests.support.bundles import write_random_bundle

SHAPE = (1000, 320)  # one side no multiple of 32, and more than a tile
HALO_PX = 288  # of the bundle's networks
TILE_PX = smallest_tile_px(HALO_PX)


@pytest.fixture(scope="module")
def stainer(tmp_path_factory: pytest.TempPathFactory) -> Stainer:
    """In float32: where paintings are compared to one count, bf16 would round."""
    return Stainer(write_random_bundle(tmp_path_factory.mktemp("bundle")), precision="32")


@pytest.fixture(scope="module")
def planes() -> np.ndarray:
    """A simulated field, mirrored until it is longer than a tile."""
    field = simulate_field(20, (320, 320), seed=0).planes
    return np.pad(field, ((0, 0), (0, SHAPE[0] - 320), (0, 0)), mode="symmetric")


@pytest.fixture(scope="module")
def whole(stainer, planes) -> dict[str, np.ndarray]:
    return stainer.stain(planes, 20).images


# Tiles.


def test_tiles_leave_no_seam(stainer, planes, whole):
    tiled = stainer.stain(planes, 20, tile_px=TILE_PX).images
    near = near_a_border(SHAPE[0] + -SHAPE[0] % 32, Tiling(TILE_PX, HALO_PX))[: SHAPE[0]]
    for target, image in whole.items():
        difference = np.abs(tiled[target].astype(int) - image)
        assert difference.mean() <= 0.002 * np.ptp(image)
        # Rounding to counts turns a millionth of a count into a whole one here and there: one pixel in ten thousand may be such.
        assert difference[near].mean() <= 1.2 * difference[~near].mean() + 0.0001


def test_a_halo_is_as_wide_as_the_network_is_deep(stainer):
    """Calculated by hand for a network of two convolutions; and known, by measuring (benchmarks/tiles.py), for U-Nets."""
    two = torch.nn.Sequential(
        torch.nn.Conv2d(7, 2, 5, stride=4, padding=2),
        torch.nn.Conv2d(2, 1, 3, padding=4, dilation=4),
    )
    assert 4.5 * np.sqrt((5**2 - 1) / 12 + (4 * 4) ** 2 * (3**2 - 1) / 12) == pytest.approx(
        59.1, abs=0.1
    )
    assert halo_of(two, 7) == 64
    assert set(stainer._halos_px.values()) == {HALO_PX}
    assert (
        halo_of(
            build_unet(UNetSpec(encoder="resnet152", in_channels=7, wide_convolutions="all")), 7
        )
        == 448
    )


def test_without_a_halo_there_would_be_a_seam(stainer, planes):
    """The measure above sees a seam where there is one."""
    network, source = stainer._networks["A2"], (planes.astype(np.float32) - 2000) / 500
    whole = predict_field(network, source)
    cut = predict_windows(
        predictor(network),
        lambda window: source[(slice(None), *window)],
        SHAPE,
        Tiling(224, halo_px=0),
    )
    assert np.abs(cut - whole).mean() > 0.002 * np.ptp(whole)


def test_with_a_halo_as_far_as_the_network_sees_tiles_are_the_whole():
    """A network of two halvings sees 24 pixels far: tiles with a halo of 32 are equal to the last bit that convolutions leave."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 5, stride=2, padding=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 5, stride=2, padding=2),
        torch.nn.Upsample(scale_factor=4),
        torch.nn.Conv2d(4, 1, 3, padding=1),
    ).eval()
    source = np.random.default_rng(0).normal(size=(2, 500, 333)).astype(np.float32)
    tiled = predict_windows(
        predictor(network),
        lambda window: source[(slice(None), *window)],
        source.shape[1:],
        Tiling(192, halo_px=32),
    )
    np.testing.assert_allclose(tiled, predict_field(network, source), atol=1e-5)


def reach_px(network: torch.nn.Module) -> int:
    """How far *network* sees: how far a bright row shows through a copy whose weights are all positive, so that nothing cancels."""
    sees = copy.deepcopy(network).double()
    for convolution in (module for module in sees.modules() if isinstance(module, torch.nn.Conv2d)):
        torch.nn.init.constant_(convolution.weight, 1 / convolution.weight[0].numel())
    for norm in (module for module in sees.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.reset_parameters()  # changes nothing from here on
    field = torch.zeros((1, 7, 1024, 32), dtype=torch.float64)
    with torch.inference_mode():
        dark = sees(field)[0, 0]
        field[..., 512:544, :] = 1  # one row of each place on the grid of halvings
        seen = torch.nonzero((sees(field)[0, 0] != dark).any(1))
    return int(max(512 - seen.min(), seen.max() - 543))


def test_with_a_halo_of_the_receptive_field_a_unet_paints_the_same_counts(stainer, planes):
    network, scaling = stainer._networks["A2"], stainer._scaling(20, "A2")
    field = np.pad(planes[:, :750], ((0, 0), (0, 0), (0, 704 - SHAPE[1])), mode="symmetric")
    source = stainer._scaling(20, "brightfield").normalise(field)
    halo_px = reach_px(network)
    assert 224 < halo_px < 320
    halo_px += -halo_px % 32
    tiling = Tiling(2 * halo_px + 96, halo_px=halo_px)
    tiled = predict_windows(
        predictor(network), lambda window: source[(slice(None), *window)], (750, 704), tiling
    )
    whole = scaling.denormalise(predict_field(network, source)).astype(int)
    assert np.ptp(whole) > 100
    np.testing.assert_allclose(scaling.denormalise(tiled), whole, atol=1)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(64, 700),
    width=st.integers(64, 700),
    side=st.sampled_from([160, 192, 256, 512]),
    halo=st.sampled_from([0, 32]),
)
def test_tiles_cover_every_pixel_once(height, width, side, halo):
    network = torch.nn.Conv2d(1, 1, kernel_size=1)
    torch.nn.init.ones_(network.weight)
    torch.nn.init.zeros_(network.bias)
    source = np.random.default_rng(0).normal(size=(1, height, width)).astype(np.float32)
    tiled = predict_windows(
        predictor(network),
        lambda window: source[(slice(None), *window)],
        (height, width),
        Tiling(side, halo_px=halo),
    )
    np.testing.assert_allclose(tiled, source[0], atol=1e-5)


@pytest.mark.parametrize(("side", "halo"), [(100, 0), (256, 100), (576, 256), (0, 0), (-768, 256)])
def test_tiles_that_cannot_be_laid_are_refused(side, halo):
    with pytest.raises(ConfigError, match="multiples of 32, the side at least"):
        Tiling(side, halo_px=halo)


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


def test_flips_are_the_mean_of_the_eight_ways_a_square_can_lie(stainer, planes):
    network, source = (
        stainer._networks["A2"],
        ((planes[:, :64, :96] - 2000.0) / 500).astype(np.float32),
    )
    ways = []
    for quarters in range(4):
        for mirror in (lambda image: image, np.fliplr):
            seen = np.stack([mirror(np.rot90(plane, quarters)) for plane in source])
            ways.append(np.rot90(mirror(predict_field(network, seen)), -quarters))
    averaged = predict_windows(
        predictor(network), lambda window: source[(slice(None), *window)], (64, 96), tta=True
    )
    np.testing.assert_allclose(averaged, np.mean(ways, axis=0), atol=1e-5)


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
        match=r"10000 x 10000 pixels takes \d+ MB of memory in tiles of 832, 150 are allowed",
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


def test_what_a_network_takes_is_told_by_shapes_alone():
    """Two images of 16 channels live at once, with two more while a convolution runs; what works in place is not counted twice."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(4, 16, 3, padding=1),
        torch.nn.ReLU(inplace=True),
        torch.nn.Conv2d(16, 16, 3, padding=1),
        torch.nn.ReLU(inplace=True),
    )
    assert bytes_per_px(network, 4) == 4 * (16 + 16) + 4 * (16 + 16)
    assert layout_bytes(network) == 4 * 16 * 16 * 3 * 3  # the heavier of the two convolutions


def test_the_bound_is_a_share_of_what_is_free(tmp_path, stainer):
    assert 0 < stainer.memory_mb < psutil.virtual_memory().total / 1e6
