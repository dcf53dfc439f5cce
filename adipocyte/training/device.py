"""Where and in which arithmetic the loops run: Lightning Fabric, one process, a GPU where there is one."""

import torch
from lightning_fabric import Fabric


def make_fabric(precision: str) -> Fabric:
    """*precision* is "32", "bf16" or "auto": bf16 where the processor computes in it natively, else 32 bit.

    Weights stay in float32; bf16 is mixed precision.
    """
    if precision == "auto":
        precision = "bf16" if _has_bf16() else "32"
    return Fabric(devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true")


def _has_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()  # has no public name before torch 2.15
