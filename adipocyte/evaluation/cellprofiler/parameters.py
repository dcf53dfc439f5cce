"""Settings of the challenge's three CellProfiler pipelines, by magnification.

Brightness is in [0, 1]: counts / 65535.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Detection:
    """How to find one kind of bright object and part it from its neighbours.

    These are settings of CellProfiler's IdentifyPrimaryObjects. `suppression_px` is the least
    distance between two maxima; None leaves it to CellProfiler's rule.
    """

    diameter_px: tuple[float, float]
    threshold_at_least: float
    threshold_factor: float
    threshold_smoothing: float
    smoothing_px: float
    suppression_px: float | None


@dataclass(frozen=True)
class Parameters:
    """The settings that differ between magnifications. All others lie where they are used.

    Cells are found in (B + 3 C) / 4 if `cells_from_weighted_mean`, else in B + C. A droplet is
    defective from a summed defect of `defective_from`.
    """

    nuclei: Detection
    nuclei_window_px: int
    cells_from_weighted_mean: bool
    small_droplets: Detection
    big_droplets: Detection
    defect_floor: float
    defective_from: float


def _nuclei(
    diameter_px: tuple[float, float], threshold_at_least: float, suppression_px: float
) -> Detection:
    return Detection(diameter_px, threshold_at_least, 1, 5, 0, suppression_px)


def _small_droplets(threshold_at_least: float) -> Detection:
    return Detection((3, 20), threshold_at_least, 1, 3, 3, 3)


def _big_droplets(diameter_px: tuple[float, float]) -> Detection:
    return Detection(diameter_px, 0.2, 2, 1.3488, 5, None)


PARAMETERS = {
    20: Parameters(
        _nuclei((20, 80), 0.02, 25),
        67,
        False,
        _small_droplets(0.05),
        _big_droplets((20, 100)),
        0.3,
        10,
    ),
    40: Parameters(
        _nuclei((30, 150), 0.01, 25),
        67,
        False,
        _small_droplets(0.2),
        _big_droplets((30, 150)),
        0.4,
        20,
    ),
    60: Parameters(
        _nuclei((50, 200), 0.01, 35),
        93,
        True,
        _small_droplets(0.05),
        _big_droplets((30, 150)),
        0.5,
        20,
    ),
}
