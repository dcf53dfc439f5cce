"""Lipid droplets: spheres of very unequal size, packed like a foam inside one fat cell."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

SMALLEST_RADIUS_UM = 0.45
OVERLAP = 0.93  # distance of packed droplets, which flatten each other, over that of round spheres


def draw_radii(largest_um: float, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw *n* radii in µm, largest first: a heavy (log-normal) tail cut at *largest_um*."""
    radii_um = rng.lognormal(np.log(0.27 * largest_um + 0.35), 0.6, n)
    return np.sort(np.clip(radii_um, SMALLEST_RADIUS_UM, largest_um))[::-1]


def pack(
    sites_um: NDArray[np.float64],
    room_um: NDArray[np.float64],
    radii_um: NDArray[np.float64],
    squeezed: float = 0.0,
) -> NDArray[np.float64]:
    """Place spheres one by one, each at the site where it fits most tightly.

    sites_um: (N, 3) possible centres (z, y, x). room_um: (N,) distance from each site to the
    nearest wall. *squeezed*: the share by which they are nearer to each other than usual. Returns
    (M, 4): z, y, x and radius in µm, without the spheres that fit nowhere.
    """
    overlap = OVERLAP * (1 - squeezed)
    room_um = room_um.copy()
    placed = []
    for radius_um in radii_um:
        spare_um = room_um - overlap * radius_um
        spare_um[spare_um < 0] = np.inf
        best = int(np.argmin(spare_um))
        if not np.isfinite(spare_um[best]):
            continue
        centre_um = sites_um[best]
        placed.append((*centre_um, radius_um))
        offset_um = sites_um - centre_um
        distance_um = np.sqrt(np.einsum("ij,ij->i", offset_um, offset_um))
        np.minimum(room_um, distance_um - overlap * radius_um, out=room_um)
    return np.array(placed, dtype=np.float64).reshape(-1, 4)


def faces(droplets_um: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The flat faces by which neighbours end each droplet, as in a foam.

    droplets_um: (N, 4) z, y, x, radius. Returns for each (M, 4): a normal (z, y, x) towards the
    neighbour and a number; the droplet's points, from its centre, have a scalar product with the
    normal of at most that number. These are the cells of a power diagram (Aurenhammer 1987, "Power
    diagrams: properties, algorithms and applications").
    """
    centres_um, radii_um = droplets_um[:, :3], droplets_um[:, 3]
    touch = cdist(centres_um, centres_um) < radii_um[:, None] + radii_um[None, :]
    np.fill_diagonal(touch, val=False)
    found = []
    for own, others in enumerate(touch):
        normals_um = centres_um[others] - centres_um[own]
        powers = np.sum(normals_um**2, axis=1) + radii_um[own] ** 2 - radii_um[others] ** 2
        found.append(np.column_stack([normals_um, powers / 2]))
    return found


def draw_holes(droplets_um: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Watery inclusions in a few of the larger droplets, visible as holes in the stain.

    droplets_um: (N, 4) z, y, x, radius. Returns (M, 4), likewise; a hole is always smaller than its
    droplet.
    """
    bitten = droplets_um[(droplets_um[:, 3] > 1.5) & (rng.random(len(droplets_um)) < 0.08)]
    holes = bitten.copy()
    holes[:, 3] *= rng.uniform(0.25, 0.45, len(holes))
    turn = rng.uniform(0, 2 * np.pi, len(holes))
    off_centre_um = (bitten[:, 3] - holes[:, 3]) * rng.uniform(0.2, 0.9, len(holes))
    holes[:, 1] += off_centre_um * np.sin(turn)
    holes[:, 2] += off_centre_um * np.cos(turn)
    return holes
