"""Reading a prepared store: windows of fields in counts, masks, statistics, the split."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import zarr
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from adipocyte.domain import UM_PER_PX, WHOLE, FieldKey, Window, pixels_joined, table_key
from adipocyte.errors import StoreError
from adipocyte.imaging.alignment import Alignment
from adipocyte.imaging.normalisation import Scaling
from adipocyte.store.manifest import StoreManifest, read_manifest
from adipocyte.store.paths import HISTOGRAMS, field_path, mask_path
from adipocyte.system.files import open_regular, require_regular

_AGAIN = "prepare the plate again"
Selection = tuple[int | slice, ...]
PlanesAndStains = tuple[NDArray[np.uint16], NDArray[np.uint16]]  # (Z, Y, X) and (C, Y, X) counts


class Store:
    """A whole prepared store in *folder*. Raises StoreError when there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: StoreManifest = read_manifest(folder)
        self._arrays: dict[Path, zarr.Array | NDArray[np.uint16]] = {}
        # Planes and stains of fields in joined pixels, by field and how many are joined, which a
        # training keeps in memory (`training.seen`); here, because the next one needs them, too.
        self.joined: dict[tuple[FieldKey, int], PlanesAndStains] = {}

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def objectives(self) -> dict[int, float]:
        """The µm per pixel at each magnification, the middle one of its fields'."""
        told = self.manifest.um_per_px
        return {one: told.get(str(one)) or UM_PER_PX[one] for one in self.magnifications}

    def um_per_px(self, key: FieldKey) -> float:
        """The size of a field's pixels in µm."""
        return self.manifest.fields[key].um_per_px or self.objectives[key.magnification]

    def n_joined(self, magnification: int, finest_um_per_px: float) -> int:
        """How many pixels along a side are one to a network that sees none finer."""
        return pixels_joined(self.objectives[magnification], finest_um_per_px)

    @property
    def magnifications(self) -> tuple[int, ...]:
        return tuple(sorted({key.magnification for key in self.manifest.fields}))

    def keys(self, part: str, targets: Sequence[str] = ()) -> list[FieldKey]:
        """The fields in the wells of a *part* of the split: "train", "validation" or "test".

        They have at least one of *targets*, if some are named. The first two parts are without the
        fields that were left out.
        """
        left_out = self.left_out if part != "test" else ()
        wells = self.manifest.split[part]
        return [
            key
            for key in self.manifest.fields
            if key.well in wells and key not in left_out
            if not targets or any(target in self.targets(key) for target in targets)
        ]

    def targets(self, key: FieldKey) -> tuple[str, ...]:
        """The stains that a field has, in the order of its channels."""
        lacks = self.manifest.fields[key].lacks
        return tuple(target for target in self.manifest.targets if target not in lacks)

    @property
    def left_out(self) -> tuple[FieldKey, ...]:
        """The flagged fields if the store was prepared to leave them out of training, else none."""
        if self.manifest.origin.settings["flagged"] == "keep":
            return ()
        return tuple(key for key, entry in self.manifest.fields.items() if entry.flags)

    def shape(self, key: FieldKey) -> tuple[int, int]:
        """(Y, X) of a field, in pixels."""
        return self.manifest.fields[key].shape

    def alignment(self, key: FieldKey) -> Alignment:
        """How a field's fluorescence lies against its brightfield."""
        return self.manifest.alignments[key.magnification][key.fov]

    def valid(self, key: FieldKey) -> Window:
        """The part of a field that brightfield and fluorescence both show.

        Outside of it there is nothing to train on or to compare with.
        """
        return self.alignment(key).valid(self.shape(key))

    def keep(self, keys: Sequence[FieldKey], most_mb: float) -> None:
        """Read fields into memory, in this order, until they would take more than *most_mb*."""
        left = most_mb * 10**6
        for key in keys:
            left -= 2 * self._n_channels(key) * math.prod(self.shape(key))
            if left < 0:
                return
            self._arrays[field_path(self.folder, key)] = self._counts(key, (slice(None),))

    def planes(self, key: FieldKey, window: Window = WHOLE) -> NDArray[np.uint16]:
        """The brightfield planes of a field in *window*: (Z, Y, X) in counts."""
        return self._counts(key, (slice(self.manifest.n_z_planes), *window))

    def plane(self, key: FieldKey, z: int) -> NDArray[np.uint16]:
        """One brightfield plane of a field, *z* from 0: (Y, X) in counts."""
        return self._counts(key, (z,))

    def target(self, key: FieldKey, target: str, window: Window = WHOLE) -> NDArray[np.uint16]:
        """A stain of a field in *window*, brought into brightfield's frame: (Y, X) in counts.

        Raises StoreError when the field lacks it.
        """
        alignment, shape = self.alignment(key), self.shape(key)
        part = self._counts(key, (self._channel(key, target), *alignment.source(window, shape)))
        return alignment.resample(part, window, shape)

    def stain(self, key: FieldKey, target: str) -> NDArray[np.uint16]:
        """A stain of a field as the microscope took it, in its own frame: (Y, X) in counts.

        Raises StoreError when the field lacks it.
        """
        return self._counts(key, (self._channel(key, target),))

    def planes_and_targets(
        self, key: FieldKey, targets: Sequence[str], window: Window = WHOLE
    ) -> PlanesAndStains:
        """The planes of a field in *window* and its *targets*, (C, Y, X) in counts each.

        Both are read at once if no alignment moves the stains. Raises StoreError when the field
        lacks one.
        """
        if not targets or not self.alignment(key).is_identity:
            planes = self.planes(key, window)
            stains = np.empty((len(targets), *planes.shape[1:]), dtype=np.uint16)
            for i, target in enumerate(targets):
                stains[i] = self.target(key, target, window)
            return planes, stains
        stack = self._counts(key, (slice(None), *window))
        return (
            stack[: self.manifest.n_z_planes],
            stack[[self._channel(key, target) for target in targets]],
        )

    def mask(self, key: FieldKey, window: Window = WHOLE) -> NDArray[np.bool_]:
        """The nuclei mask of a field in *window*, brought into brightfield's frame: (Y, X).

        A field without A1 has none.
        """
        alignment, shape = self.alignment(key), self.shape(key)
        path, source = mask_path(self.folder, key), alignment.source(window, shape)
        part = self._read(path, shape, np.uint8, source)
        return alignment.resample(part.astype(bool), window, shape)

    def scaling(self, magnification: int, channel: str) -> Scaling:
        """Normalisation constants of "brightfield", "A1", "A2" or "A3" over the training wells.

        By those of the stains what is painted becomes counts.
        """
        return Scaling(*self.manifest.scalings[str(magnification)][channel])

    def field_scaling(self, key: FieldKey, channel: str) -> Scaling:
        """Normalisation constants of a field's own channel: what a network is to see and to paint.

        They are those of the magnification, unless the store was prepared with normalisation=field.
        """
        own = self.manifest.fields[key].scalings.get(channel)
        return Scaling(*own) if own else self.scaling(key.magnification, channel)

    def median(self, magnification: int, target: str) -> float:
        """Median of a target over the training wells, in counts."""
        return self.manifest.medians[str(magnification)][target]

    def histogram(self, magnification: int, channel: str) -> NDArray[np.int64]:
        """How many pixels of the training wells have each count, (65536,)."""
        return self._histograms[table_key(magnification, channel)]

    def require_target(self, target: str) -> None:
        """Raise StoreError when the store has no such target."""
        if target not in self.manifest.targets:
            raise StoreError(
                f"the store {self.folder} has no {target}, only {', '.join(self.manifest.targets)}",
                f"prepare a plate with {target} images",
            )

    @cached_property
    def _histograms(self) -> dict[str, NDArray[np.int64]]:
        path = self.folder / HISTOGRAMS
        try:
            open_regular(path).close()  # safetensors would open anything
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{path} cannot be read ({error})", _AGAIN) from error

    def _n_channels(self, key: FieldKey) -> int:
        return self.manifest.n_z_planes + len(self.targets(key))

    def _channel(self, key: FieldKey, target: str) -> int:
        targets = self.targets(key)
        if target not in targets:
            raise StoreError(f"field {key} has no {target}, only {', '.join(targets)}", _AGAIN)
        return self.manifest.n_z_planes + targets.index(target)

    def _counts(self, key: FieldKey, selection: Selection) -> NDArray[np.uint16]:
        """A part of a field's channels (C, Y, X): the planes, then the targets."""
        shape = (self._n_channels(key), *self.shape(key))
        return self._read(field_path(self.folder, key), shape, np.uint16, selection)

    def _read(
        self, path: Path, shape: tuple[int, ...], dtype: type[np.generic], selection: Selection
    ) -> NDArray:
        if path not in self._arrays:
            self._arrays[path] = _open(path / "0", shape, dtype)
        # zarr also declares arrays on a GPU and single numbers.
        return cast(NDArray, self._arrays[path][selection])


def _open(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> zarr.Array:
    """An array that is as the manifest says; its chunks are no larger than itself."""
    try:
        for file in path.rglob("*"):  # zarr would open anything
            if not file.is_dir():
                require_regular(file)
        array = zarr.open_array(path, mode="r")
        found = f"{array.dtype} of shape {array.shape} in chunks of {array.chunks}"
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read ({error!r:.200})", _AGAIN) from error
    fits = all(chunk <= side for chunk, side in zip(array.chunks, shape, strict=False))
    if array.shape != shape or array.dtype != dtype or not fits:
        raise StoreError(f"{path} is {found}, not {dtype.__name__} of {shape}", _AGAIN)
    return array
