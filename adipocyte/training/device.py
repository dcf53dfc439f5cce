"""Where and in which arithmetic the loops run: Lightning Fabric, on a GPU where there is one, in every process of `torchrun`."""

import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from adipocyte.system.machine import arithmetic, fastest_device


def make_fabric(precision: str) -> Fabric:
    """*precision* is "32", "bf16" or "auto": the faster one (see `system.machine`).

    Weights stay in float32; bf16 is mixed precision. Under `torchrun` it joins the other processes, which average their gradients.
    """
    precision = arithmetic(precision, fastest_device())
    n_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    fabric = Fabric(
        devices=n_local,
        num_nodes=n_processes // n_local,
        # A loop that calls a network twice before it goes back must not have the buffers changed in between.
        strategy=DDPStrategy(broadcast_buffers=False) if n_processes > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def placed(fabric: Fabric, network: nn.Module, compiled: bool = False) -> nn.Module:
    """*network* on the device of *fabric*, channels last, compiled on request; several GPUs share the statistics of their batches."""
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network = network.to(fabric.device, memory_format=torch.channels_last)
    if compiled:
        network.compile()
    return network


def update(
    fabric: Fabric,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    clip_norm: float,
) -> Tensor:
    """One step of *optimizer* down the *loss* of *network*. Returns the norm of the gradient, before it is cut to *clip_norm* (0: not)."""
    optimizer.zero_grad()
    fabric.backward(loss)
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if clip_norm:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    optimizer.step()
    return norm
