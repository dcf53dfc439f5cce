"""Training fields in the pixels that a network sees, which may be coarser than the microscope's."""

import math
from collections.abc import Sequence

from tqdm import tqdm

from adipocyte.domain import FieldKey, Window
from adipocyte.imaging.resizing import joined
from adipocyte.store.reader import PlanesAndStains, Store


class SeenFields:
    """The fields *keys* of a *store* in pixels that are none finer than *finest_um_per_px*.

    At each magnification so many are joined as `domain.pixels_joined` says, from the upper left
    corner of a field on. `valid` are the joined pixels that brightfield and stains both show.
    """

    def __init__(self, store: Store, keys: Sequence[FieldKey], finest_um_per_px: float) -> None:
        self._store = store
        self._n = {
            magnification: store.n_joined(magnification, finest_um_per_px)
            for magnification in store.magnifications
        }
        self.valid = {key: self._joined_window(key, store.valid(key)) for key in keys}

    def keep(self, most_mb: float) -> None:
        """Read fields into memory until they would take more than *most_mb*, joined ones first."""
        left_mb = self._keep([key for key in self.valid if self._n[key.magnification] > 1], most_mb)
        self._store.keep([key for key in self.valid if self._n[key.magnification] == 1], left_mb)

    def planes_and_targets(
        self, key: FieldKey, targets: Sequence[str], window: Window
    ) -> PlanesAndStains:
        """The planes of a field in a *window* of joined pixels, and its *targets*, in counts."""
        n = self._n[key.magnification]
        if (key, n) in self._store.joined:
            planes, stains = self._store.joined[key, n]
            chosen = [self._store.targets(key).index(target) for target in targets]
            return planes[(slice(None), *window)], stains[(chosen, *window)]
        rows, columns = (slice(n * side.start, n * side.stop) for side in window)
        planes, stains = self._store.planes_and_targets(key, targets, (rows, columns))
        return joined(planes, n), joined(stains, n)

    def _keep(self, keys: Sequence[FieldKey], most_mb: float) -> float:
        """Read *keys* into memory until they would take more than *most_mb*; what is left of it."""
        left_mb = most_mb
        for key in tqdm(keys, desc="join pixels", unit="field", disable=not keys):
            targets, n = self._store.targets(key), self._n[key.magnification]
            height, width = (side // n for side in self._store.shape(key))
            n_channels = self._store.manifest.n_z_planes + len(targets)
            needed_mb = 2 * n_channels * height * width / 10**6
            if needed_mb > left_mb:
                break
            if (key, n) not in self._store.joined:
                window = slice(0, height), slice(0, width)
                self._store.joined[key, n] = self.planes_and_targets(key, targets, window)
            left_mb -= needed_mb
        return left_mb

    def _joined_window(self, key: FieldKey, window: Window) -> Window:
        """The joined pixels that lie within a *window* of a field's own."""
        n = self._n[key.magnification]
        rows, columns = (slice(math.ceil(side.start / n), side.stop // n) for side in window)
        return rows, columns


def seen_um_per_px(store: Store, finest_um_per_px: float) -> dict[int, float]:
    """The size in µm, by magnification, of the pixels that a network sees of a *store*."""
    return {
        magnification: um_per_px * store.n_joined(magnification, finest_um_per_px)
        for magnification, um_per_px in store.objectives.items()
    }
