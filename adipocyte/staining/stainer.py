"""The chain: segmenter → mask → A1; A2, A3; counts; intensities (report, Figure 1.1 and section 6.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from adipocyte.domain import SEGMENTER, SMALLEST_PX, Intensities, Window, table_key
from adipocyte.errors import ConfigError, ImageError, MemoryLimitError
from adipocyte.imaging import limits, quality
from adipocyte.imaging.histograms import apply_table, match_histogram
from adipocyte.imaging.normalisation import Scaling
from adipocyte.imaging.padding import pad_to_multiple
from adipocyte.networks.files import load_network
from adipocyte.networks.memory import bytes_per_px, layout_bytes
from adipocyte.networks.predictor import Predict, make_ready
from adipocyte.networks.tiles import Tiling, halo_of, predict_windows, smallest_tile_px
from adipocyte.networks.unet import DIVISOR
from adipocyte.staining.bundle import (
    check_files,
    names,
    read_calibrations,
    read_histograms,
    read_manifest,
)
from adipocyte.system.machine import DTYPES, arithmetic, fastest_device, free_bytes

_TILES_PX = (6144, 4096, 3072, 2560, 2048, 1792, 1536, 1280, 1024)
_MB = 10**6
_SHARE = 0.75  # of the free memory that painting may take
_FIELD_BYTES = (
    16  # of each pixel of the field: the output, its counts, and what setting the intensities takes
)
_TILE_BYTES = 8  # of each pixel and channel of a tile: the source in network units, and its padded or turned copy
_FIXED_MB = 100  # what the heap keeps in pieces between layers; measured: benchmarks/painting.py


@dataclass(frozen=True)
class Stained:
    """`images` by target, (Y, X) uint16 in counts; `warnings` say in what the input is unlike the training wells."""

    images: dict[str, NDArray[np.uint16]]
    warnings: tuple[str, ...]


class Stainer:
    """A bundle, loaded: paints fields of any size.

    *memory_mb* bounds, in MB of 10^6 bytes, what painting a field may take beside the loaded networks; None: three quarters of what is free
    once they are loaded. *precision* is the arithmetic of the networks, "32", "bf16" or "auto", the faster of the two on this processor;
    `precision` says which it became. *compiled* makes them faster still, for seconds spent at the start (see `make_ready`).

    Raises BundleError when *folder* holds no whole bundle, ConfigError when it shall compile and what compiles is not installed.
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
        self._histograms = read_histograms(folder)
        self._calibrations = read_calibrations(folder, self.manifest)
        device = fastest_device()
        self.precision = arithmetic(precision, device)
        self._keeps_memory = compiled  # what is compiled does not give it back between fields
        self._networks: dict[str, nn.Module] = {}
        self._predict: dict[str, Predict] = {}
        self._channels: dict[str, int] = {}
        for name in names(self.manifest.targets):
            spec, network = load_network(folder / name)
            self._channels[name] = spec.in_channels
            self._networks[name], self._predict[name] = make_ready(
                network, spec.in_channels, device, self.precision, compiled
            )
        # Of each network: bytes for each pixel of a tile, and what its tiles throw away along a cut. Found now, for that takes a network's
        # weights away for a moment, which no thread may see.
        dtype = DTYPES[self.precision]
        self._px_bytes = {
            name: bytes_per_px(network, self._channels[name], dtype)
            for name, network in self._networks.items()
        }
        self._halos_px = {
            name: halo_of(network, self._channels[name]) for name, network in self._networks.items()
        }
        self.memory_mb = _SHARE * free_bytes(device) / _MB if memory_mb is None else memory_mb

    def stain(
        self,
        planes: NDArray[np.uint16],
        magnification: int,
        *,
        intensities: str | None = None,
        targets: Sequence[str] | None = None,
        tile_px: int | None = None,
        tta: bool = False,
    ) -> Stained:
        """Paint *targets* of a field; None: all that the bundle has.

        planes: (Z, Y, X) brightfield in counts, sides of 64 pixels or more. *intensities* is a way for `rescale`; None: the one that
        the bundle keeps. *tile_px* is the side of the tiles that the field goes through the networks in, in pixels; None: in one piece,
        or where that would take too much memory in the largest tiles that do not. *tta* paints the field in the eight ways it can
        lie, takes the mean, and eight times as long. Returns images of the same (Y, X).

        Raises ImageError for a stack of another kind or a magnification that the bundle has not seen, MemoryLimitError before it would
        take more memory than `memory_mb`, ConfigError for an unknown way or target or tiles that cannot be laid.
        """
        way, targets = self.manifest.way(intensities), self._targets(targets)
        self._check(planes, magnification)
        tiling = self._tiling(planes.shape[1:], targets, tile_px, tta)
        source = _Source(planes, self._scaling(magnification, "brightfield"), tiling)
        images: dict[str, NDArray[np.uint16]] = {}
        for target in targets:
            read = source.planes
            if target == "A1":
                logits = predict_windows(
                    self._predict[SEGMENTER], read, planes.shape[1:], tiling, tta=tta
                )
                read = partial(source.planes_and_mask, logits > 0)  # see `segment_field`
            painted = predict_windows(
                self._predict[target], read, planes.shape[1:], tiling, tta=tta
            )
            images[target] = self._scaling(magnification, target).denormalise(painted)
        images = self.rescale(images, magnification, way)
        return Stained(
            images,
            limits.flags(
                quality.measure_quality(planes), self.manifest.limits[str(magnification)]
            ),
        )

    def memory_needed_mb(
        self,
        shape_px: tuple[int, int],
        *,
        targets: Sequence[str] | None = None,
        tile_px: int | None = None,
        tta: bool = False,
    ) -> float:
        """What painting a field of *shape_px*, (Y, X), will take beside networks and planes, in MB; without *tile_px* in one piece."""
        targets = self._targets(targets)
        height, width = (side if tile_px is None else min(side, tile_px) for side in shape_px)
        at_once = sum if self._keeps_memory else max
        tile_bytes = at_once(
            layout_bytes(self._networks[name])
            + (self._px_bytes[name] + _TILE_BYTES * (1 + tta) * self._channels[name])
            * height
            * width
            for name in names(targets)
        )
        field_bytes = (_FIELD_BYTES + 4 * len(targets)) * shape_px[0] * shape_px[1]
        return (tile_bytes + field_bytes) / _MB + _FIXED_MB

    def check_memory(
        self,
        shape_px: tuple[int, int],
        *,
        targets: Sequence[str] | None = None,
        tile_px: int | None = None,
        tta: bool = False,
    ) -> None:
        """Raises for a field of *shape_px*, (Y, X), what `stain` would raise for its size: MemoryLimitError, or ConfigError."""
        self._tiling(shape_px, self._targets(targets), tile_px, tta)

    def rescale(
        self, images: dict[str, NDArray[np.uint16]], magnification: int, way: str
    ) -> dict[str, NDArray[np.uint16]]:
        """Set the intensities of *images*, (Y, X) by target in counts as the networks paint them, at *magnification*.

        *way*: "none" leaves them; "matching" gives each the distribution of the training wells; "calibration" puts all through one
        table, fitted to other wells. Raises ConfigError as `BundleManifest.way` does.
        """
        if self.manifest.way(way) == Intensities.NONE:
            return images
        if way == Intensities.MATCHING:
            return {
                target: match_histogram(image, self._histograms[table_key(magnification, target)])
                for target, image in images.items()
            }
        return {
            target: apply_table(self._calibrations[table_key(magnification, target)], image)
            for target, image in images.items()
        }

    def _targets(self, targets: Sequence[str] | None) -> tuple[str, ...]:
        if targets is None:
            return self.manifest.targets
        if not targets or (
            unknown := [target for target in targets if target not in self.manifest.targets]
        ):
            found = f"no target is {unknown[0]!r}" if targets else "no target is named"
            raise ConfigError(
                f"{found}: the model paints {', '.join(self.manifest.targets)}; name some of these"
            )
        return tuple(target for target in self.manifest.targets if target in targets)

    def _tiling(
        self, shape_px: tuple[int, int], targets: Sequence[str], tile_px: int | None, tta: bool
    ) -> Tiling | None:
        """How a field of *shape_px* goes through the networks. Raises MemoryLimitError where it would take too much memory."""
        halo_px = max(self._halos_px[name] for name in names(targets))
        smallest = smallest_tile_px(halo_px)
        choices = (
            [tile_px]
            if tile_px
            else [
                None,
                *(side for side in (*_TILES_PX, smallest) if smallest <= side < max(shape_px)),
            ]
        )
        for choice in choices:
            tiling = Tiling(choice, halo_px) if choice else None
            needed = self.memory_needed_mb(shape_px, targets=targets, tile_px=choice, tta=tta)
            if needed <= self.memory_mb:
                return tiling
        raise MemoryLimitError(
            f"a field of {shape_px[0]} x {shape_px[1]} pixels takes {needed:.0f} MB of memory"
            + (f" in tiles of {choices[-1]}" if choices[-1] else "")
            + f", {self.memory_mb:.0f} are allowed: "
            + (
                "take smaller tiles (tile_px), "
                if tile_px and tile_px > smallest
                else "send a smaller field, "
            )
            + "or allow more (memory_mb; for a served model the environment variable ADIPOCYTE_MEMORY_MB)"
        )

    def _scaling(self, magnification: int, channel: str) -> Scaling:
        return Scaling(*self.manifest.scalings[str(magnification)][channel])

    def _check(self, planes: NDArray[np.uint16], magnification: int) -> None:
        if magnification not in self.manifest.magnifications:
            seen = ", ".join(f"{known}x" for known in self.manifest.magnifications)
            raise ImageError(
                f"the model has not seen {magnification}x, only {seen}: send one of those, or train on a plate with {magnification}x"
            )
        n_z = self.manifest.n_z_planes
        if planes.ndim != 3 or len(planes) != n_z or planes.dtype != np.uint16:
            raise ImageError(
                f"the stack is {planes.dtype} of shape {planes.shape}: it must be uint16 counts of shape ({n_z}, Y, X)"
            )
        if min(planes.shape[1:]) < SMALLEST_PX:
            raise ImageError(
                f"the stack is {planes.shape[1]} x {planes.shape[2]} pixels: a side must be at least {SMALLEST_PX}"
            )


class _Source:
    """What gives windows of (Z, Y, X) *planes* in network units, padded as the networks need; a field in one piece is made once for all."""

    def __init__(self, planes: NDArray[np.uint16], light: Scaling, tiling: Tiling | None) -> None:
        self._planes, self._light = planes, light
        self._whole = self._make((slice(None), slice(None))) if tiling is None else None

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
        """The planes and room for a mask after them: fresh memory of a field's size costs more than the arithmetic."""
        counts = pad_to_multiple(self._planes[(slice(None), *window)], DIVISOR)
        source = np.empty((len(counts) + 1, *counts.shape[1:]), dtype=np.float32)
        self._light.normalise(counts, out=source[:-1])
        return source
