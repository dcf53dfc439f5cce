"""Pixel figures of a painted field against the true stain."""

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.functional.regression import pearson_corrcoef

METRICS = ("mae", "pixel_metric", "psnr", "ssim", "pearson")


def pixel_figures(truth: NDArray[np.uint16], prediction: NDArray[np.uint16], median: float) -> dict[str, float]:
    """Compare two (Y, X) images in counts.

    *median* is the target's over the training wells, in counts, never 0. Returns `mae` in counts; `pixel_metric`, MAE / median (the
    challenge's pixel part); `psnr` in dB and `ssim` (Wang et al. 2004), both over the truth's own range of counts; `pearson`, the
    correlation of pixels (0 where one of the images is constant).
    """
    true = torch.from_numpy(truth.astype(np.float64))[None, None]
    painted = torch.from_numpy(prediction.astype(np.float64))[None, None]
    span = float(max(true.max() - true.min(), 1))
    mae = float((true - painted).abs().mean())
    varies = true.std() > 0 and painted.std() > 0
    return {
        "mae": mae,
        "pixel_metric": mae / median,
        "psnr": float(peak_signal_noise_ratio(painted, true, data_range=span)),
        "ssim": float(structural_similarity_index_measure(painted, true, data_range=span)),
        "pearson": float(pearson_corrcoef(painted.flatten(), true.flatten())) if varies else 0.0,
    }
