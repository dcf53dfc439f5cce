"""A network on a whole field of any size."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from adipocyte.imaging.padding import pad_to_multiple
from adipocyte.networks.unet import DIVISOR


@torch.inference_mode()
def predict_field(network: nn.Module, source: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run *network*, in evaluation mode, on a (C, Y, X) field of any size in network units. Returns its (Y, X) output."""
    height, width = source.shape[-2:]
    device = next(network.parameters()).device
    padded = torch.from_numpy(pad_to_multiple(source, DIVISOR))[None].to(device)
    return network(padded)[0, 0, :height, :width].float().cpu().numpy()


def segment_field(segmenter: nn.Module, planes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The nuclei mask that *segmenter* sees in normalised (Z, Y, X) planes: probability above one half. Returns (Y, X)."""
    return predict_field(segmenter, planes) > 0  # a logit of 0 is a probability of one half
