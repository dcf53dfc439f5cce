"""A field of view whose cells are disks, so that right values are known."""

import numpy as np
from skimage.draw import disk as disk_pixels

from adipocyte.domain import TARGETS

HEALTHY, APOPTOTIC = 2000, 4000
INSIDE, ON_FRAME = ((100, 100), (100, 250), (250, 160)), (250, 24)
# Three healthy nuclei, a bright one, and one whose cell touches the frame.
NUCLEI = dict.fromkeys((*INSIDE, ON_FRAME), HEALTHY) | {(300, 300): APOPTOTIC}
N_DROPLETS = 6  # of each cell


def drawn_field(nuclei: dict[tuple[int, int], int], side_px: int = 384) -> dict[str, np.ndarray]:
    """A 20x field. Its nuclei are disks of radius 14, given by their centres and brightness.

    Each lies in a cell of radius 40 with six droplets of radius 4.
    """
    random = np.random.default_rng(0)
    images = {target: random.normal(300, 10, (side_px, side_px)) for target in TARGETS}
    shape = (side_px, side_px)
    for (y, x), counts in nuclei.items():
        images["A3"][disk_pixels((y, x), 40, shape=shape)] += 3000
        images["A1"][disk_pixels((y, x), 14, shape=shape)] += counts
        for turn in np.linspace(0, 2 * np.pi, N_DROPLETS, endpoint=False):
            centre = (y + 26 * np.sin(turn), x + 26 * np.cos(turn))
            images["A2"][disk_pixels(centre, 4, shape=shape)] += 3000
    return {target: image.astype(np.uint16) for target, image in images.items()}
