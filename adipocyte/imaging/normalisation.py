"""Counts to network units and back: one multiplication and one addition.

They work in place, because the planes of a full field take 150 MB.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adipocyte.errors import ConfigError
from adipocyte.imaging.histograms import clipped, mean_and_std, quantiles

_TAIL = 1e-3  # of a field's pixels at either end, which hot pixels and dust lie in
_DARK, _BRIGHT = 0.01, 0.998  # shares of a stain's pixels: its ground, and its brightest objects


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


@dataclass(frozen=True)
class Level:
    """How strong a stain is, in counts: its `dark` ground, and its brightest objects above that.

    Unlike mean and standard deviation, neither depends on how many objects there are. Raises
    ConfigError if nothing is brighter than the ground.
    """

    dark: float
    above: float

    def __post_init__(self) -> None:
        if not self.above > 0:
            raise ConfigError(
                f"a stain must have a range, got {self.above} counts",
                "the images are constant; check the plate",
            )

    def scaling(self, shape: Scaling) -> Scaling:
        """The scaling of a stain of this level whose `shape` is known in units of a level."""
        return Scaling(self.dark + shape.mean * self.above, shape.std * self.above)


def stain_level(histogram: NDArray[np.int64]) -> Level:
    """The level of a stain from the (65536,) *histogram* of a well's fields.

    Raises ConfigError when nothing is brighter than the ground.
    """
    dark, bright = quantiles(histogram, (_DARK, _BRIGHT))
    return Level(dark, bright - dark)


# Table 3.1 of the report: brightfield, all seven planes together, in counts.
REPORT_SCALINGS = {20: Scaling(2594, 966), 40: Scaling(713, 282), 60: Scaling(524, 228)}
