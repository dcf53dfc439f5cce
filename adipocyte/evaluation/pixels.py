"""What is measured of a painted field's pixels against the true stain."""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.functional.regression import pearson_corrcoef

PIXEL_MEASUREMENTS = ("mae", "psnr", "ssim", "pearson")


def measure_pixels(truth: NDArray[np.uint16], prediction: NDArray[np.uint16]) -> dict[str, float]:
    """Compare two (Y, X) images in counts.

    Returns `mae` in counts; `psnr` in dB and `ssim` (Wang et al. 2004), both over the truth's own
    range of counts; `pearson`, the correlation of pixels (0 where one of the images is constant).
    PSNR is at most what a single pixel off by one count would give.
    """
    true = torch.from_numpy(truth.astype(np.float64))[None, None]
    painted = torch.from_numpy(prediction.astype(np.float64))[None, None]
    span = float(max(true.max() - true.min(), 1))
    mae = float((true - painted).abs().mean())
    best = 10 * np.log10(span**2 * truth.size)  # finite, so that means and JSON stay whole
    varies = true.std() > 0 and painted.std() > 0
    # It gives a tuple only when it is asked for its parts.
    ssim = cast(torch.Tensor, structural_similarity_index_measure(painted, true, data_range=span))
    return {
        "mae": mae,
        "psnr": min(float(peak_signal_noise_ratio(painted, true, data_range=span)), float(best)),
        "ssim": float(ssim),
        "pearson": float(pearson_corrcoef(painted.flatten(), true.flatten())) if varies else 0.0,
    }
