"""Constants of normalisation, medians and reference histograms of the training wells' fields."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import BRIGHTFIELD, TARGETS, FieldKey, Normalisation, table_key
from adipocyte.errors import ConfigError, PlateError
from adipocyte.imaging.histograms import N_COUNTS, mean_and_std, median
from adipocyte.imaging.normalisation import (
    REPORT_SCALINGS,
    Level,
    Scaling,
    field_scaling,
    stain_level,
)
from adipocyte.preparation.progress import read_histograms

Histograms = dict[str, NDArray[np.int64]]
_NOTHING = np.zeros(N_COUNTS, dtype=np.int64)
Measured = TypeVar("Measured", Scaling, Level)
Scalings = dict[str, tuple[float, float]]  # mean and standard deviation in counts, by channel


def sum_histograms(folder: Path, keys: Iterable[FieldKey]) -> Histograms:
    """Histograms, (65536,), by magnification and channel ("20/A1") over the fields *keys*.

    They lie with the fields' records in *folder*, the store in the making.
    """
    histograms: Histograms = defaultdict(lambda: np.zeros(N_COUNTS, dtype=np.int64))
    for key in keys:
        for channel, histogram in read_histograms(folder, key).items():
            histograms[table_key(key.magnification, channel)] += histogram
    return dict(histograms)


def own_scalings(
    folder: Path, keys: Iterable[FieldKey], trained: Collection[FieldKey]
) -> tuple[dict[FieldKey, Scalings], dict[str, Scalings]]:
    """Scalings under normalisation=field: of each field's channels, and of the whole plate.

    Brightfield's are the field's own. A stain's are those of its level in the well, because a
    well's fields are stained alike, with the mean and deviation that all *trained* fields have in
    units of such levels; so how full a field is makes a difference, and how strong its stain is
    makes none. The plate's are of its mean brightfield and level. The fields' records lie in
    *folder*, the store in the making. Raises PlateError where nothing varies.
    """
    own: dict[FieldKey, Scalings] = {}
    plate: dict[str, Scalings] = {}
    for magnification, fields in _by_magnification(folder, keys).items():
        lights = {
            key: _measured(field_scaling, key, BRIGHTFIELD, histograms[BRIGHTFIELD])
            for key, histograms in fields.items()
        }
        learnt = [light for key, light in lights.items() if key in trained]
        typical: Scalings = {BRIGHTFIELD: _mean((light.mean, light.std) for light in learnt)}
        scalings = {key: {BRIGHTFIELD: (light.mean, light.std)} for key, light in lights.items()}
        for target in sorted({channel for one in fields.values() for channel in one} & {*TARGETS}):
            wells = _of_wells(fields, target)
            levels = {
                well: _measured(stain_level, min(members), target, sum(members.values(), _NOTHING))
                for well, members in wells.items()
            }
            shape = _shape(wells, levels, trained)
            for well, members in wells.items():
                scaling = levels[well].scaling(shape)
                for key in members:
                    scalings[key][target] = scaling.mean, scaling.std
            known = [levels[well] for well, members in wells.items() if {*members} & {*trained}]
            level = Level(*_mean((level.dark, level.above) for level in known))
            typical[target] = level.scaling(shape).mean, level.scaling(shape).std
        own |= scalings
        plate[str(magnification)] = typical
    return own, plate


def _by_magnification(
    folder: Path, keys: Iterable[FieldKey]
) -> dict[int, dict[FieldKey, Histograms]]:
    found: dict[int, dict[FieldKey, Histograms]] = defaultdict(dict)
    for key in keys:
        found[key.magnification][key] = read_histograms(folder, key)
    return found


def _of_wells(
    fields: Mapping[FieldKey, Histograms], target: str
) -> dict[str, dict[FieldKey, NDArray[np.int64]]]:
    """The histograms of a stain in the fields that have it, by well."""
    wells: dict[str, dict[FieldKey, NDArray[np.int64]]] = defaultdict(dict)
    for key, histograms in fields.items():
        if target in histograms:
            wells[key.well][key] = histograms[target]
    return wells


def _measured(
    measure: Callable[[NDArray[np.int64]], Measured],
    key: FieldKey,
    channel: str,
    histogram: NDArray[np.int64],
) -> Measured:
    try:
        return measure(histogram)
    except ConfigError as error:
        raise PlateError(
            f"{channel} of field {key} is constant",
            "remove the field, or take -P normalisation=plate",
        ) from error


def _shape(
    wells: Mapping[str, Mapping[FieldKey, NDArray[np.int64]]],
    levels: Mapping[str, Level],
    trained: Collection[FieldKey],
) -> Scaling:
    """Mean and deviation of a stain over the *trained* fields, in units of the wells' levels."""
    means, squares, sizes = [], [], []
    for well, members in wells.items():
        for key, histogram in members.items():
            if key in trained:
                mean, std = mean_and_std(histogram)
                mean, std = (
                    (mean - levels[well].dark) / levels[well].above,
                    std / levels[well].above,
                )
                means.append(mean)
                squares.append(mean**2 + std**2)
                sizes.append(histogram.sum())
    mean = float(np.average(means, weights=sizes))
    return Scaling(mean, float(np.sqrt(np.average(squares, weights=sizes) - mean**2)))


def _mean(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    first, second = np.mean(list(pairs), axis=0).tolist()
    return first, second


def scalings_of(histograms: Histograms, normalisation: str) -> dict[str, Scalings]:
    """Mean and standard deviation in counts by magnification ("20") and channel.

    *normalisation* "report" takes brightfield's from the report's Table 3.1.
    """
    measured = {name: mean_and_std(histogram) for name, histogram in histograms.items()}
    scalings = _by_channel(measured)
    if normalisation == Normalisation.REPORT:
        for magnification, channels in scalings.items():
            constants = REPORT_SCALINGS[int(magnification)]
            channels[BRIGHTFIELD] = (constants.mean, constants.std)
    return scalings


def medians_of(histograms: Histograms) -> dict[str, dict[str, float]]:
    """Medians in counts by magnification ("20") and channel.

    Raises PlateError where one is 0, because errors are divided by it.
    """
    medians = _by_channel({name: median(histogram) for name, histogram in histograms.items()})
    for magnification, channels in medians.items():
        for channel, counts in channels.items():
            if not counts:
                raise PlateError(
                    f"the median of {channel} at {magnification}x is 0 counts over the training "
                    "wells, so MAE / median, which chooses networks, has no value",
                    "give the plate as the camera wrote it, without background subtracted",
                )
    return medians


def _by_channel(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{"20/A1": value} → {"20": {"A1": value}}."""
    nested: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in values.items():
        magnification, channel = name.split("/")
        nested[magnification][channel] = value
    return dict(nested)
