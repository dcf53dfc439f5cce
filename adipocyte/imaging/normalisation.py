"""Counts to network units and back: one multiplication and one addition.

They work in place, because the planes of a full field take 150 MB.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adipocyte.errors import ConfigError
from adipocyte.imaging.histograms import clipped, mean_and_std

_TAIL = 1e-3  # of a field's pixels at either end, which hot pixels, dust and flecks lie in


@dataclass(frozen=True)
class Scaling:
    """`mean` and `std` of a channel, in counts.

    Network units are (counts - mean) / std (report, equation 3.1). Raises ConfigError if `std` is
    not positive.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ConfigError(
                f"a standard deviation must be positive, got {self.std}",
                "the images are constant; check the plate",
            )

    def normalise(
        self, counts: NDArray[np.uint16], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Convert counts (any shape) to network units, in *out* if it is given."""
        image = np.multiply(counts, np.float32(1 / self.std), out=out, dtype=np.float32)
        image -= np.float32(self.mean / self.std)
        return image

    def denormalise(self, image: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Convert network units (any shape) to counts, rounded and clipped to 0 … 65535."""
        counts = image.astype(np.float32)
        counts *= np.float32(self.std)
        counts += np.float32(self.mean)
        np.clip(counts, 0, 65535, out=counts)
        np.rint(counts, out=counts)
        with np.errstate(invalid="ignore"):  # a network that diverges paints NaN
            return counts.astype(np.uint16)


def field_scaling(histogram: NDArray[np.int64]) -> Scaling:
    """The scaling that gives one field's channel a mean of 0 and a standard deviation of 1.

    histogram: (65536,) of its counts, of all planes together. The thousandth that is darkest and
    the one that is brightest count as their nearest neighbours do (winsorised mean and deviation:
    Wilcox 2012, "Introduction to robust estimation", 3.3). Raises ConfigError when nothing varies.
    """
    return Scaling(*mean_and_std(clipped(histogram, _TAIL)))


# Table 3.1 of the report: brightfield, all seven planes together, in counts.
REPORT_SCALINGS = {20: Scaling(2594, 966), 40: Scaling(713, 282), 60: Scaling(524, 228)}
