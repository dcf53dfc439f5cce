"""Constants of normalisation, medians and reference histograms of the training wells' fields."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import BRIGHTFIELD, FieldKey, Normalisation, table_key
from adipocyte.errors import ConfigError, PlateError
from adipocyte.imaging.histograms import N_COUNTS, mean_and_std, median
from adipocyte.imaging.normalisation import REPORT_SCALINGS, field_scaling
from adipocyte.preparation.progress import read_histograms

Histograms = dict[str, NDArray[np.int64]]
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


def own_scalings(folder: Path, keys: Iterable[FieldKey]) -> dict[FieldKey, Scalings]:
    """The scalings of each field's channels: brightfield's of its own, a stain's of its well.

    A well's fields are stained alike, and one of them may have no nucleus at all. The fields'
    records lie in *folder*, the store in the making. Raises PlateError where nothing varies.
    """
    wells: dict[tuple[int, str], list[FieldKey]] = defaultdict(list)
    for key in keys:
        wells[key.magnification, key.well].append(key)
    scalings: dict[FieldKey, Scalings] = {}
    for fields in wells.values():
        own = {key: read_histograms(folder, key) for key in fields}
        of_well: Histograms = defaultdict(lambda: np.zeros(N_COUNTS, dtype=np.int64))
        for histograms in own.values():
            for channel, histogram in histograms.items():
                of_well[channel] += histogram
        for key, histograms in own.items():
            units = {channel: of_well[channel] for channel in histograms}
            units[BRIGHTFIELD] = histograms[BRIGHTFIELD]
            scalings[key] = {name: _scaling(key, name, one) for name, one in units.items()}
    return scalings


def _scaling(key: FieldKey, channel: str, histogram: NDArray[np.int64]) -> tuple[float, float]:
    try:
        found = field_scaling(histogram)
    except ConfigError as error:
        raise PlateError(
            f"{channel} of field {key} is constant",
            "remove the field, or take -P normalisation=plate",
        ) from error
    return found.mean, found.std


def mean_scalings(fields: Mapping[FieldKey, Scalings]) -> dict[str, Scalings]:
    """The means of the scalings of *fields*, by magnification ("20") and channel."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for key, scalings in fields.items():
        for channel, scaling in scalings.items():
            found[table_key(key.magnification, channel)].append(scaling)
    means = {name: np.mean(values, axis=0).tolist() for name, values in found.items()}
    return _by_channel({name: (mean, std) for name, (mean, std) in means.items()})


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
