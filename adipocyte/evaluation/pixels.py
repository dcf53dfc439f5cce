"""What is measured of a painted field's pixels against the true stain."""

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

PIXEL_MEASUREMENTS = ("mae", "psnr", "ssim", "pearson")


def measure_pixels(truth: NDArray[np.uint16], prediction: NDArray[np.uint16]) -> dict[str, float]:
    """Compare two (Y, X) images in counts, at least 11 pixels on each side.

    Returns `mae` in counts; `psnr` in dB and `ssim` (Wang et al. 2004, in their Gaussian window),
    both over the truth's own range of counts; `pearson`, the correlation of pixels (0 where one of
    the images is constant). PSNR is at most what a single pixel off by one count would give.
    """
    true, painted = truth.astype(np.float64), prediction.astype(np.float64)
    span = max(float(np.ptp(true)), 1.0)
    squared = max(float(np.square(true - painted).mean()), 1 / truth.size)
    varies = true.std() > 0 and painted.std() > 0
    similarity = structural_similarity(
        true,
        painted,
        data_range=span,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return {
        "mae": float(np.abs(true - painted).mean()),
        "psnr": float(10 * np.log10(span**2 / squared)),
        "ssim": float(similarity),
        "pearson": float(np.corrcoef(true.ravel(), painted.ravel())[0, 1]) if varies else 0.0,
    }
