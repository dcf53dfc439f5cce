"""Convolutions in integers of eight bits: what is measured, what is rounded, what it costs."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from adipocyte.domain import TARGETS
from adipocyte.errors import BundleError, ConfigError
from adipocyte.networks.files import load_network
from adipocyte.networks.predictor import fold, make_ready, predict_with
from adipocyte.networks.quantisation import adds_in_16_bits, measure_ranges, with_zero
from adipocyte.staining.bundle import read_manifest
from adipocyte.staining.stainer import Stainer
from tests.support.bundles import make_int8_bundle
from tests.support.plates import planes

CPU = torch.device("cpu")
ALL = "A1-A2-A3"


def sources(n: int, side_px: int = 64) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal((7, side_px, side_px), dtype=np.float32) for _ in range(n)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_int8_bundle(tmp_path_factory.mktemp("int8") / "bundle")


def rounded(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor, n: int) -> torch.Tensor:
    """The nearest of *n* values from *low* to *high*."""
    step = (high - low) / (n - 1)
    return ((values.clamp(low, high) - low) / step).round() * step + low


# Ranges


def test_ranges_are_of_what_each_convolution_sees_and_hold_zero():
    first, second = nn.Conv2d(7, 2, 1), nn.Conv2d(2, 1, 1)
    chain = nn.Sequential(first, nn.ReLU(), second).eval()
    given_ = sources(3)
    ranges = measure_ranges(chain, given_)
    assert list(ranges) == ["0", "2"]
    seen = np.percentile(given_, [0.01, 99.99], axis=(1, 2, 3))
    assert ranges["0"] == pytest.approx((seen[0].min(), seen[1].max()))
    assert ranges["2"][0] == 0 < ranges["2"][1]
    before = dict(ranges)
    chain(torch.from_numpy(10 * given_[0])[None])
    assert ranges == before  # nothing is noted any more


@given(st.floats(-1e3, 0), st.floats(0, 1e3))
def test_zero_is_one_of_the_values(low, high):
    moved_low, moved_high = with_zero(low, high)
    step = (moved_high - moved_low) / 255
    assert step > 0
    assert moved_low / step == pytest.approx(round(moved_low / step), abs=1e-6)
    if high > low:
        assert abs(moved_low - low) <= step
        assert abs(moved_high - high) <= step


# Rounding


def test_sources_and_kernels_are_rounded_as_measured(monkeypatch):
    """As PyTorch computes it; in few layers, because last bits of one become steps of the next."""
    monkeypatch.setattr("adipocyte.networks.predictor.fastest_arithmetic", lambda _: "32")
    torch.manual_seed(0)
    layers = nn.Conv2d(7, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 3, 1)
    network = nn.Sequential(*layers).eval()
    source, other = sources(2)
    ranges = measure_ranges(network, [source, other])
    found = make_ready(copy.deepcopy(network), 7, CPU, "int8", True, ranges)(source)
    due = fold(copy.deepcopy(network))
    for name, module in due.named_modules():
        if isinstance(module, nn.Conv2d):
            low, high = (torch.tensor(end) for end in with_zero(*ranges[name]))
            largest = module.weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True)
            n_values = 127 if adds_in_16_bits() else 255
            module.weight.data = rounded(module.weight.data, -largest, largest, n_values)
            module.register_forward_pre_hook(
                lambda _, inputs, low=low, high=high: (rounded(inputs[0], low, high, 256),)
            )
    due, plain = predict_with(due)(source), predict_with(network)(source)
    lost = np.abs(due - plain).mean()
    assert 0 < lost < 0.05 * plain.std()
    assert np.abs(found - due).mean() < 0.05 * lost


def test_a_field_in_int8_is_nearly_that_of_32_bits(bundle):
    exact = Stainer(bundle, precision="32").stain(planes(), 20).images
    found = Stainer(bundle, precision="int8", compiled=True)
    assert found.precision == "int8"
    painted = found.stain(planes(), 20).images
    for target in TARGETS:
        error = np.abs(painted[target].astype(int) - exact[target]).mean()
        assert 0 < error < 0.15 * exact[target].std()


def test_int8_takes_a_compiler_and_ranges(bundle, small_bundle):
    with pytest.raises(ConfigError, match="int8 takes OpenVINO on a CPU: give -P compile=true"):
        Stainer(bundle, precision="int8")
    with pytest.raises(ConfigError, match=r"does not say what the convolutions .* register it"):
        Stainer(small_bundle, precision="int8", compiled=True)


def test_int8_that_would_round_nothing_is_refused():
    network = nn.Sequential(nn.Conv2d(7, 3, 1)).eval()
    ranges = {"of another network": (0.0, 1.0)}
    with pytest.raises(ConfigError, match="none of the network's convolutions"):
        make_ready(network, 7, CPU, "int8", True, ranges)


# In a bundle


@pytest.mark.parametrize("ranges", ["[]", '{"stem.0": 3}', '{"stem.0": [1, 2]}', '{"a": [0, NaN]}'])
def test_ranges_that_are_none_are_damaged(bundle, tmp_path, ranges):
    shutil.copytree(bundle, tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    content = json.loads(path.read_text())
    content["networks"][ALL]["ranges"] = "RANGES"
    path.write_text(json.dumps(content).replace('"RANGES"', ranges))
    with pytest.raises(BundleError, match="holds no whole bundle"):
        read_manifest(tmp_path / "bundle")


def test_ranges_are_kept_and_an_older_bundle_has_none(bundle, tmp_path):
    ranges = read_manifest(bundle).networks[ALL].ranges
    assert len(ranges) == sum(
        isinstance(module, nn.Conv2d) for module in load_network(bundle / ALL)[1].modules()
    )
    shutil.copytree(bundle, tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    content = json.loads(path.read_text())
    del content["networks"][ALL]["ranges"]
    path.write_text(json.dumps(content))
    assert read_manifest(tmp_path / "bundle").networks[ALL].ranges == {}
