"""How the cells of one field of view grew: how crowded and how ripe. All lengths are in µm."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adipocyte.simulation.conditions import Conditions

REACH_UM = 75.0  # no cell extends further from its centre
N_WAVES = 6
CROWDING = 0.3  # standard deviation of the share of places that fat cells fill


@dataclass(frozen=True)
class Culture:
    """Where fat and thin cells can be, and how many places they fill.

    The waves say how crowding varies over the field.
    """

    pitch_um: float
    fat_share: float
    droplet_scale: float  # larger in ripe cells
    ripeness: float
    unilocular: float  # share of the fat cells
    squeezed: float  # see `conditions.Conditions`
    droplets: float  # likewise
    thin_pitch_um: float
    thin_share: float
    waves_per_um: NDArray[np.float64]  # (N_WAVES, 2) spatial frequencies y, x
    phases: NDArray[np.float64]  # (N_WAVES,)

    def crowding(self, points_um: NDArray) -> NDArray:
        """How crowded the culture is at points, (N, 2).

        It is smooth in space; over many fields its mean is 0 and its standard deviation is 1.
        """
        turns = 2 * np.pi * (points_um @ self.waves_per_um.T) + self.phases
        return np.sqrt(2 / N_WAVES) * np.cos(turns).sum(axis=1)

    def fat_centres(
        self, size_um: tuple[float, float], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Where fat cells are, (N, 2)."""
        centres_um = _scatter(size_um, self.pitch_um, rng)
        share = self.fat_share + CROWDING * self.crowding(centres_um)
        return centres_um[rng.random(len(centres_um)) < share]

    def thin_centres(
        self, size_um: tuple[float, float], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Where thin cells are, (N, 2); they stretch into empty places, so fewer are missing."""
        centres_um = _scatter(size_um, self.thin_pitch_um, rng)
        share = self.thin_share + 0.5 * CROWDING * self.crowding(centres_um)
        return centres_um[rng.random(len(centres_um)) < share]


def draw_culture(conditions: Conditions, rng: np.random.Generator) -> Culture:
    """Draw the culture of one field, as dense, ripe and unilocular as the *conditions* say."""
    turn = rng.uniform(0, 2 * np.pi, N_WAVES)
    directions = np.stack([np.sin(turn), np.cos(turn)], axis=1)
    waves_per_um = directions / rng.uniform(250, 700, (N_WAVES, 1))
    return Culture(
        pitch_um=rng.uniform(36, 40),
        fat_share=conditions.density * rng.uniform(0.7, 0.9),
        droplet_scale=rng.uniform(0.9, 1.1),
        ripeness=conditions.ripeness,
        unilocular=conditions.unilocular,
        squeezed=conditions.squeezed,
        droplets=conditions.droplets,
        thin_pitch_um=rng.uniform(40, 50),
        thin_share=conditions.density * 0.92,
        waves_per_um=waves_per_um,
        phases=rng.uniform(0, 2 * np.pi, N_WAVES),
    )


def _scatter(
    size_um: tuple[float, float], pitch_um: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Places, (N, 2), on a rectangle (height, width) and around it: a grid with jitter and gaps."""
    rows, columns = (int(np.ceil((side + 2 * REACH_UM) / pitch_um)) for side in size_um)
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    grid = np.stack([y, x], axis=-1).astype(np.float64)
    grid[1::2, :, 1] += 0.5
    grid += rng.uniform(0, 1, 2) + rng.uniform(-0.42, 0.42, grid.shape)
    return grid.reshape(-1, 2) * pitch_um - REACH_UM
