"""Constants of normalisation, medians and reference histograms of the training wells' fields."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
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


@dataclass
class _Well:
    """What the fields of one well at one magnification show.

    `lights` are the scalings of brightfield where it varies, `levels` those of the stains that
    vary, `stained` the fields that have a stain. `moments` hold mean, standard deviation and number
    of pixels of the trained fields' stains.
    """

    lights: dict[FieldKey, Scaling] = field(default_factory=dict)
    levels: dict[str, Level] = field(default_factory=dict)
    stained: dict[str, list[FieldKey]] = field(default_factory=lambda: defaultdict(list))
    moments: dict[str, list[tuple[float, float, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )


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
    members: dict[tuple[int, str], list[FieldKey]] = defaultdict(list)
    for key in keys:
        members[key.magnification, key.well].append(key)
    plates: dict[int, list[_Well]] = defaultdict(list)
    for (magnification, _), fields in members.items():
        plates[magnification].append(_measured(folder, fields, trained))
    own: dict[FieldKey, Scalings] = defaultdict(dict)
    typical: dict[str, Scalings] = {}
    for magnification, wells in plates.items():
        targets = sorted({target for well in wells for target in well.stained})
        plate = {BRIGHTFIELD: _typical_light(wells, trained)}
        shapes = {target: _shape(target, wells) for target in targets}
        for target, shape in shapes.items():
            plate[target] = _typical_level(target, wells).scaling(shape)
        for well in wells:
            for key, light in well.lights.items():
                own[key][BRIGHTFIELD] = _pair(light)
            for target, level in well.levels.items():
                for key in well.stained[target]:
                    own[key][target] = _pair(level.scaling(shapes[target]))
        typical[str(magnification)] = {name: _pair(scaling) for name, scaling in plate.items()}
    return own, typical


def _measured(folder: Path, fields: Sequence[FieldKey], trained: Collection[FieldKey]) -> _Well:
    """Measure the fields of one well, one after another: a field's histograms take 2 MB."""
    well = _Well()
    of_well: Histograms = defaultdict(lambda: np.zeros(N_COUNTS, dtype=np.int64))
    for key in fields:
        histograms = read_histograms(folder, key)
        if light := _if_it_varies(field_scaling, histograms.pop(BRIGHTFIELD)):
            well.lights[key] = light
        for target, histogram in histograms.items():
            of_well[target] += histogram
            well.stained[target].append(key)
            if key in trained:
                well.moments[target].append((*mean_and_std(histogram), int(histogram.sum())))
    for target, histogram in of_well.items():
        if level := _if_it_varies(stain_level, histogram):
            well.levels[target] = level
    return well


def _if_it_varies(
    measure: Callable[[NDArray[np.int64]], Measured], histogram: NDArray[np.int64]
) -> Measured | None:
    try:
        return measure(histogram)
    except ConfigError:
        return None


def _typical_light(wells: Sequence[_Well], trained: Collection[FieldKey]) -> Scaling:
    lights = [light for well in wells for key, light in well.lights.items() if key in trained]
    _require_some(BRIGHTFIELD, lights)
    means, stds = [light.mean for light in lights], [light.std for light in lights]
    return Scaling(float(np.mean(means)), float(np.mean(stds)))


def _typical_level(target: str, wells: Sequence[_Well]) -> Level:
    levels = [well.levels[target] for well in _learnt_from(target, wells)]
    dark, above = [level.dark for level in levels], [level.above for level in levels]
    return Level(float(np.mean(dark)), float(np.mean(above)))


def _learnt_from(target: str, wells: Sequence[_Well]) -> list[_Well]:
    """The training wells in which a stain varies. Raises PlateError when there is none."""
    found = [well for well in wells if target in well.levels and well.moments[target]]
    _require_some(target, found)
    return found


def _require_some(channel: str, found: Sequence[object]) -> None:
    if not found:
        raise PlateError(
            f"{channel} is constant in every field of the training wells",
            "there is nothing to learn; choose the split with -P validation_wells=… "
            "-P test_wells=…, or give images of cells",
        )


def _shape(target: str, wells: Sequence[_Well]) -> Scaling:
    """Mean and deviation of a stain over the trained fields, in units of their wells' levels."""
    means, squares, sizes = [], [], []
    for well in _learnt_from(target, wells):
        level = well.levels[target]
        for mean, std, n_px in well.moments[target]:
            means.append((mean - level.dark) / level.above)
            squares.append(means[-1] ** 2 + (std / level.above) ** 2)
            sizes.append(n_px)
    mean = float(np.average(means, weights=sizes))
    return Scaling(mean, float(np.sqrt(np.average(squares, weights=sizes) - mean**2)))


def _pair(scaling: Scaling) -> tuple[float, float]:
    return scaling.mean, scaling.std


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
