"""Muon in float32 against Muon as timm has it, in bf16."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import timm.optim.muon
import torch
from timm.optim import Muon
from torch import Tensor, nn

from adipocyte.training.device import make_fabric
from adipocyte.training.generator import build_networks, generator_spec
from adipocyte.training.muon import Float32Muon
from tests.support.trainings import ALL_STAINS


def moved(optimizer: Callable[..., Muon], steps: int = 1) -> Tensor:
    """A kernel after some *steps* on the same gradients."""
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(8, 4, 3, 3))
    chosen = optimizer([kernel], lr=0.1, weight_decay=0.0)
    for _ in range(steps):
        kernel.grad = torch.randn_like(kernel)
        chosen.step()
    return kernel.detach()


def test_it_moves_as_muon_does_and_with_more_digits(monkeypatch):
    usual = timm.optim.muon.zeropower_via_newtonschulz

    def in_float64(*args, **named):
        return usual(*args, **named | {"dtype": torch.float64}).float()

    found, in_bf16 = moved(Float32Muon, 5), moved(Muon, 5)
    monkeypatch.setattr(timm.optim.muon, "zeropower_via_newtonschulz", in_float64)
    due = moved(Muon, 5)
    torch.testing.assert_close(found, due, rtol=1e-4, atol=1e-5)
    assert (in_bf16 - due).abs().max() > 20 * (found - due).abs().max()


def test_other_optimizers_stay_as_they_are():
    before = timm.optim.muon.zeropower_via_newtonschulz
    expected = moved(Muon)
    with pytest.raises(RuntimeError, match="no loss"):
        Float32Muon([nn.Parameter(torch.ones(2, 2))]).step(lost)
    assert timm.optim.muon.zeropower_via_newtonschulz is before
    assert torch.equal(moved(Muon), expected)


def lost() -> float:
    raise RuntimeError("no loss")


@pytest.mark.parametrize(("precision", "kind"), [("32", Float32Muon), ("bf16", Muon)])
def test_a_training_takes_the_one_of_its_arithmetic(precision, kind):
    config = replace(ALL_STAINS, precision=precision)
    raw = build_networks(make_fabric(precision), config, generator_spec(config, 7), "none")
    assert type(raw.g_optimizer) is kind
