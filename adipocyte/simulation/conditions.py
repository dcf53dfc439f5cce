"""What differs between wells with the same kind of cells: lamp, staining, focus, density."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from adipocyte.domain import TARGETS
from adipocyte.errors import ConfigError


@dataclass(frozen=True)
class Conditions:
    """How a field is prepared and photographed; the defaults are those of the challenge's plates.

    light: factor on all light that reaches the camera, brightfield and stains. Its noise is that of
        the electrons counted.
    stains: factor on a target's staining; 1 for targets without an entry.
    defocus_um: displacement of all seven brightfield planes, positive away from the glass.
        Fluorescence has its own focus and stays sharp.
    density: factor on the number of cells.
    ripeness: factor on the size of lipid droplets, and so on the height of the cells.
    unilocular: share of the fat cells that are full of one huge droplet, with tiny ones beside it
        and the nucleus pressed to the side.
    floating: factor on the number of cells above those on the glass; tens make a thick layer.
    ground_um: standard deviation of the optical path of the ground, which is a rough plastic.
    squeezed: by what share neighbouring droplets are nearer to each other than round ones can be;
        their faces are flat, as in a foam.
    droplets: share of the lipid droplets that fat cells have, of any size alike; cytoplasm fills
        the room of the others. Unilocular and floating cells have all of theirs.

    Raises ConfigError for a factor that is not above 0 (a stain, unilocular, floating, ground,
    squeezed and droplets may be 0), a share above 1, droplets squeezed by more than half, or an
    unknown target.
    """

    light: float = 1.0
    stains: Mapping[str, float] = field(default_factory=dict)
    defocus_um: float = 0.0
    density: float = 1.0
    ripeness: float = 1.0
    unilocular: float = 0.0
    floating: float = 1.0
    ground_um: float = 0.0
    squeezed: float = 0.0
    droplets: float = 1.0

    def __post_init__(self) -> None:
        if min(self.light, self.density, self.ripeness) <= 0:
            raise ConfigError(
                "light, density and ripeness must be above 0, "
                f"got {self.light}, {self.density} and {self.ripeness}",
                "give factors, 1 is nominal",
            )
        if not 0 <= self.unilocular <= 1 or min(self.floating, self.ground_um) < 0:
            raise ConfigError(
                "unilocular must be a share, floating and ground_um 0 or above, "
                f"got {self.unilocular}, {self.floating} and {self.ground_um}",
                "0, 1 and 0 are nominal",
            )
        if not 0 <= self.squeezed <= 0.5:
            raise ConfigError(
                f"squeezed must be 0 to 0.5, got {self.squeezed}", "0 is nominal: round droplets"
            )
        if not 0 <= self.droplets <= 1:
            raise ConfigError(
                f"droplets must be a share, 0 to 1, got {self.droplets}", "1 is nominal: all"
            )
        if unknown := set(self.stains) - set(TARGETS):
            raise ConfigError(
                f"stains names {sorted(unknown)}, which are no targets",
                f"choose from {', '.join(TARGETS)}",
            )
        if any(factor < 0 for factor in self.stains.values()):
            raise ConfigError(
                f"stains must be 0 or above, got {dict(self.stains)}",
                "give factors, 1 is nominal",
            )


def draw_any_conditions(seed: int | Sequence[int]) -> Conditions:
    """One of the cultures that laboratories grow: sparse or dense, lean or ripe, any strength of
    stain; some with unilocular cells, some with squeezed droplets, some in thick layers, some on
    rough ground.
    """
    rng = np.random.default_rng(seed)
    return Conditions(
        stains={target: np.exp(rng.uniform(np.log(0.5), np.log(2))) for target in TARGETS},
        density=rng.uniform(0.4, 1.2),
        ripeness=np.exp(rng.uniform(np.log(0.6), np.log(1.5))),
        unilocular=rng.uniform(0.2, 1.0) if rng.random() < 0.25 else 0.0,
        floating=rng.uniform(5, 30) if rng.random() < 0.15 else 1.0,
        ground_um=rng.uniform(0.005, 0.03) if rng.random() < 0.3 else 0.0,
        squeezed=rng.uniform(0.05, 0.3) if rng.random() < 0.4 else 0.0,
    )


def draw_conditions(seed: int | Sequence[int]) -> Conditions:
    """The batch effect of one well.

    Lamp and number of cells vary by up to 10 %, each stain by 25 %, focus by 0.6 µm. These ranges
    are plausible, not measured. The same seed gives the same conditions.
    """
    rng = np.random.default_rng(seed)
    return Conditions(
        light=rng.uniform(0.9, 1.1),
        stains={target: rng.uniform(0.75, 1.25) for target in TARGETS},
        defocus_um=rng.uniform(-0.6, 0.6),
        density=rng.uniform(0.9, 1.1),
    )
