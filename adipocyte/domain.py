"""Facts that every room shares: stains, magnifications, the key of a field of view.

It imports nothing of ours.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from string import ascii_uppercase

TARGETS = ("A1", "A2", "A3")
TARGET_NAMES = {"A1": "nuclei", "A2": "lipid droplets", "A3": "cytoplasm"}
# On screens, in charts and in the store's metadata.
TARGET_COLOURS = {"A1": "#4080ff", "A2": "#2faf6a", "A3": "#e8573f"}
BRIGHTFIELD = "brightfield"
SEGMENTER = "segmenter"  # the network that finds nuclei in brightfield; each target has a generator

MAGNIFICATIONS = (20, 40, 60)  # of the challenge
# By magnification, where a plate does not tell it. The challenge's are not published; these values
# fit its instrument, and the others a camera with pixels of 6.5 µm, too.
UM_PER_PX = {10: 0.65, 20: 0.325, 40: 0.163, 60: 0.108, 63: 0.103, 100: 0.065}
MOST_MAGNIFICATION = 250
MOST_UM_PER_PX = 20.0  # an objective of 1x has 6.5, or 13 if its camera bins
# Pixels of sizes that differ by less are those of one objective: 15 % more or less cost a network
# little (docs/measurements/shift.md).
ALIKE = 1.2
N_Z_PLANES = 7
MOST_Z_PLANES = 9  # that a model takes which was trained for any number of planes
SMALLEST_PX = 64  # the shortest side of a field that can be prepared, painted or judged

ROWS = (*ascii_uppercase, *(f"A{letter}" for letter in "ABCDEF"))  # of a plate of 1536 wells

Window = tuple[slice, slice]  # a part of an image: rows, columns
WHOLE: Window = (slice(None), slice(None))


class Normalisation(StrEnum):
    """Where the constants come from that bring counts to network units.

    PLATE measures them over the training wells. REPORT takes brightfield's from the report's Table
    3.1. FIELD measures brightfield in each field by itself and stains in each well by itself, so
    that exposure, gain and the level of a stain make no difference to a network.
    """

    PLATE = "plate"
    REPORT = "report"
    FIELD = "field"


class Intensities(StrEnum):
    """A way of setting the counts of painted images.

    NONE leaves them as the network paints them. MATCHING gives each image the distribution of the
    training wells. CALIBRATION puts every image through one table, fitted to other wells.
    HIGHLIGHTS does so too, and then matches the few brightest pixels alone.
    """

    NONE = "none"
    MATCHING = "matching"
    CALIBRATION = "calibration"
    HIGHLIGHTS = "highlights"

    @property
    def takes_calibrations(self) -> bool:
        """Whether it puts images through calibration tables, which a bundle may lack."""
        return self in (Intensities.CALIBRATION, Intensities.HIGHLIGHTS)


@dataclass(frozen=True, order=True)
class FieldKey:
    """What names one field of view at one time point: "20x B03 F001 T0002".

    The first time is not told in any name.
    """

    magnification: int
    well: str
    fov: int
    time: int = 1

    def __str__(self) -> str:
        return f"{self.magnification}x {self.well} F{self.fov:03d} {self.time_mark}".rstrip()

    @property
    def time_mark(self) -> str:
        """Its time in names, "T0002"; "" for the first."""
        return f"T{self.time:04d}" if self.time != 1 else ""

    def columns(self, *, with_time: bool) -> dict[str, str | int]:
        """Its parts by name."""
        parts = {"magnification": self.magnification, "well": self.well, "fov": self.fov}
        return parts | {"time": self.time} if with_time else parts


TIMEPOINT = "Metadata_Timepoint"  # the column of tables, where there are several


def has_times(keys: Iterable[FieldKey]) -> bool:
    """Whether some of *keys* are of a later time than the first."""
    return any(key.time != 1 for key in keys)


def bound_names(target: str) -> tuple[str, str]:
    """The names of the lowest and the highest counts of a target: "A1_low", "A1_high"."""
    return f"{target}_low", f"{target}_high"


def are_alike(um_per_px: float, other_um: float) -> bool:
    """Whether pixels of two sizes, in µm, are those of one objective."""
    return 1 / ALIKE < um_per_px / other_um < ALIKE


def pixels_joined(um_per_px: float, finest_um_per_px: float) -> int:
    """How many pixels of *um_per_px* along a side make one of *finest_um_per_px*, at least one.

    It is the nearest whole number; with 0 as the finest, one.
    """
    return max(1, round(finest_um_per_px / um_per_px))


def nearest_objective(um_per_px: float, known: Mapping[int, float]) -> int:
    """The magnification among the *known* ones, with their µm per pixel, that comes nearest.

    *um_per_px* is the size of the pixels that it should have.
    """
    return min(known, key=lambda one: (abs(math.log(known[one] / um_per_px)), one))


def as_in_challenge(magnification: int, um_per_px: float) -> tuple[int, float]:
    """The challenge's objective that is nearest to one, and how many times finer its pixels are.

    The challenge's own three, with pixels alike, are themselves: (20, 1.0).
    """
    of_challenge = {one: UM_PER_PX[one] for one in MAGNIFICATIONS}
    if magnification in of_challenge and are_alike(um_per_px, of_challenge[magnification]):
        return magnification, 1.0
    nearest = nearest_objective(um_per_px, of_challenge)
    return nearest, um_per_px / of_challenge[nearest]


def table_key(magnification: int, channel: str) -> str:
    """The key of a histogram or calibration table: "20/A1"."""
    return f"{magnification}/{channel}"


def row_and_column(well: str) -> tuple[str, int]:
    """The row and the column of a well: "B03" → ("B", 3), "AA03" → ("AA", 3)."""
    row = well.rstrip("0123456789")
    return row, int(well[len(row) :])
