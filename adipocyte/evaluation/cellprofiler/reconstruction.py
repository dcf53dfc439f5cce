"""Morphological reconstruction of large images."""

import numpy as np
from numpy.typing import NDArray
from skimage import morphology

CROSS = morphology.disk(1)
TILE_PX = 256
N_BANDS = 512


def reconstruct(seed: NDArray[np.floating], ceiling: NDArray[np.floating]) -> NDArray[np.floating]:
    """Spread the brightness of *seed* over 4-neighbours, under *ceiling*, as far as possible.

    All are (Y, X), of one dtype. The result is that of `skimage.morphology.reconstruction`, two to
    four times faster. That function sorts all pixels; tiles fit the processor's cache, whole fields
    do not. The spread from tile to tile is then followed pixel by pixel (Vincent 1993, section
    4.3), in bands of brightness from the brightest down, so that few pixels are raised twice.
    """
    grown = np.empty_like(seed)
    edges = np.zeros(seed.shape, dtype=bool)
    for y in range(0, seed.shape[0], TILE_PX):
        for x in range(0, seed.shape[1], TILE_PX):
            tile = np.s_[y : y + TILE_PX, x : x + TILE_PX]
            grown[tile] = morphology.reconstruction(seed[tile], ceiling[tile], footprint=CROSS)
            for edge in (0, -1):
                edges[tile][edge] = edges[tile][:, edge] = True
    return _spread(grown, ceiling, edges)


def _spread(
    grown: NDArray[np.floating], ceiling: NDArray[np.floating], edges: NDArray[np.bool_]
) -> NDArray[np.floating]:
    """Raise all pixels that can still be raised, starting from those on *edges*. All (Y, X)."""
    # A rim of the minimum keeps everything inside: nothing spreads out and back.
    least, width = grown.min(), grown.shape[1] + 2
    light, limit = (np.pad(image, 1, constant_values=least).ravel() for image in (grown, ceiling))
    steps = (1, -1, width, -width)
    waiting = np.pad(edges, 1).ravel()
    front = np.flatnonzero(waiting)
    for band in [*np.quantile(grown, np.linspace(1, 0, N_BANDS)), -np.inf]:
        bright = light[front] >= band
        active, later = front[bright], [front[~bright]]
        while active.size:
            waiting[active] = False
            raised = np.concatenate([_raise(light, limit, waiting, active, step) for step in steps])
            bright = light[raised] >= band
            active = raised[bright]
            later.append(raised[~bright])
        front = np.concatenate(later)
    return light.reshape(-1, width)[1:-1, 1:-1]


def _raise(
    light: NDArray[np.floating],
    limit: NDArray[np.floating],
    waiting: NDArray[np.bool_],
    places: NDArray[np.intp],
    step: int,
) -> NDArray[np.intp]:
    """Raise the pixels a *step* beside *places* as far as their limits allow.

    Returns the raised pixels that were not *waiting* yet, and marks them as such.
    """
    beside = places + step
    raised = np.minimum(light[places], limit[beside])
    higher = raised > light[beside]
    beside = beside[higher]
    light[beside] = raised[higher]
    fresh = beside[~waiting[beside]]
    waiting[fresh] = True
    return fresh
