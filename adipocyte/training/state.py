"""The state that a training resumes from: one safetensors file, written whole or not at all."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from adipocyte.errors import BundleError, OutputError
from adipocyte.system.files import open_regular, parse_json, replacing
from adipocyte.system.forms import NUMBER, require_form

STATE = "state.safetensors"
Parts = Mapping[str, nn.Module | Optimizer]
_PROGRESS = {
    "step": int,
    "epoch": int,
    "best": {...: NUMBER},
    "best_score": NUMBER,
    "stale_epochs": int,
    "totals": {...: (NUMBER, NUMBER)},
    "threads": [(int, int)],
}


@dataclass
class Progress:
    """How far a training has come.

    `step` counts the steps done, `epoch` the epochs validated, `stale_epochs` those since the best
    network. `best` holds the metrics of that network, `best_score` its score. `totals` holds
    (sum, count) of each metric in the epoch so far. `threads` holds (step, number) of each change
    of the number of threads.
    """

    step: int = 0
    epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)
    best_score: float = -math.inf
    stale_epochs: int = 0
    totals: dict[str, list[float]] = field(default_factory=dict)
    threads: list[list[int]] = field(default_factory=list)


def save_state(folder: Path, parts: Parts, progress: Progress) -> Path:
    """Write networks, optimizers and *progress* into *folder*. Returns the file's path.

    An older state is replaced. Raises OutputError, an OSError, when the disk is full; the older
    state is then kept.
    """
    tensors = {
        f"{name}/{key}": tensor.detach().cpu().contiguous()
        for name, part in parts.items()
        for key, tensor in _tensors(part).items()
    }
    path = folder / STATE
    try:
        with replacing(path) as partial:
            save_file(tensors, partial, {"progress": json.dumps(asdict(progress))})
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"the state of step {progress.step} could not be written into {folder} ({error})",
            "free some space there",
        ) from error
    return path


def load_state(folder: Path, parts: Parts) -> Progress:
    """Give *parts* what `save_state` wrote into *folder*.

    Returns how far the training had come: nowhere when nothing was saved. Raises BundleError when
    the file is damaged or belongs to other networks.
    """
    path = folder / STATE
    if not path.exists():
        return Progress()
    try:
        open_regular(path).close()  # safetensors would open anything
        with safe_open(path, framework="pt") as file:
            for name, part in parts.items():
                stored = {
                    key.removeprefix(f"{name}/"): file.get_tensor(key)
                    for key in file.keys()  # noqa: SIM118
                    if key.startswith(f"{name}/")
                }
                is_network = isinstance(part, nn.Module)
                part.load_state_dict(stored if is_network else _optimizer_state(part, stored))
            return _progress(file.metadata())
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, SafetensorError) as error:
        cause = f"{type(error).__name__}: {str(error)[:200]}"
        raise BundleError(f"the state {path} cannot be loaded ({cause})", "train anew") from error


def starting_weights(folder: Path, encoder_weights: str) -> str:
    """The encoder weights to build a network with: none where a state in *folder* replaces them."""
    return "none" if (folder / STATE).is_file() else encoder_weights


def state_step(path: Path) -> int:
    """The step that a state file was saved at; -1 when the file is damaged or missing."""
    try:
        open_regular(path).close()
        # As NumPy, because for PyTorch the file is opened twice, and a training may replace it in
        # between.
        with safe_open(path, framework="numpy") as file:
            return _progress(file.metadata()).step
    except (OSError, ValueError, TypeError, KeyError, SafetensorError):
        return -1


def _progress(header: Mapping[str, str]) -> Progress:
    content = {"threads": []} | parse_json(header["progress"].encode())  # older ones tell of none
    require_form(content, _PROGRESS, "the progress")
    return Progress(**content)


def _tensors(part: nn.Module | Optimizer) -> dict[str, Tensor]:
    if isinstance(part, nn.Module):
        return part.state_dict()
    # Muon also notes which parameters it leaves to AdamW, and finds that again by their shapes.
    return {
        f"{i}/{key}": value
        for i, state in part.state_dict()["state"].items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def _optimizer_state(optimizer: Optimizer, stored: dict[str, Tensor]) -> dict[str, object]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        i, key = name.split("/")
        like = parameters[int(i)]
        if tensor.shape == like.shape:
            # In the parameter's own layout, channels last: otherwise every step would be slower.
            tensor = torch.empty_like(like).copy_(tensor)
        state.setdefault(int(i), {})[key] = tensor
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
