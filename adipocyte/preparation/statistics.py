"""Constants of normalisation, medians and reference histograms of the training wells' fields."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import BRIGHTFIELD, FieldKey, Normalisation, table_key
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
Pair = tuple[float, float]  # mean and standard deviation in counts
Scalings = dict[str, Pair]  # by channel


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
    makes none. The plate's are of the mean brightfield and level of the *trained* fields, and
    stand in where an image is constant. The fields' records lie in *folder*, the store in the
    making. Raises PlateError where a channel is constant in all trained fields.
    """
    own: dict[FieldKey, Scalings] = {}
    plate: dict[str, Scalings] = {}
    for magnification, fields in _by_magnification(folder, keys).items():
        channels = {channel for histograms in fields.values() for channel in histograms}
        found = {
            channel: _lights(fields, trained)
            if channel == BRIGHTFIELD
            else _stains(channel, fields, trained)
            for channel in sorted(channels)
        }
        plate[str(magnification)] = {channel: typical for channel, (_, typical) in found.items()}
        for key, histograms in fields.items():
            own[key] = {
                channel: found[channel][0].get(key, found[channel][1]) for channel in histograms
            }
    return own, plate


def _lights(
    fields: Mapping[FieldKey, Histograms], trained: Collection[FieldKey]
) -> tuple[dict[FieldKey, Pair], Pair]:
    """Brightfield's scalings of the fields in which it varies, and their mean."""
    found = {
        key: scaling
        for key, histograms in fields.items()
        if (scaling := _if_it_varies(field_scaling, histograms[BRIGHTFIELD]))
    }
    own = {key: (scaling.mean, scaling.std) for key, scaling in found.items()}
    return own, _typical(BRIGHTFIELD, [own[key] for key in own if key in trained])


def _stains(
    target: str, fields: Mapping[FieldKey, Histograms], trained: Collection[FieldKey]
) -> tuple[dict[FieldKey, Pair], Pair]:
    """A stain's scalings of the fields in which it varies, and that of a typical one."""
    wells = _of_wells(fields, target)
    levels = {
        well: level
        for well, members in wells.items()
        if (level := _if_it_varies(stain_level, sum(members.values(), _NOTHING)))
    }
    known = [levels[well] for well in levels if {*wells[well]} & {*trained}]
    level = Level(*_typical(target, [(level.dark, level.above) for level in known]))
    shape = _shape(wells, levels, trained)
    scalings = {well: levels[well].scaling(shape) for well in levels}
    own = {key: (scalings[w].mean, scalings[w].std) for w in scalings for key in wells[w]}
    return own, (level.scaling(shape).mean, level.scaling(shape).std)


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


def _if_it_varies(
    measure: Callable[[NDArray[np.int64]], Measured], histogram: NDArray[np.int64]
) -> Measured | None:
    try:
        return measure(histogram)
    except ConfigError:
        return None


def _typical(channel: str, pairs: Sequence[Pair]) -> Pair:
    """The mean of *pairs*. Raises PlateError when there is none."""
    if not pairs:
        raise PlateError(
            f"{channel} is constant in every field of the training wells",
            "there is nothing to learn; choose the split with -P validation_wells=… "
            "-P test_wells=…, or give images of cells",
        )
    first, second = np.mean(pairs, axis=0).tolist()
    return first, second


def _shape(
    wells: Mapping[str, Mapping[FieldKey, NDArray[np.int64]]],
    levels: Mapping[str, Level],
    trained: Collection[FieldKey],
) -> Scaling:
    """Mean and deviation of a stain over the *trained* fields, in units of the wells' levels."""
    means, squares, sizes = [], [], []
    for well, members in wells.items():
        for key, histogram in members.items():
            if key in trained and well in levels:
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
