"""Reading a prepared store: windows of fields in counts, masks, statistics, the split."""

from functools import cached_property
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from safetensors.numpy import load_file

from adipocyte.errors import StoreError
from adipocyte.imaging.normalisation import Scaling
from adipocyte.plate.reader import FieldKey
from adipocyte.store.manifest import Manifest, read_manifest
from adipocyte.store.paths import HISTOGRAMS, field_path, mask_path

Window = tuple[slice, slice]
WHOLE: Window = (slice(None), slice(None))
BRIGHTFIELD = "brightfield"


class Store:
    """A whole prepared store in *folder*. Raises StoreError when there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        self._channels = [f"Z{z}" for z in range(1, self.manifest.n_z_planes + 1)] + list(self.manifest.targets)
        self._arrays: dict[Path, zarr.Array] = {}

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def magnifications(self) -> tuple[int, ...]:
        return tuple(sorted({key.magnification for key in self.manifest.fields}))

    def keys(self, part: str) -> list[FieldKey]:
        """The fields in the wells of a *part* of the split: "train", "validation" or "test"."""
        return [key for key in self.manifest.fields if key.well in self.manifest.split[part]]

    def shape(self, key: FieldKey) -> tuple[int, int]:
        """(Y, X) of a field, in pixels."""
        return self.manifest.fields[key]

    def planes(self, key: FieldKey, window: Window = WHOLE) -> NDArray[np.uint16]:
        """The brightfield planes of a field in *window*: (Z, Y, X) in counts."""
        return self._array(field_path(self.folder, key))[(slice(self.manifest.n_z_planes), *window)]

    def target(self, key: FieldKey, target: str, window: Window = WHOLE) -> NDArray[np.uint16]:
        """A stain of a field in *window*: (Y, X) in counts."""
        return self._array(field_path(self.folder, key))[(self._channels.index(target), *window)]

    def planes_and_target(self, key: FieldKey, target: str, window: Window = WHOLE) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """`planes` and `target` in one reading."""
        stack = self._array(field_path(self.folder, key))[(slice(None), *window)]
        return stack[: self.manifest.n_z_planes], stack[self._channels.index(target)]

    def mask(self, key: FieldKey, window: Window = WHOLE) -> NDArray[np.bool_]:
        """The nuclei mask of a field in *window*: (Y, X)."""
        return self._array(mask_path(self.folder, key))[window].astype(bool)

    def scaling(self, magnification: int, channel: str) -> Scaling:
        """Normalisation constants of "brightfield", "A1", "A2" or "A3"."""
        return Scaling(*self.manifest.scalings[str(magnification)][channel])

    def median(self, magnification: int, target: str) -> float:
        """Median of a target over the training wells, in counts."""
        return self.manifest.medians[str(magnification)][target]

    def histogram(self, magnification: int, channel: str) -> NDArray[np.int64]:
        """How many pixels of the training wells have each count, (65536,)."""
        return self._histograms[f"{magnification}/{channel}"]

    def require_target(self, target: str) -> None:
        """Raise StoreError when the store has no such target."""
        if target not in self.manifest.targets:
            found = ", ".join(self.manifest.targets)
            raise StoreError(f"the store {self.folder} has no {target}, only {found}: prepare a plate with {target} images")

    @cached_property
    def _histograms(self) -> dict[str, NDArray[np.int64]]:
        return load_file(self.folder / HISTOGRAMS)

    def _array(self, path: Path) -> zarr.Array:
        if path not in self._arrays:
            self._arrays[path] = zarr.open_array(path / "0", mode="r")
        return self._arrays[path]
