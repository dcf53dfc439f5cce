"""How far fluorescence lies off brightfield, by magnification and by site in the well."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.domain import UM_PER_PX, as_in_challenge
from adipocyte.errors import ConfigError


@dataclass(frozen=True)
class Misalignment:
    """Shift in pixels and scale of fluorescence against brightfield.

    What brightfield shows at p (y or x, from the image's centre), fluorescence shows at
    scale * p + shift: a positive dy_px moves the fluorescence image down, a positive dx_px to the
    right.
    """

    dy_px: float
    dx_px: float
    scale: float = 1.0

    def apply(self, image: NDArray, order: int) -> NDArray:
        """Move an image, (Y, X), of brightfield's frame into fluorescence's.

        *order* is that of the spline; labels need 0.
        """
        centre = (np.array(image.shape) - 1) / 2
        offset = centre - (centre + np.array([self.dy_px, self.dx_px])) / self.scale
        return ndimage.affine_transform(
            image, np.full(2, 1 / self.scale), offset, order=order, mode="nearest"
        )


# By magnification: scale, then (sine, cosine, constant) of dx and of dy, in pixels, as measured on
# the challenge's plates.
MEASURED = {
    20: (0.9988, (3.95, 0.067, -1.22), (-0.20, -4.09, 0.76)),
    40: (0.9996, (2.49, -0.030, -0.96), (-0.17, -2.60, 0.62)),
    60: (0.99975, (2.31, -0.032, -0.84), (-0.014, -2.31, 0.81)),
}


def misalignment_at(magnification: int, site: int, n_sites: int) -> Misalignment:
    """The misalignment of site 1 … *n_sites* of a well.

    Where none was measured it is as long, in µm, as at the challenge's nearest objective. Raises
    ConfigError for an unknown magnification or site.
    """
    if magnification not in UM_PER_PX:
        raise ConfigError(
            f"no misalignment is known at magnification {magnification}",
            f"choose one of {sorted(UM_PER_PX)}",
        )
    if not 1 <= site <= n_sites:
        raise ConfigError(f"site {site} is not in the well", f"sites run from 1 to {n_sites}")
    alike, zoom = as_in_challenge(magnification, UM_PER_PX[magnification])
    scale, dx, dy = MEASURED[alike]
    turn = 2 * np.pi * (site - 1) / n_sites
    waves = np.array([np.sin(turn), np.cos(turn), 1.0]) / zoom
    return Misalignment(dy_px=float(waves @ dy), dx_px=float(waves @ dx), scale=scale)
