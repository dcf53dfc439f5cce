"""One network on disk: `network.json` says how to build it, `weights.safetensors` is its state.

Nothing is unpickled.
"""

import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from adipocyte.errors import BundleError, OutputError
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.system.files import open_regular, read_json, replacing, write_json
from adipocyte.system.forms import require_form
from adipocyte.system.tensors import disk_errors

NETWORK_FILES = _SPEC, _WEIGHTS = "network.json", "weights.safetensors"
_MOST_CHANNELS = 1000


def save_network(folder: Path, spec: UNetSpec, network: nn.Module) -> None:
    """Write a network into *folder*, which is made when missing.

    The weights come first, so that a folder with a description is complete. Raises OutputError, an
    OSError, when the disk is full.
    """
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    try:
        with replacing(folder / _WEIGHTS) as partial:
            save_file(state, partial)
        write_json(folder / _SPEC, asdict(spec))
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"the network could not be written into {folder} ({error})", "free some space there"
        ) from error


def copy_network(source: Path, folder: Path, storage: str) -> None:
    """Copy the network in *source* into *folder*, its weights as *storage* says.

    "float32" keeps them as they are, "bfloat16" takes half the space. Biases and the statistics of
    normalisations stay float32, because they take little. Raises BundleError when the network is
    damaged.
    """
    folder.mkdir(parents=True)
    try:
        for name in NETWORK_FILES:
            open_regular(source / name).close()
    except OSError as error:
        raise BundleError(
            f"the network in {source} cannot be read ({error})", "train the network again"
        ) from error
    shutil.copyfile(source / _SPEC, folder / _SPEC)
    if storage == "float32":
        shutil.copyfile(source / _WEIGHTS, folder / _WEIGHTS)
        return
    try:
        state = load_file(source / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise BundleError(
            f"the weights in {source} cannot be read ({error})", "train the network again"
        ) from error
    halved = {
        name: tensor.bfloat16() if tensor.ndim > 1 and tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    with replacing(folder / _WEIGHTS) as partial, disk_errors(partial):
        save_file(halved, partial)


def read_spec(folder: Path) -> UNetSpec:
    """How the network in *folder* is built. Raises BundleError when that is damaged or missing."""
    try:
        return _parse_spec(read_json(folder / _SPEC))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(
            f"{folder / _SPEC} cannot be read ({error})", "train the network again"
        ) from error


def load_network(folder: Path, device: torch.device | str = "cpu") -> tuple[UNetSpec, nn.Module]:
    """Build the network in *folder* and load its weights: ready to predict in float32 on *device*.

    Raises BundleError when a file is damaged or missing.
    """
    try:
        spec = _parse_spec(read_json(folder / _SPEC))
        open_regular(folder / _WEIGHTS).close()  # safetensors would open anything
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
        cause = f"{type(error).__name__}: {str(error)[:200]}"
        raise BundleError(
            f"the network in {folder} cannot be loaded ({cause})", "train it again"
        ) from error
    return spec, network.to(device).eval()


def _parse_spec(content: Any) -> UNetSpec:
    require_form(content, {...: str | int}, "the description")
    require_form(content, {"encoder": str, "in_channels": int}, "the description's")
    if not re.fullmatch(r"[\w.-]+", content["encoder"]):  # "tu-hf_hub:…" would fetch something
        raise ValueError(f"there is no encoder {content['encoder'][:100]!r}")
    spec = UNetSpec(**content)
    for name, n_channels in (("in", spec.in_channels), ("out", spec.out_channels)):
        if not 0 < n_channels <= _MOST_CHANNELS:
            raise ValueError(f"{name}_channels is {n_channels}")
    return spec
