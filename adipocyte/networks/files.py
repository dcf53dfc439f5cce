"""One network on disk: `network.json` (how to build it) and `weights.safetensors`. Nothing is unpickled."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from adipocyte.errors import BundleError
from adipocyte.networks.unet import UNetSpec, build_unet

_SPEC, _WEIGHTS = "network.json", "weights.safetensors"


def save_network(folder: Path, spec: UNetSpec, network: nn.Module) -> None:
    """Write a network into *folder*, made when missing; weights first, so that a folder with a description is whole.

    Raises OSError when the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    try:
        save_file(state, folder / f".{_WEIGHTS}.partial")
    except SafetensorError as error:
        raise OSError(f"the network could not be written into {folder} ({error}): free some space there") from error
    (folder / f".{_WEIGHTS}.partial").replace(folder / _WEIGHTS)
    (folder / f".{_SPEC}.partial").write_text(json.dumps(asdict(spec), indent=1))
    (folder / f".{_SPEC}.partial").replace(folder / _SPEC)


def load_network(folder: Path, device: torch.device | str = "cpu") -> tuple[UNetSpec, nn.Module]:
    """Build the network in *folder* and give it its weights, ready to predict. Raises BundleError when it is damaged or not there."""
    try:
        spec = UNetSpec(**json.loads((folder / _SPEC).read_text()))
        network = build_unet(spec)
        network.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"the network in {folder} cannot be loaded ({type(error).__name__}: {str(error)[:200]}): train it again"
        ) from error
    return spec, network.to(device).eval()
