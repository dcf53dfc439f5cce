"""The chain: segmenter → mask → A1; A2, A3; counts; intensities (report, Figure 1.1 and 6.1)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import (
    SEGMENTER,
    WHOLE,
    Intensities,
    Normalisation,
    Window,
    table_key,
)
from adipocyte.errors import BundleError, ConfigError, ImageError, MemoryLimitError
from adipocyte.imaging import limits, quality
from adipocyte.imaging.appearance import measure_appearance
from adipocyte.imaging.histograms import apply_table, match_highlights, match_histogram
from adipocyte.imaging.intervals import FEWEST_WELLS, Widths
from adipocyte.imaging.normalisation import Scaling
from adipocyte.imaging.padding import pad_to_multiple
from adipocyte.imaging.planes import as_many
from adipocyte.imaging.resizing import joined, joined_shape, resized, resized_stack
from adipocyte.imaging.trust import UNTOLD, Trust
from adipocyte.networks.files import load_network
from adipocyte.networks.predictor import Predictor, make_ready
from adipocyte.networks.tiles import Tiling, predict_windows, smallest_tile_px
from adipocyte.networks.unet import DIVISOR, UNetSpec
from adipocyte.staining.bundle import (
    check_files,
    read_calibrations,
    read_foretellers,
    read_histograms,
    read_intervals,
    read_manifest,
)
from adipocyte.staining.view import View, view_of
from adipocyte.system.machine import arithmetic, fastest_device, free_bytes

_TILES_PX = (6144, 4096, 3072, 2560, 2048, 1792, 1536, 1280, 1024)
# Said of a model that normalises each field by itself, when a field is unlike the training wells.
TYPICAL_COUNTS = (
    "painted counts are those of a typical training well: compare shapes and areas, not intensities"
)
# Intervals of a target: the lowest and the highest count, (Y, X) uint16 each.
Interval = tuple[NDArray[np.uint16], NDArray[np.uint16]]
_MB = 10**6
_SHARE = 0.75  # of the free memory that painting may take
# For each pixel of the field: the output, its counts, and what setting the intensities takes.
_FIELD_BYTES = 16
# For each pixel and channel of a tile: the source in network units and its padded or turned copy.
_TILE_BYTES = 8
# For each pixel of the field and further output of a network: the output, and its weighted copy.
_OUTPUT_BYTES = 8
# The heap keeps this much in pieces between layers. Measured: benchmarks/painting.py.
_FIXED_MB = 100


@dataclass(frozen=True)
class Stained:
    """A painted field: `images` by target, (Y, X) uint16 in counts.

    `warnings` name each measurement of quality in which the input differs from the training wells,
    and say when the counts may therefore mean nothing. If they were asked for, `intervals` by
    target are the lowest and the highest true count to be expected, and `trust` says whether to
    believe the field. `is_resampled` says that it was painted in pixels of another objective.
    """

    images: dict[str, NDArray[np.uint16]]
    warnings: tuple[str, ...]
    intervals: dict[str, Interval] = field(default_factory=dict)
    trust: Trust = UNTOLD
    is_resampled: bool = False


class Stainer:
    """A loaded bundle, which paints fields of any size.

    *memory_mb* limits the memory, in MB of 10^6 bytes, that painting a field may take beside the
    loaded networks; None allows three quarters of what is free once they are loaded. *precision* is
    the arithmetic of the networks, "32", "bf16" or "auto", the faster of the two on this processor,
    or "int8", which takes *compiled*, a CPU, and networks that see no mask; `precision` says which
    one it became. *compiled* makes them faster still, but takes seconds at
    the start (see `make_ready`). `predictors` are the networks, by
    name, `widths` those of the intervals, by "20/A1", …, `histograms` those of the training wells'
    stains, (65536,), likewise.

    Raises BundleError when *folder* holds no whole bundle, ConfigError when *compiled* is asked for
    and the compiler is not installed, or when int8 cannot be.
    """

    def __init__(
        self,
        folder: Path,
        memory_mb: float | None = None,
        *,
        precision: str = "auto",
        compiled: bool = False,
    ) -> None:
        self.manifest = read_manifest(folder)
        check_files(folder, self.manifest)
        self.histograms = read_histograms(folder)
        self._calibrations = read_calibrations(folder, self.manifest)
        self.widths = read_intervals(folder, self.manifest)
        self._foretellers = read_foretellers(folder, self.manifest)
        device = fastest_device()
        self.precision = arithmetic(precision, device)
        self._keeps_memory = compiled  # compiled networks do not free theirs between fields
        self.predictors: dict[str, Predictor] = {}
        self._n_outputs: dict[str, int] = {}
        for name in self.manifest.names(self.manifest.targets):
            spec, network = load_network(folder / name)
            self._require_fitting(name, spec)
            entry = self.manifest.networks.get(name)  # the segmenter has none
            self._n_outputs[name] = spec.out_channels
            self.predictors[name] = make_ready(
                network,
                spec.in_channels,
                device,
                self.precision,
                compiled,
                entry.ranges if entry else None,
            )
        self.memory_mb = _SHARE * free_bytes(device) / _MB if memory_mb is None else memory_mb

    def stain(
        self,
        planes: NDArray[np.uint16],
        magnification: int,
        *,
        um_per_px: float | None = None,
        resample: bool = False,
        intensities: str | None = None,
        targets: Sequence[str] | None = None,
        tile_px: int | None = None,
        tta: bool = False,
        level: float | None = None,
    ) -> Stained:
        """Paint *targets* of a field; None: all that the bundle has.

        planes: (Z, Y, X) brightfield in counts, sides of 64 pixels or more, as many planes as the
        bundle takes, of pixels of *um_per_px* (None: as the bundle has seen them, or as is usual).
        A field of an objective that the bundle has not seen is painted, with *resample* or where
        the bundle takes any objective, in pixels of the nearest that it has, and brought back.
        *intensities* is a way for `rescale`; None: the one that the bundle keeps. *tile_px* is the
        side in pixels of the tiles that the networks see; None: the whole field at once, or where
        that would take too much memory, the largest tiles that do not. *tta* averages the paintings
        of the field turned and mirrored in all eight ways, and takes eight times as long. With
        *level* there are intervals, too, that hold the true count of so many of a well's pixels
        (see `Widths.interval`), and a verdict on the field, for which all that the bundle has is
        painted. Returns images of the same (Y, X).

        Raises ImageError for a stack of another kind or an objective that the bundle has not
        seen, MemoryLimitError before it would take more memory than `memory_mb`, ConfigError for an
        unknown way or target, for tiles that cannot be laid, or for intervals that the bundle does
        not have.
        """
        way, targets = self.manifest.way(intensities), self._targets(targets)
        self._check_planes(planes)
        shape_px = planes.shape[1:]
        view = view_of(self.manifest, shape_px, magnification, um_per_px, resample=resample)
        self._check_wishes(view, shape_px, way, targets, tile_px, tta, level)
        planes = as_many(planes, self.manifest.n_z_planes)
        if view.shape_px != shape_px:
            planes = resized_stack(planes, view.shape_px)
        stained = self._stained(planes, view.magnification, way, targets, tile_px, tta, level)
        return (
            stained if view.is_own else self._brought_back(stained, shape_px, magnification, view)
        )

    def _stained(
        self,
        planes: NDArray[np.uint16],
        magnification: int,
        way: Intensities,
        targets: Sequence[str],
        tile_px: int | None,
        tta: bool,
        level: float | None,
    ) -> Stained:
        """A field as the networks see it, painted."""
        painted = self._counts(planes, magnification, self._needed(targets, level), tile_px, tta)
        light = quality.measure_quality(planes)
        caution = [self.manifest.caution] if self.manifest.caution else []
        warnings = (*caution, *self._warnings(light, magnification))
        images = {target: painted[target] for target in targets}
        images = self.rescale(images, magnification, way)
        if level is None:
            return Stained(images, warnings)
        intervals = self._intervals(images, magnification, level)
        return Stained(images, warnings, intervals, self._trust(light, painted, magnification))

    def trust(
        self,
        planes: NDArray[np.uint16],
        images: Mapping[str, NDArray[np.uint16]],
        magnification: int,
    ) -> Trust:
        """Whether to believe what was painted of *planes*, (Z, Y, X).

        *images*, (Y, X) by target, are all that the bundle paints, with the intensities "none".
        UNTOLD where the bundle cannot tell.
        """
        if magnification not in self._foretellers:
            return UNTOLD
        return self._trust(quality.measure_quality(planes), images, magnification)

    def _trust(
        self,
        light: quality.Measures,
        images: Mapping[str, NDArray[np.uint16]],
        magnification: int,
    ) -> Trust:
        foreteller = self._foretellers.get(magnification)
        if foreteller is None:
            return UNTOLD
        appearance = measure_appearance(light, images)
        return foreteller(appearance, self._warnings(light, magnification))

    def _brought_back(
        self, stained: Stained, shape_px: tuple[int, int], magnification: int, view: View
    ) -> Stained:
        """What was painted in other pixels, in the field's own of *shape_px*, (Y, X)."""
        um_per_px = self.manifest.objectives[view.magnification]
        note = f"painted in pixels of {um_per_px:g} µm and brought to the field's own"
        if not self.manifest.any_objective:
            note = (
                f"resampled to the pixels of {view.magnification}x, because the model has not seen "
                f"these of {magnification}x: fine structure may be wrong"
            )
        images = {one: resized(image, shape_px) for one, image in stained.images.items()}
        return Stained(images, (*stained.warnings, note), is_resampled=True)

    def _counts(
        self,
        planes: NDArray[np.uint16],
        magnification: int,
        targets: Sequence[str],
        tile_px: int | None,
        tta: bool,
    ) -> dict[str, NDArray[np.uint16]]:
        """*targets* in counts, before intensities are set; *planes* are as many as networks see."""
        shape_px, light = planes.shape[1:], self.manifest.light_scaling(magnification, planes)
        counts = {}
        for n, some in self._by_joined(targets, magnification).items():
            seen = joined(planes, n)
            tiling = self._tiling(shape_px, n, some, tile_px, tta)
            source = _Source(seen, light, tiling)
            run = partial(predict_windows, shape_px=seen.shape[1:], tiling=tiling, tta=tta)
            for target, output in self._painted(source, some, run):
                scaling = self.manifest.scaling(magnification, target)
                counts[target] = scaling.denormalise(resized(output, shape_px))
        return counts

    def _by_joined(self, targets: Sequence[str], magnification: int) -> dict[int, list[str]]:
        """*targets* by the number of pixels along a side that are one to what paints them."""
        found: dict[int, list[str]] = {}
        for name in self.manifest.names(targets):
            if name != SEGMENTER:
                paints = [one for one in self.manifest.networks[name].paints if one in targets]
                found.setdefault(self.manifest.n_joined(name, magnification), []).extend(paints)
        return found

    def _needed(self, targets: Sequence[str], level: float | None) -> Sequence[str]:
        """What must be painted of a field of which *targets* are asked for, with a *level* or not.

        A verdict looks at all that the bundle paints.
        """
        return self.manifest.targets if level is not None and self._foretellers else targets

    def _warnings(self, light: quality.Measures, magnification: int) -> tuple[str, ...]:
        """What is unlike the training wells; and then, if painted counts may mean nothing, that."""
        warnings = limits.flags(light, self.manifest.limits[str(magnification)])
        if warnings and self.manifest.normalisation == Normalisation.FIELD:
            return (*warnings, TYPICAL_COUNTS)
        return warnings

    def _painted(
        self, source: "_Source", targets: Sequence[str], run: Callable[..., NDArray[np.float32]]
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Each of *targets* with its (Y, X) in network units, network by network."""
        names = self.manifest.names(targets)
        if SEGMENTER in names:
            logits = run(self.predictors[SEGMENTER], source.planes)
            mask = logits[0] > 0  # see `segment_field`
        for name in names:
            if name == SEGMENTER:
                continue
            entry = self.manifest.networks[name]
            read = partial(source.planes_and_mask, mask) if entry.sees_mask else source.planes
            outputs = run(self.predictors[name], read)
            for target, output in zip(entry.paints, outputs, strict=True):
                if target in targets:
                    yield target, output

    def memory_needed_mb(
        self,
        shape_px: tuple[int, int],
        *,
        targets: Sequence[str] | None = None,
        tile_px: int | None = None,
        tta: bool = False,
        n_joined: int = 1,
    ) -> float:
        """The memory in MB that painting a field of *shape_px*, (Y, X), takes.

        Networks see *n_joined* by *n_joined* of its pixels as one. Networks and planes are not
        counted. Without *tile_px* the field goes through in one piece.
        """
        targets = self._targets(targets)
        seen_px = joined_shape(shape_px, n_joined)
        height, width = (side if tile_px is None else min(side, tile_px) for side in seen_px)
        tiles_bytes = []
        networks = self.manifest.names(targets)
        for predictor in (self.predictors[name] for name in networks):
            px_bytes = predictor.px_bytes + _TILE_BYTES * (1 + tta) * predictor.in_channels
            tiles_bytes.append(predictor.layout_bytes + px_bytes * height * width)
        tile_bytes = sum(tiles_bytes) if self._keeps_memory else max(tiles_bytes)
        n_outputs = max(self._n_outputs[name] for name in networks)
        px_bytes = _FIELD_BYTES + 4 * len(targets) + _OUTPUT_BYTES * (n_outputs - 1)
        field_bytes = px_bytes * shape_px[0] * shape_px[1]
        return (tile_bytes + field_bytes) / _MB + _FIXED_MB

    def check(
        self,
        shape_px: tuple[int, int],
        magnification: int,
        *,
        um_per_px: float | None = None,
        resample: bool = False,
        targets: Sequence[str] | None = None,
        intensities: str | None = None,
        tile_px: int | None = None,
        tta: bool = False,
        level: float | None = None,
    ) -> None:
        """Raise what `stain` would raise for a field of *shape_px*, (Y, X), before it is read.

        That is ImageError for its size or objective, MemoryLimitError, or ConfigError.
        """
        way, targets = self.manifest.way(intensities), self._targets(targets)
        view = view_of(self.manifest, shape_px, magnification, um_per_px, resample=resample)
        self._check_wishes(view, shape_px, way, targets, tile_px, tta, level)

    def _check_wishes(
        self,
        view: View,
        shape_px: tuple[int, int],
        way: Intensities,
        targets: Sequence[str],
        tile_px: int | None,
        tta: bool,
        level: float | None,
    ) -> None:
        """Raise unless there are such intervals, and memory for the field in all its sizes."""
        if level is not None:
            self._check_level(level, view, targets, way)
        needed = self._by_joined(self._needed(targets, level), view.magnification)
        for shape in {shape_px, view.shape_px}:
            for n, some in needed.items():
                self._tiling(shape, n, some, tile_px, tta)

    def rescale(
        self, images: dict[str, NDArray[np.uint16]], magnification: int, way: str
    ) -> dict[str, NDArray[np.uint16]]:
        """Set the intensities of *images* in a *way* of `domain.Intensities`.

        images: (Y, X) by target in counts as the networks paint them, at *magnification*. Raises
        ConfigError as `BundleManifest.way` does.
        """
        way = self.manifest.way(way)
        if way is Intensities.NONE:
            return images
        return {
            target: self._rescaled(image, table_key(magnification, target), way)
            for target, image in images.items()
        }

    def _rescaled(
        self, image: NDArray[np.uint16], name: str, way: Intensities
    ) -> NDArray[np.uint16]:
        """*image* with the tables of *name*, "20/A1", in a *way* that takes some."""
        if way is Intensities.MATCHING:
            return match_histogram(image, self.histograms[name])
        calibrated = apply_table(self._calibrations[name], image)
        if way is Intensities.CALIBRATION:
            return calibrated
        return match_highlights(calibrated, self.histograms[name])

    def _intervals(
        self, images: dict[str, NDArray[np.uint16]], magnification: int, level: float
    ) -> dict[str, Interval]:
        return {
            target: self._widths_of(magnification, target).interval(image, level)
            for target, image in images.items()
        }

    def _check_level(
        self, level: float, view: View, targets: Sequence[str], way: Intensities
    ) -> None:
        """Raise unless there are intervals of *level* around what is painted so."""
        if not view.is_own:
            raise ImageError(
                "intervals hold for objectives that the model has seen, and this field was taken "
                "by another",
                "paint it without uncertainty, or train on a plate of this objective",
            )
        if way != self.manifest.intensities:
            raise ConfigError(
                f"there are no intervals of images with the intensities {way}",
                f"take {self.manifest.intensities}, which the model keeps, or no intervals",
            )
        for target in targets:
            self._widths_of(view.magnification, target).rarity(level)

    def _widths_of(self, magnification: int, target: str) -> Widths:
        widths = self.widths.get(table_key(magnification, target))
        if widths is None:
            raise self._without_intervals(target, magnification)
        return widths

    def _without_intervals(self, target: str, magnification: int) -> ConfigError:
        if self.manifest.caution:
            return ConfigError(
                f"the model has no intervals, because it was registered from no plate: "
                f"{self.manifest.caution}",
                "paint without uncertainty, or train and register on stained wells of your own",
            )
        return ConfigError(
            f"the model has no intervals of {target} at {magnification}x, because it was "
            f"registered before there were any, or with fewer than {FEWEST_WELLS} "
            "validation wells",
            "register it again with mlflow run . -e register, from a store with more "
            "validation wells if it has one",
        )

    def _targets(self, targets: Sequence[str] | None) -> tuple[str, ...]:
        known = self.manifest.targets
        if targets is None:
            return known
        unknown = [target for target in targets if target not in known]
        if unknown or not targets:
            found = f"no target is {unknown[0]!r}" if unknown else "no target is named"
            raise ConfigError(found, f"the model paints {', '.join(known)}; name some of these")
        return tuple(target for target in known if target in targets)

    def _tiling(
        self,
        shape_px: tuple[int, int],
        n_joined: int,
        targets: Sequence[str],
        tile_px: int | None,
        tta: bool,
    ) -> Tiling | None:
        """How a field of *shape_px* goes through the networks; None: in one piece.

        They see *n_joined* by *n_joined* of its pixels as one. Raises MemoryLimitError where it
        would take too much memory.
        """
        halo_px = max(self.predictors[name].halo_px for name in self.manifest.names(targets))
        smallest = smallest_tile_px(halo_px)
        sides: list[int | None] = [tile_px]
        if not tile_px:
            longest = max(joined_shape(shape_px, n_joined))
            smaller = [side for side in (*_TILES_PX, smallest) if smallest <= side < longest]
            sides = [None, *smaller]
        needed_mb = 0.0
        for side in sides:
            tiling = Tiling(side, halo_px) if side else None
            needed_mb = self.memory_needed_mb(
                shape_px, targets=targets, tile_px=side, tta=tta, n_joined=n_joined
            )
            if needed_mb <= self.memory_mb:
                return tiling
        in_tiles = f" in tiles of {sides[-1]}" if sides[-1] else ""
        can_shrink = tile_px and tile_px > smallest
        advice = "take smaller tiles (tile_px)" if can_shrink else "send a smaller field"
        raise MemoryLimitError(
            f"a field of {shape_px[0]} x {shape_px[1]} pixels takes {needed_mb:.0f} MB of memory"
            f"{in_tiles}, {self.memory_mb:.0f} are allowed",
            f"{advice}, or allow more (memory_mb; for a served model the environment variable "
            "ADIPOCYTE_MEMORY_MB)",
        )

    def _require_fitting(self, name: str, spec: UNetSpec) -> None:
        """Raise BundleError when a network has other channels than the manifest says."""
        entry = self.manifest.networks.get(name)  # none for the segmenter
        n_in = self.manifest.n_z_planes + (entry is not None and entry.sees_mask)
        n_out = len(entry.paints) if entry else 1
        if (spec.in_channels, spec.out_channels) != (n_in, n_out):
            raise BundleError(
                f"the bundle's network {name} has {spec.in_channels} inputs and "
                f"{spec.out_channels} outputs, not {n_in} and {n_out}",
                "register the model again with mlflow run . -e register",
            )

    def _check_planes(self, planes: NDArray[np.uint16]) -> None:
        allowed = self.manifest.plane_numbers
        if planes.ndim != 3 or len(planes) not in allowed or planes.dtype != np.uint16:
            numbers = f"{allowed[0]}" if len(allowed) == 1 else f"{allowed[0]} to {allowed[-1]}"
            raise ImageError(
                f"the stack is {planes.dtype} of shape {planes.shape}",
                f"it must be uint16 counts of shape ({numbers}, Y, X)",
            )


class _Source:
    """Windows of (Z, Y, X) *planes* in network units, padded to the multiples that networks need.

    Without *tiling* the whole field is made once for all networks.
    """

    def __init__(self, planes: NDArray[np.uint16], light: Scaling, tiling: Tiling | None) -> None:
        self._planes, self._light = planes, light
        self._whole = self._make(WHOLE) if tiling is None else None

    def planes(self, window: Window) -> NDArray[np.float32]:
        """(Z, Y, X) of the *window*."""
        return self._with_room(window)[:-1]

    def planes_and_mask(self, mask: NDArray[np.bool_], window: Window) -> NDArray[np.float32]:
        """(Z + 1, Y, X) of the *window*, the last from a *mask* (Y, X) of the field."""
        source = self._with_room(window)
        source[-1] = pad_to_multiple(mask[window], DIVISOR)
        return source

    def _with_room(self, window: Window) -> NDArray[np.float32]:
        return self._make(window) if self._whole is None else self._whole

    def _make(self, window: Window) -> NDArray[np.float32]:
        """The planes, and after them room for a mask.

        The room is made at once because fresh memory of a field's size costs more than the
        arithmetic.
        """
        counts = pad_to_multiple(self._planes[(slice(None), *window)], DIVISOR)
        source = np.empty((len(counts) + 1, *counts.shape[1:]), dtype=np.float32)
        self._light.normalise(counts, out=source[:-1])
        return source
