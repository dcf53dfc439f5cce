"""The pixel grid of a scene: micrometres to windows of pixels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import Window


@dataclass(frozen=True)
class Footprint:
    """A rectangle of a canvas, and its pixels' distances from the object's centre."""

    slices: Window
    dy_um: NDArray[np.float32]  # (Y, 1)
    dx_um: NDArray[np.float32]  # (1, X)


@dataclass(frozen=True)
class Canvas:
    """A grid of pixels; positions are (y, x) in µm from the centre of the first pixel."""

    shape_px: tuple[int, int]
    um_per_px: float

    @property
    def size_um(self) -> tuple[float, float]:
        return self.shape_px[0] * self.um_per_px, self.shape_px[1] * self.um_per_px

    def window(self, y_um: float, x_um: float, reach_um: float) -> Footprint | None:
        """The pixels within *reach_um* (in y and in x) of a point; None if the canvas has none.

        Objects are drawn in such windows, so that a droplet's cost depends on its own area, not on
        the image's.
        """
        y0, y1 = self._span(y_um, reach_um, self.shape_px[0])
        x0, x1 = self._span(x_um, reach_um, self.shape_px[1])
        if y0 >= y1 or x0 >= x1:
            return None
        dy_um = np.arange(y0, y1, dtype=np.float32)[:, None] * self.um_per_px - y_um
        dx_um = np.arange(x0, x1, dtype=np.float32)[None, :] * self.um_per_px - x_um
        window = slice(y0, y1), slice(x0, x1)
        return Footprint(window, dy_um.astype(np.float32), dx_um.astype(np.float32))

    def _span(self, centre_um: float, reach_um: float, size_px: int) -> tuple[int, int]:
        first = int(np.ceil((centre_um - reach_um) / self.um_per_px))
        last = int(np.floor((centre_um + reach_um) / self.um_per_px))
        return max(first, 0), min(last + 1, size_px)
