"""Networks made ready to predict: folded, in the arithmetic of the processor, compiled."""

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from adipocyte.errors import ConfigError
from adipocyte.networks import predictor
from adipocyte.networks.predictor import fold, has_compiler, make_ready, predict_with
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.simulation import simulate_field
from adipocyte.staining.stainer import Stainer
from adipocyte.system.machine import fastest_arithmetic
from tests.support.bundles import make_bundle, unet_specs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A U-Net whose normalisations have seen something."""
    return seasoned(UNetSpec(encoder="resnet18", in_channels=7, wide_convolutions="last"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "bundle", unet_specs())


@pytest.fixture(scope="module")
def planes() -> np.ndarray:
    return simulate_field(20, (150, 110), seed=0).planes


def seasoned(spec: UNetSpec) -> nn.Module:
    torch.manual_seed(0)
    network = build_unet(spec).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, spec.in_channels, 64, 64))
    return network.eval()


def source(*shape_px: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((7, *shape_px), dtype=np.float32)


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


# Folding.


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2", "efficientnet-b0"])
def test_normalisations_are_folded_and_the_output_stays(encoder):
    network = seasoned(UNetSpec(encoder=encoder, in_channels=7))
    expected, before = predict_with(network)(source(64, 96)), norms(network)
    folded = fold(network)
    # EfficientNet pads between some convolutions and their normalisations, which stay.
    assert norms(folded) < (before if encoder == "efficientnet-b0" else before / 2)
    painted = predict_with(folded)(source(64, 96))
    np.testing.assert_allclose(painted, expected, atol=1e-4 * np.ptp(expected))


def test_all_normalisations_of_the_compact_network_are_folded():
    network = seasoned(UNetSpec(encoder="none", in_channels=7, architecture="compact"))
    expected = predict_with(network)(source(64, 96))
    folded = fold(network)
    assert norms(folded) == 0
    painted = predict_with(folded)(source(64, 96))
    np.testing.assert_allclose(painted, expected, atol=1e-4 * np.ptp(expected))


def test_a_network_that_cannot_be_traced_stays_as_it_is():
    network = seasoned(UNetSpec(encoder="resnet18", in_channels=7, architecture="unetplusplus"))
    expected = predict_with(network)(source(64, 64))
    np.testing.assert_array_equal(predict_with(fold(network))(source(64, 64)), expected)


# The arithmetic.


def test_bf16_halves_the_memory_of_a_field(bundle):
    needed = {
        precision: Stainer(bundle, precision=precision).memory_needed_mb((2048, 2048))
        for precision in ("32", "bf16")
    }
    assert needed["bf16"] < 0.7 * needed["32"]


def test_a_stainer_says_what_auto_became(bundle):
    assert Stainer(bundle).precision == fastest_arithmetic("cpu")


@pytest.mark.slow
def test_compiled_networks_keep_the_memory_of_all_of_them(bundle):
    needed = {
        compiled: Stainer(bundle, compiled=compiled).memory_needed_mb((1024, 1024))
        for compiled in (False, True)
    }
    assert needed[True] > 2 * needed[False]


# Compiled.


def test_compiled_networks_are_the_same_networks(network):
    expected = predict_with(network)
    predict = make_ready(copy.deepcopy(network), 7, CPU, "32", compiled=True)
    for shape in ((64, 96), (128, 64), (64, 96)):
        np.testing.assert_allclose(predict(source(*shape)), expected(source(*shape)), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_compiled_chain_paints_the_same_field(bundle, planes, precision):
    painted = Stainer(bundle, precision=precision, compiled=True).stain(planes, 20).images
    for target, image in Stainer(bundle, precision="32").stain(planes, 20).images.items():
        difference = np.abs(painted[target].astype(int) - image)
        if precision == "32":
            assert np.mean(difference > 1) < 0.001  # a pixel of the mask may fall on the other side
        else:
            assert difference.mean() < 0.02 * np.ptp(image)


@pytest.mark.slow
def test_a_compiled_chain_repeats_itself_bit_for_bit_on_any_number_of_threads(bundle, planes):
    before = torch.get_num_threads()
    try:
        painted = []
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            stainer = Stainer(bundle, compiled=True)
            painted += [stainer.stain(planes, 20).images, stainer.stain(planes, 20).images]
    finally:
        torch.set_num_threads(before)
    for other in painted[1:]:
        for target, image in painted[0].items():
            np.testing.assert_array_equal(other[target], image)


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run *code* in a process that can compile a network of its own with `compiled()`."""
    begin = """
import sys
import torch
from adipocyte.networks.predictor import make_ready
from adipocyte.networks.unet import UNetSpec, build_unet

def compiled():
    network = build_unet(UNetSpec(encoder="resnet18", in_channels=7))
    return make_ready(network, 7, torch.device("cpu"), "32", compiled=True)
"""
    return subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True)


@pytest.mark.slow
def test_compiling_tells_nobody():
    """OpenVINO reports every import through a package of its own, if that is there."""
    done = run("""
compiled()
told = [name for name, module in sys.modules.items()
        if name.startswith("openvino_telemetry") and module is not None]
print(told, "openvino" in sys.modules)
""")
    assert done.stdout.strip() == "[] True"
    assert "FutureWarning" not in done.stderr


@pytest.mark.slow
def test_signals_are_taken_after_compiled_networks_are_gone():
    """In a process with a stack for signals, as Ray's workers and pytest's have one."""
    done = run("""
import faulthandler
import signal
import numpy as np

faulthandler.enable()
signal.signal(signal.SIGTERM, lambda *_: print("asked to stop"))
first, second = compiled(), compiled()
for predict in (first, second):
    predict(np.zeros((7, 64, 64), np.float32))
del predict, first
del second
signal.raise_signal(signal.SIGTERM)
""")
    assert (done.returncode, done.stdout) == (0, "asked to stop\n")


def test_without_openvino_nothing_is_compiled(network, monkeypatch):
    predictor._openvino.cache_clear()  # this process may have imported OpenVINO before
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not has_compiler()
    with pytest.raises(
        ConfigError,
        match=r"OpenVINO, which is not here: pip install \"adipocyte\[openvino\]\", "
        "or continue with -P compile=false",
    ):
        make_ready(copy.deepcopy(network), 7, CPU, "32", compiled=True)
