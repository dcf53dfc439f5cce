"""Two steps of a training that writes its gradients down.

test_processes.py runs it in one process and under torchrun.
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from adipocyte.config import GeneratorConfig, build
from adipocyte.store.reader import Store
from adipocyte.training.generator import train_generator
from adipocyte.training.tracker import Silent

# Each process has the batch statistics of its share alone, so normalisation must not use them where
# the gradients are compared.
torch.nn.BatchNorm2d.train = lambda self, mode=True: torch.nn.Module.train(self, False)

settings = {
    "encoder": "resnet18",
    "patch_px": 32,
    "batch": 4,
    "epochs": 1,
    "epoch_steps": 2,
    "workers": 0,
    "precision": "32",
}
folder, gradients = Path(sys.argv[2]), {}


def write_down(optimizer, args, kwargs):
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found = torch.cat(
        [parameter.grad.flatten() for parameter in parameters if parameter.grad is not None]
    )
    gradients[str(len(gradients))] = found.clone()


register_optimizer_step_pre_hook(write_down)
config = build(
    GeneratorConfig,
    {**settings, "target": "A2", "discriminator_width": 4, "adversarial_weight": 1.0},
)
rank = os.environ.get("RANK", "0")
train_generator(Store(Path(sys.argv[1])), config, None, folder / rank, Silent())
save_file(gradients, folder / f"gradients-{rank}.safetensors")
