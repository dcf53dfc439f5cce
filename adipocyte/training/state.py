"""All that a training needs to go on where it stopped: one safetensors file, written whole or not at all."""

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from adipocyte.errors import BundleError

STATE = "state.safetensors"
Parts = dict[str, nn.Module | Optimizer]


@dataclass
class Progress:
    """How far a training has come: steps done, epochs validated, the metrics and score of its best network, epochs since that one, and
    (sum, count) of each metric in the epoch so far.
    """

    step: int = 0
    epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)
    best_score: float = -math.inf
    stale_epochs: int = 0
    totals: dict[str, list[float]] = field(default_factory=dict)


def save_state(folder: Path, parts: Parts, progress: Progress) -> Path:
    """Write networks, optimizers and *progress* into *folder*, in place of an older state. Returns the file's path.

    Raises OSError when the disk is full; the older state is kept.
    """
    tensors = {
        f"{name}/{key}": tensor
        for name, part in parts.items()
        for key, tensor in _tensors(part).items()
    }
    path, partial = folder / STATE, folder / f".{STATE}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            partial,
            {"progress": _json(progress)},
        )
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # a power cut after the renaming must not find an empty file
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OSError(
            f"the state of step {progress.step} could not be written into {folder} ({error}): free some space there"
        ) from error
    partial.replace(path)
    return path


def load_state(folder: Path, parts: Parts) -> Progress:
    """Give *parts* what `save_state` wrote into *folder*. Returns how far the training had come: nowhere when nothing was saved.

    Raises BundleError when the file is damaged or of other networks.
    """
    path = folder / STATE
    if not path.is_file():
        return Progress()
    try:
        with safe_open(path, framework="pt") as file:
            for name, part in parts.items():
                stored = {
                    key.removeprefix(f"{name}/"): file.get_tensor(key)
                    for key in file.keys()  # noqa: SIM118
                    if key.startswith(f"{name}/")
                }
                part.load_state_dict(
                    stored if isinstance(part, nn.Module) else _optimizer_state(part, stored)
                )
            return Progress(**json.loads(file.metadata()["progress"]))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"the state {path} cannot be loaded ({type(error).__name__}: {str(error)[:200]}): train anew"
        ) from error


def starting_weights(folder: Path, encoder_weights: str) -> str:
    """The encoder weights to build a network with: none where a state in *folder* will replace them anyway."""
    return "none" if (folder / STATE).is_file() else encoder_weights


def state_step(path: Path) -> int:
    """The step that a state file was saved at; -1 when it is damaged or not there."""
    try:
        with safe_open(path, framework="pt") as file:
            return int(json.loads(file.metadata()["progress"])["step"])
    except (OSError, ValueError, TypeError, KeyError, SafetensorError):
        return -1


def _json(progress: Progress) -> str:
    return json.dumps(asdict(progress))


def _tensors(part: nn.Module | Optimizer) -> dict[str, Tensor]:
    if isinstance(part, nn.Module):
        return part.state_dict()
    return {
        f"{i}/{key}": value
        for i, state in part.state_dict()["state"].items()
        for key, value in state.items()
    }


def _optimizer_state(optimizer: Optimizer, stored: dict[str, Tensor]) -> dict[str, object]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        i, key = name.split("/")
        like = parameters[int(i)]
        # In the parameter's own layout, channels last, or every step would be slower.
        state.setdefault(int(i), {})[key] = (
            torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
        )
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
