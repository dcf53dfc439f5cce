"""What the challenge's three CellProfiler pipelines set, by magnification. Brightness is in [0, 1]: counts / 65535."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Detection:
    """How one kind of bright object is found and told from its neighbours (CellProfiler's IdentifyPrimaryObjects)."""

    diameter_px: tuple[float, float]
    threshold_at_least: float
    threshold_factor: float
    threshold_smoothing: float
    smoothing_px: float
    suppression_px: float | None  # between two maxima; None leaves it to CellProfiler's rule


@dataclass(frozen=True)
class Parameters:
    """What differs between magnifications. All else is the same, and stands where it is used."""

    nuclei: Detection
    nuclei_window_px: int
    cells_from_weighted_mean: bool  # cells are found in (B + 3 C) / 4, else in B + C
    small_droplets: Detection
    big_droplets: Detection
    defect_floor: float
    defective_from: float  # the least defect, summed over a droplet


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
