"""How fluorescence lies against brightfield, and how to bring one into the other's frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.domain import Window
from adipocyte.errors import ConfigError, ImageError

# A pixel's weight in a cubic spline falls by a factor of 0.27 with each step from it: after 14
# steps, 65535 counts add less than 0.001.
SPLINE_REACH_PX = 14


@dataclass(frozen=True)
class Alignment:
    """Shift in pixels and scale of fluorescence against brightfield.

    What brightfield shows at p (y or x, from the image's centre), fluorescence shows at
    scale * p + shift: it lies too far down if dy_px is positive, too far right if dx_px is. Both
    images have the same shape, so windows and shapes are valid in both.

    Raises ConfigError for numbers that are not finite and for a scale of zero or less.
    """

    dy_px: float
    dx_px: float
    scale: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.dy_px, self.dx_px, self.scale]).all() and self.scale > 0):
            raise ConfigError(
                f"an alignment needs finite shifts and a positive scale, got {self}",
                "prepare the plate again",
            )

    @property
    def is_identity(self) -> bool:
        return (self.dy_px, self.dx_px, self.scale) == (0.0, 0.0, 1.0)

    @property
    def inverse(self) -> "Alignment":
        """The alignment that brings an image of brightfield's frame into fluorescence's."""
        if self.is_identity:
            return self
        return Alignment(-self.dy_px / self.scale, -self.dx_px / self.scale, 1 / self.scale)

    def source(self, window: Window, shape_px: tuple[int, int]) -> Window:
        """The window of the fluorescence image that `resample` needs for *window*."""
        if self.is_identity:
            return window
        rows, columns = (
            self._source_side(axis, first, last, shape_px)
            for axis, (first, last) in enumerate(_bounds(window, shape_px))
        )
        return rows, columns

    def resample(self, part: NDArray, window: Window, shape_px: tuple[int, int]) -> NDArray:
        """Bring fluorescence into brightfield's frame.

        part: the window of an image of *shape_px* that `source` names for *window*. Returns
        *window* of brightfield's frame, (Y, X), in the dtype of *part*: uint16 counts are
        interpolated with cubic splines, rounded and clipped; a bool mask takes its nearest pixel.
        Pixels that fluorescence has not seen (see `valid`) are mirrored at its border.

        Raises ImageError if *part* has another dtype, or another shape than `source` names.
        """
        read, wanted = _bounds(self.source(window, shape_px), shape_px), _bounds(window, shape_px)
        is_expected = part.shape == tuple(last - first for first, last in read)
        if not is_expected or part.dtype not in (np.uint16, bool):
            raise ImageError(
                f"cannot align {part.dtype} {part.shape}",
                f"window {wanted} needs rows and columns {read} of a uint16 image or a bool mask",
            )
        if self.is_identity:
            return part
        matrix = [self.scale] * 2
        offset = [
            self._seen_at(first, axis, shape_px) - read[axis][0]
            for axis, (first, _) in enumerate(wanted)
        ]
        out_px = tuple(last - first for first, last in wanted)
        if part.dtype == bool:
            return ndimage.affine_transform(part, matrix, offset, out_px, order=0, mode="mirror")
        counts = ndimage.affine_transform(
            part, matrix, offset, out_px, output=np.float32, order=3, mode="mirror"
        )
        return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)

    def valid(self, shape_px: tuple[int, int]) -> Window:
        """The rectangle of brightfield's frame in which fluorescence has seen every pixel.

        It is the whole image for the identity. Raises ImageError if the shift is larger than the
        image.
        """
        rows, columns = (self._valid_side(axis, shape_px) for axis in (0, 1))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            height_px, width_px = shape_px
            raise ImageError(
                f"fluorescence moved by {self} leaves nothing of a field of {height_px} x "
                f"{width_px} pixels",
                "the shift must be smaller than the field; prepare the plate again",
            )
        return rows, columns

    def _seen_at(self, pixel: float, axis: int, shape_px: tuple[int, int]) -> float:
        """Where fluorescence shows a row (axis 0) or column (axis 1) of brightfield."""
        centre = (shape_px[axis] - 1) / 2
        return centre + self.scale * (pixel - centre) + (self.dy_px, self.dx_px)[axis]

    def _source_side(self, axis: int, first: int, last: int, shape_px: tuple[int, int]) -> slice:
        """The pixels that a spline needs for brightfield's *first* … *last* - 1.

        At least the image's border, if fluorescence has seen none of them.
        """
        size = shape_px[axis]
        lowest = int(np.floor(self._seen_at(first, axis, shape_px))) - SPLINE_REACH_PX
        highest = int(np.ceil(self._seen_at(last - 1, axis, shape_px))) + SPLINE_REACH_PX
        lowest, highest = min(lowest, size - SPLINE_REACH_PX), max(highest, SPLINE_REACH_PX)
        return slice(max(lowest, 0), min(highest, size - 1) + 1)

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
