"""A field in tiles is the field in one piece, and what it takes is known before it is painted."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adipocyte.errors import ConfigError
from adipocyte.networks.memory import bytes_per_px, layout_bytes
from adipocyte.networks.predictor import make_ready, predict_with
from adipocyte.networks.tiles import Tiling, predict_field, predict_windows, segment_field
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.simulation import simulate_field
from tests.support.bundles import NARROW, random_network

ALL_WAYS = [(quarters, mirrored) for quarters in range(4) for mirrored in (False, True)]
SHAPE = (750, 704)  # one side no multiple of 32, and more than a tile


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return random_network(
        UNetSpec(encoder="resnet18", in_channels=7, wide_convolutions=NARROW["A2"])
    ).eval()


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    """A simulated field in network units, mirrored until it is longer than a tile."""
    planes = simulate_field(20, (384, 352), seed=0).planes.astype(np.float32)
    extra = ((0, 0), (0, SHAPE[0] - 384), (0, SHAPE[1] - 352))
    return np.pad((planes - 2000) / 500, extra, mode="symmetric")


def tiled(
    network: torch.nn.Module, source: np.ndarray, tiling: Tiling | None, *, tta: bool = False
) -> np.ndarray:
    def read(window: tuple[slice, slice]) -> np.ndarray:
        return source[(slice(None), *window)]

    return predict_windows(predict_with(network), read, source.shape[1:], tiling, tta=tta)


# Whole fields.


@settings(max_examples=15)
@given(height=st.integers(1, 70), width=st.integers(1, 70))
def test_a_field_of_any_size_keeps_it(height, width):
    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 3, kernel_size=1)
    source = np.random.default_rng(0).standard_normal((2, height, width), dtype=np.float32)
    expected = network(torch.from_numpy(source)[None])[0].detach().numpy()
    # The sums run in another order.
    np.testing.assert_allclose(predict_field(network, source), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 96), (32, 32)])
def test_a_field_of_whole_multiples_is_what_the_network_says(network, shape):
    source = np.random.default_rng(0).standard_normal((7, *shape), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(source)[None])[0].numpy()
    predicted = predict_field(network, source)
    # Channels last: the sums run in another order.
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-4)
    # A logit of 0 is a probability of one half.
    np.testing.assert_array_equal(segment_field(network, source), predicted[0] > 0)


def test_a_field_between_multiples_is_cut_from_its_mirrored_neighbour(network):
    source = np.random.default_rng(0).standard_normal((7, 50, 40), dtype=np.float32)
    mirrored = np.concatenate([source, source[:, :-15:-1]], axis=1)  # 64 rows
    mirrored = np.concatenate([mirrored, mirrored[:, :, :-25:-1]], axis=2)  # 64 columns
    expected = predict_field(network, mirrored)[:, :50, :40]
    np.testing.assert_array_equal(predict_field(network, source), expected)


# Tiles.


def halo_of(network: torch.nn.Module) -> int:
    copied = copy.deepcopy(network)  # because it is used up
    return make_ready(copied, 7, torch.device("cpu"), "32", compiled=False).halo_px


def test_a_halo_is_as_wide_as_the_network_is_deep(network):
    """By hand for two convolutions; as benchmarks/tiles.py measured it for U-Nets."""
    two = torch.nn.Sequential(
        torch.nn.Conv2d(7, 2, 5, stride=4, padding=2),
        torch.nn.Conv2d(2, 1, 3, padding=4, dilation=4),
    )
    variance = (5**2 - 1) / 12 + (4 * 4) ** 2 * (3**2 - 1) / 12
    assert 4.5 * np.sqrt(variance) == pytest.approx(59.1, abs=0.1)
    assert halo_of(two) == 64
    assert halo_of(network) == 288
    report = UNetSpec(encoder="resnet152", in_channels=7, wide_convolutions="all")
    assert halo_of(build_unet(report)) == 448
    compact = UNetSpec(encoder="none", in_channels=7, architecture="compact")
    assert halo_of(build_unet(compact)) == 96


def test_without_a_halo_there_would_be_a_seam(network, source):
    """The measure of `test_tiles_leave_no_seam` sees a seam where there is one."""
    whole = predict_field(network, source)
    cut = tiled(network, source, Tiling(224, halo_px=0))
    assert np.abs(cut - whole).mean() > 0.002 * np.ptp(whole)


def test_with_a_halo_as_far_as_the_network_sees_tiles_are_the_whole():
    """A network of two halvings sees 24 pixels far, so a halo of 32 leaves only rounding."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 5, stride=2, padding=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 5, stride=2, padding=2),
        torch.nn.Upsample(scale_factor=4),
        torch.nn.Conv2d(4, 1, 3, padding=1),
    ).eval()
    source = np.random.default_rng(0).normal(size=(2, 500, 333)).astype(np.float32)
    painted = tiled(network, source, Tiling(192, halo_px=32))
    np.testing.assert_allclose(painted, predict_field(network, source), atol=1e-5)


def reach_px(network: torch.nn.Module) -> int:
    """How far *network* sees: how far a bright row shows in its output.

    It is measured on a copy whose weights are all positive, so that nothing cancels.
    """
    sees = copy.deepcopy(network).double()
    for convolution in (module for module in sees.modules() if isinstance(module, torch.nn.Conv2d)):
        torch.nn.init.constant_(convolution.weight, 1 / convolution.weight[0].numel())
    for norm in (module for module in sees.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.reset_parameters()  # from here on it changes nothing
    field = torch.zeros((1, 7, 1024, 32), dtype=torch.float64)
    with torch.inference_mode():
        dark = sees(field)[0, 0]
        field[..., 512:544, :] = 1  # one row of each place on the grid of halvings
        seen = torch.nonzero((sees(field)[0, 0] != dark).any(1))
    return int(max(512 - seen.min(), seen.max() - 543))


@pytest.mark.slow
def test_with_a_halo_of_the_receptive_field_a_unet_paints_the_same_counts(network, source):
    halo_px = reach_px(network)
    assert 224 < halo_px < 320
    halo_px += -halo_px % 32
    painted = 1000 + 300 * tiled(network, source, Tiling(2 * halo_px + 96, halo_px=halo_px))
    whole = 1000 + 300 * predict_field(network, source)
    assert np.ptp(whole) > 100
    np.testing.assert_allclose(np.rint(painted), np.rint(whole), atol=1)


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
    painted = tiled(network, source, Tiling(side, halo_px=halo))
    np.testing.assert_allclose(painted, source, atol=1e-5)


@pytest.mark.parametrize(("side", "halo"), [(100, 0), (256, 100), (576, 256), (0, 0), (-768, 256)])
def test_tiles_that_cannot_be_laid_are_refused(side, halo):
    with pytest.raises(ConfigError, match="multiples of 32, the side at least"):
        Tiling(side, halo_px=halo)


def test_flips_are_the_mean_of_the_eight_ways_a_square_can_lie(network, source):
    field = np.ascontiguousarray(source[:, :64, :96])
    paintings = []
    for quarters, mirrored in ALL_WAYS:
        mirror = np.fliplr if mirrored else np.asarray
        seen = np.stack([mirror(np.rot90(plane, quarters)) for plane in field])
        paintings.append(np.rot90(mirror(predict_field(network, seen)[0]), -quarters))
    [averaged] = tiled(network, field, None, tta=True)
    np.testing.assert_allclose(averaged, np.mean(paintings, axis=0), atol=1e-5)


# Memory.


def test_the_memory_of_a_network_is_known_from_shapes_alone():
    """Two images of 16 channels live at once, and two more while a convolution runs.

    A layer that works in place is not counted twice.
    """
    network = torch.nn.Sequential(
        torch.nn.Conv2d(4, 16, 3, padding=1),
        torch.nn.ReLU(inplace=True),
        torch.nn.Conv2d(16, 16, 3, padding=1),
        torch.nn.ReLU(inplace=True),
    )
    assert bytes_per_px(network, 4) == 4 * (16 + 16) + 4 * (16 + 16)
    assert layout_bytes(network) == 4 * 16 * 16 * 3 * 3  # the heavier of the two convolutions
