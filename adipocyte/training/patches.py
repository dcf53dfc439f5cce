"""Random patches of the training wells.

Patch i depends on the seed and on i alone, not on the process that reads it or on the order.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from adipocyte.domain import BRIGHTFIELD, FieldKey, Window
from adipocyte.errors import AdipocyteError, ConfigError
from adipocyte.networks.unet import DIVISOR
from adipocyte.store.reader import Store
from adipocyte.system.machine import free_bytes
from adipocyte.training.augmentations import WINDOW, Augmenter
from adipocyte.training.microscope import Change, as_other_microscope
from adipocyte.training.seen import SeenFields

# The share of free memory that fields may take, which are then read once, not for each patch.
_KEPT_SHARE = 0.2

Masks = Callable[[FieldKey, Window], NDArray[np.bool_]]
Batch = tuple[Tensor, Tensor, Tensor]  # planes, targets, mask


class Patches(Dataset[Batch]):
    """Endless patches of *store*'s training wells, in network units.

    Each is planes (Z, Y, X), *targets* (T, Y, X) and mask (1, Y, X), float32; the segmenter needs
    no target. A target that the field lacks is nan; each field has at least one. *masks* give the
    nuclei: of several, one is drawn for each patch; without any the mask is empty. Masks come from
    fields that have A1. With *changes* the planes are such as other microscopes take. Pixels are
    joined where they are finer than *finest_um_per_px*, which takes no masks. Raises ConfigError
    when a patch is larger than a field.
    """

    def __init__(
        self,
        store: Store,
        targets: tuple[str, ...],
        masks: tuple[Masks, ...],
        augmenter: Augmenter,
        *,
        patch_px: int,
        seed: int,
        changes: Sequence[Change] = (),
        finest_um_per_px: float = 0.0,
    ) -> None:
        self._store, self._targets, self._masks = store, targets, masks
        self._changes = changes
        self._augmenter = augmenter
        self._patch_px, self._seed = patch_px, seed
        self._keys = store.keys("train", targets)
        if masks:
            self._keys = [key for key in self._keys if "A1" in store.targets(key)]
        self._fields = SeenFields(store, self._keys, finest_um_per_px)
        sides = (side for valid in self._fields.valid.values() for side in valid)
        smallest = min(side.stop - side.start for side in sides)
        if patch_px > smallest:
            fitting = smallest // DIVISOR * DIVISOR
            raise ConfigError(
                f"a patch of {patch_px} pixels does not fit "
                f"the smallest field's side of {smallest}",
                f"-P patch_px={fitting}" if fitting else "-P finest_um_per_px=0",
            )
        # Before processes that read patches are forked.
        self._fields.keep(_KEPT_SHARE * free_bytes(torch.device("cpu")) / 10**6)

    def __getitem__(self, index: int) -> Batch:
        random = np.random.default_rng([self._seed, index])
        key = self._keys[random.integers(len(self._keys))]
        window, seed = self._window(key, random), int(random.integers(2**31))
        masks = self._masks[random.integers(len(self._masks))] if self._masks else _no_mask
        stack = self._augmenter(self._read(key, window, masks), seed)
        n_z = self._store.manifest.n_z_planes
        planes, targets, mask = stack[:n_z], stack[n_z:-1], stack[-1:] > 0.5
        if self._changes:
            light = self._store.field_scaling(key, BRIGHTFIELD)
            ground = light.mean / light.std
            planes = as_other_microscope(planes, ground, random, self._changes)
        targets[[target not in self._store.targets(key) for target in self._targets]] = np.nan
        return (
            torch.from_numpy(planes),
            torch.from_numpy(targets),
            torch.from_numpy(mask.astype(np.float32)),
        )

    def _window(self, key: FieldKey, random: np.random.Generator) -> Window:
        """A random part of a field, within what brightfield and fluorescence have both seen."""
        rows, columns = (self._span(side, random) for side in self._fields.valid[key])
        return rows, columns

    def _span(self, side: slice, random: np.random.Generator) -> slice:
        n_px = side.stop - side.start
        length = min(n_px, math.ceil(self._patch_px * WINDOW))
        start = side.start + int(random.integers(n_px - length + 1))
        return slice(start, start + length)

    def _read(self, key: FieldKey, window: Window, masks: Masks) -> NDArray[np.float32]:
        """(Z + T + 1, Y, X): normalised planes, normalised targets, mask; 0 for missing targets."""
        has = [target for target in self._targets if target in self._store.targets(key)]
        planes, counts = self._fields.planes_and_targets(key, has, window)
        stains = np.zeros((len(self._targets), *planes.shape[1:]), dtype=np.float32)
        for target, image in zip(has, counts, strict=True):
            scaling = self._store.field_scaling(key, target)
            stains[self._targets.index(target)] = scaling.normalise(image)
        brightfield = self._store.field_scaling(key, BRIGHTFIELD)
        mask = masks(key, window)[None].astype(np.float32)
        return np.concatenate([brightfield.normalise(planes), stains, mask])


def _no_mask(_: FieldKey, window: Window) -> NDArray[np.bool_]:
    rows, columns = window
    return np.zeros((rows.stop - rows.start, columns.stop - columns.start), dtype=bool)


def epoch_steps(store: Store, patch_px: int, batch: int, finest_um_per_px: float = 0.0) -> int:
    """How many steps cover the area of the training wells once, in the pixels that are seen."""
    area = 0.0
    for key in store.keys("train"):
        n = store.n_joined(key.magnification, finest_um_per_px)
        area += math.prod(store.shape(key)) / n**2
    return max(1, math.ceil(area / (patch_px**2 * batch)))


def patch_loader(
    fabric: Fabric, patches: Patches, batch: int, workers: int, steps: range
) -> Iterator[Batch]:
    """The batches of *steps*, in order, on the device of *fabric*.

    *workers* processes read them ahead; 0: this process reads them. Step s has the patches
    s * batch to (s + 1) * batch; each of several training processes reads an equal share of them.
    Raises ConfigError when a batch cannot be shared equally, and what reading a patch raises.
    """
    if batch % fabric.world_size:
        raise ConfigError(
            f"{fabric.world_size} processes cannot share a batch of {batch} patches",
            f"-P batch={fabric.world_size}",
        )
    share = batch // fabric.world_size
    starts = (step * batch + fabric.global_rank * share for step in steps)
    order = [range(start, start + share) for start in starts]
    loader = DataLoader(
        _Told(patches),
        collate_fn=_collated,
        batch_sampler=cast(list[list[int]], order),  # a range of indices takes less memory
        num_workers=workers,
        worker_init_fn=_leave_process_group,
        generator=torch.Generator(),  # otherwise it draws from the step's random numbers
        pin_memory=fabric.device.type == "cuda",
    )
    placed = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
    # One loader in, one loader out. Its processes begin to read here, not at the first batch.
    return _read(iter(cast(DataLoader[Batch | Exception], placed)))


class _Told(Dataset[Batch | Exception]):
    """*patches* as a process reads them: an error of ours or of the disk takes a patch's place.

    PyTorch would hand an error on as text, with its traceback and without its fields.
    """

    def __init__(self, patches: Patches) -> None:
        self._patches = patches

    def __getitem__(self, index: int) -> Batch | Exception:
        try:
            return self._patches[index]
        except (AdipocyteError, OSError, MemoryError) as error:
            return error


def _collated(read: list[Batch | Exception]) -> Batch | Exception:
    errors = [patch for patch in read if isinstance(patch, Exception)]
    return errors[0] if errors else default_collate(read)


def _read(batches: Iterator[Batch | Exception]) -> Iterator[Batch]:
    for batch in batches:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def _leave_process_group(_: int) -> None:
    """Keep a worker from the signals that Ctrl-C, torchrun and schedulers send to the group.

    The trainer alone decides when to stop, and needs its workers until then.
    """
    os.setpgid(0, 0)
