"""Several training processes have the gradients of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adipocyte.config import GeneratorConfig, build
from adipocyte.errors import ConfigError
from adipocyte.training.augmentations import Augmenter
from adipocyte.training.patches import Patches, patch_loader
from tests.support import ROOT


def train(command: list[str], store, folder: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "tests/support/gradients.py", str(store.folder), str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_with_the_same_batch(small_store, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    train([sys.executable], small_store, one)
    train(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
        small_store,
        two,
    )
    expected = load_file(one / "gradients-0.safetensors")
    first, second = (load_file(two / f"gradients-{rank}.safetensors") for rank in (0, 1))
    assert len(expected) == 4  # discriminator and generator, twice
    for name, gradient in expected.items():
        assert torch.equal(first[name], second[name])
        # Means of two halves instead of one mean: float32 rounds otherwise, by some 1e-7 of the
        # largest parts, and the second step starts from weights that Adam has moved by the signs of
        # these roundings.
        scale = gradient.abs().max().item()
        torch.testing.assert_close(
            first[name], gradient, rtol=1e-3, atol=(1e-5 if name in "01" else 1e-2) * scale
        )
    assert (two / "0" / "network" / "weights.safetensors").is_file()
    assert not (two / "1").exists()  # the first process alone writes


class TwoProcesses:
    """As much of a Fabric as the loader asks for."""

    world_size, device = 2, torch.device("cpu")

    def __init__(self, rank):
        self.global_rank = rank

    def setup_dataloaders(self, loader, use_distributed_sampler):
        return loader


def test_processes_share_a_batch_without_doubles_or_gaps(small_store):
    patches = Patches(
        small_store, ("A2",), (small_store.mask,), Augmenter(32, 0.5, 9), patch_px=32, seed=0
    )
    shares = [
        list(patch_loader(TwoProcesses(rank), patches, batch=4, workers=0, steps=range(2)))
        for rank in (0, 1)
    ]
    for step, (first, second) in enumerate(zip(*shares, strict=True)):
        expected = torch.stack([patches[4 * step + i][0] for i in range(4)])
        assert torch.equal(torch.cat([first[0], second[0]]), expected)


def test_a_batch_that_cannot_be_shared_is_refused(small_store):
    patches = Patches(
        small_store, ("A2",), (small_store.mask,), Augmenter(32, 0.5, 9), patch_px=32, seed=0
    )
    with pytest.raises(
        ConfigError, match="2 processes cannot share a batch of 3 patches: -P batch=2"
    ):
        patch_loader(TwoProcesses(0), patches, batch=3, workers=0, steps=range(2))
    # The default batch suits 2, 4 and 8 GPUs.
    assert build(GeneratorConfig, {"target": "A2"}).batch % 8 == 0
