"""Where and in which arithmetic the loops run, by Lightning Fabric.

They run on a GPU where there is one, and in every process that `torchrun` started.
"""

import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from adipocyte.system.machine import arithmetic, fastest_device


def make_fabric(precision: str) -> Fabric:
    """A Fabric that computes in *precision*: "32", "bf16" or "auto" (see `system.machine`).

    Weights stay in float32; bf16 is mixed precision. Under `torchrun` it joins the other processes,
    which average their gradients.
    """
    precision = arithmetic(precision, fastest_device())
    n_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun sets it
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    fabric = Fabric(
        devices=n_local,
        num_nodes=n_processes // n_local,
        # A loop calls the discriminator twice before the backward pass, and its buffers must not
        # change in between.
        strategy=DDPStrategy(broadcast_buffers=False) if n_processes > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def placed(fabric: Fabric, network: nn.Module, compiled: bool = False) -> nn.Module:
    """*network* on the device of *fabric*, channels last, compiled on request.

    Several GPUs share the statistics of their batches.
    """
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network = network.to(  # ty: ignore[no-matching-overload]  its stubs lack memory_format
        fabric.device, memory_format=torch.channels_last
    )
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
    """One step of *optimizer* down the *loss* of *network*.

    Returns the norm of the gradient before it is cut to *clip_norm*; 0 does not cut.
    """
    optimizer.zero_grad()
    fabric.backward(loss)
    gradients = [param.grad for param in network.parameters() if param.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if clip_norm:
        torch.nn.utils.clip_grads_with_norm_(network.parameters(), clip_norm, norm)
    optimizer.step()
    return norm
