"""Where fluorescence lies against brightfield, and how an image of one is brought into the frame of the other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.errors import ConfigError, ImageError

Window = tuple[slice, slice]

SPLINE_REACH_PX = 14  # a cubic spline's coefficients forget a pixel by a factor of 0.27 each step: 65535 counts are 0.001 after 14


@dataclass(frozen=True)
class Alignment:
    """Shift in pixels and scale of fluorescence against brightfield.

    What brightfield shows at p (y or x, from the image's centre), fluorescence shows at scale * p + shift: with a positive dy_px it
    lies too far down, with a positive dx_px too far right. Both images have the same shape, so windows and shapes serve for both.

    Raises ConfigError for numbers that move no image: not finite, or a scale of zero or less.
    """

    dy_px: float
    dx_px: float
    scale: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.dy_px, self.dx_px, self.scale]).all() and self.scale > 0):
            raise ConfigError(
                f"an alignment needs finite shifts and a positive scale, got {self}: prepare the plate again"
            )

    @property
    def is_identity(self) -> bool:
        return (self.dy_px, self.dx_px, self.scale) == (0.0, 0.0, 1.0)

    @property
    def inverse(self) -> "Alignment":
        """How brightfield lies against fluorescence: brings an image of brightfield's frame into fluorescence's."""
        return (
            self
            if self.is_identity
            else Alignment(-self.dy_px / self.scale, -self.dx_px / self.scale, 1 / self.scale)
        )

    def source(self, window: Window, shape_px: tuple[int, int]) -> Window:
        """The window of the fluorescence image to read, so that `resample` can make *window* of brightfield's frame of it."""
        if self.is_identity:
            return window
        return tuple(
            _reach(self._seen_at(np.array([first, last - 1]), axis, shape_px), shape_px[axis])
            for axis, (first, last) in enumerate(_bounds(window, shape_px))
        )

    def resample(self, part: NDArray, window: Window, shape_px: tuple[int, int]) -> NDArray:
        """Bring fluorescence into brightfield's frame: what lies in *window* there, (Y, X), in the dtype of *part*.

        part: what `source` says to read for *window* of an image of *shape_px*. uint16 counts go through cubic splines, are rounded
        and clipped; of a bool mask the nearest pixel is taken. What fluorescence has not seen (see `valid`) is mirrored at its border.

        Raises ImageError when *part* has another dtype, or another shape than `source` asks for.
        """
        read, wanted = _bounds(self.source(window, shape_px), shape_px), _bounds(window, shape_px)
        if part.shape != tuple(last - first for first, last in read) or part.dtype not in (
            np.uint16,
            bool,
        ):
            raise ImageError(
                f"cannot align {part.dtype} {part.shape}: window {wanted} needs rows and columns {read} of a uint16 image or a bool mask"
            )
        if self.is_identity:
            return part
        offset = [
            self._seen_at(first, axis, shape_px) - read[axis][0]
            for axis, (first, _) in enumerate(wanted)
        ]
        out_px = tuple(last - first for first, last in wanted)
        if part.dtype == bool:
            return ndimage.affine_transform(
                part, [self.scale] * 2, offset, out_px, order=0, mode="mirror"
            )
        counts = ndimage.affine_transform(
            part, [self.scale] * 2, offset, out_px, output=np.float32, order=3, mode="mirror"
        )
        return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)

    def valid(self, shape_px: tuple[int, int]) -> Window:
        """The rectangle of brightfield's frame that fluorescence has seen, pixel for pixel; the whole image for the identity.

        Raises ImageError when there is none: the shift is larger than the image.
        """
        window = tuple(self._valid_side(axis, shape_px) for axis in (0, 1))
        if any(side.start >= side.stop for side in window):
            raise ImageError(
                f"fluorescence moved by {self} leaves nothing of a field of {shape_px[0]} x {shape_px[1]} pixels"
            )
        return window

    def _seen_at(self, pixel: NDArray | int, axis: int, shape_px: tuple[int, int]) -> NDArray:
        """Where fluorescence shows a row (axis 0) or column (axis 1) of brightfield."""
        centre = (shape_px[axis] - 1) / 2
        return centre + self.scale * (pixel - centre) + (self.dy_px, self.dx_px)[axis]

    def _valid_side(self, axis: int, shape_px: tuple[int, int]) -> slice:
        last = shape_px[axis] - 1
        seen_at_0 = self._seen_at(0, axis, shape_px)
        rounding = 1e-9
        first_valid = np.ceil(-seen_at_0 / self.scale - rounding)
        last_valid = np.floor((last - seen_at_0) / self.scale + rounding)
        return slice(max(int(first_valid), 0), min(int(last_valid), last) + 1)


IDENTITY = Alignment(dy_px=0.0, dx_px=0.0, scale=1.0)


def _bounds(window: Window, shape_px: tuple[int, int]) -> list[tuple[int, int]]:
    """First pixel and the one after the last, in y and in x."""
    return [side.indices(size)[:2] for side, size in zip(window, shape_px, strict=True)]


def _reach(ends: NDArray, size: int) -> slice:
    """The pixels of a side that a spline needs between the positions *ends*; at least its border where they lie outside."""
    first = min(int(np.floor(ends[0])) - SPLINE_REACH_PX, size - SPLINE_REACH_PX)
    last = max(int(np.ceil(ends[1])) + SPLINE_REACH_PX, SPLINE_REACH_PX)
    return slice(max(first, 0), min(last, size - 1) + 1)
