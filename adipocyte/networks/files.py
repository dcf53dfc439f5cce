"""One network on disk: `network.json` (how to build it) and `weights.safetensors`. Nothing is unpickled."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from adipocyte.errors import BundleError
from adipocyte.networks.unet import UNetSpec, build_unet

NETWORK_FILES = _SPEC, _WEIGHTS = "network.json", "weights.safetensors"


def save_network(folder: Path, spec: UNetSpec, network: nn.Module) -> None:
    """Write a network into *folder*, made when missing; weights first, so that a folder with a description is whole.

    Raises OSError when the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    try:
        save_file(state, folder / f".{_WEIGHTS}.partial")
    except SafetensorError as error:
        raise OSError(
            f"the network could not be written into {folder} ({error}): free some space there"
        ) from error
    (folder / f".{_WEIGHTS}.partial").replace(folder / _WEIGHTS)
    (folder / f".{_SPEC}.partial").write_text(json.dumps(asdict(spec), indent=1))
    (folder / f".{_SPEC}.partial").replace(folder / _SPEC)


def copy_network(source: Path, folder: Path, storage: str) -> None:
    """Copy the network in *source* into *folder*, its weights in *storage*: "float32" as they are, "bfloat16" at half the size.

    Biases and the statistics of normalisations, which weigh little, stay float32. Raises BundleError when the network is damaged.
    """
    folder.mkdir(parents=True)
    shutil.copyfile(source / _SPEC, folder / _SPEC)
    if storage == "float32":
        shutil.copyfile(source / _WEIGHTS, folder / _WEIGHTS)
        return
    try:
        state = load_file(source / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise BundleError(
            f"the weights in {source} cannot be read ({error}): train the network again"
        ) from error
    halved = {
        name: tensor.bfloat16() if tensor.ndim > 1 and tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    save_file(halved, folder / _WEIGHTS)


def load_network(folder: Path, device: torch.device | str = "cpu") -> tuple[UNetSpec, nn.Module]:
    """Build the network in *folder* and give it its weights, ready to predict in float32 on *device*.

    Raises BundleError when it is damaged or not there.
    """
    try:
        spec = UNetSpec(**json.loads((folder / _SPEC).read_text()))
        network = build_unet(spec)
        network.load_state_dict(load_file(folder / _WEIGHTS))
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise BundleError(
            f"the network in {folder} cannot be loaded ({type(error).__name__}: {str(error)[:200]}): train it again"
        ) from error
    return spec, network.to(device).eval()
