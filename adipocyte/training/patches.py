"""Random patches of the training wells. Patch i depends on the seed and on i alone, whoever reads it and when."""

import math
import os
from collections.abc import Callable, Iterator

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from adipocyte.domain import BRIGHTFIELD, FieldKey, Window
from adipocyte.errors import ConfigError
from adipocyte.store.reader import Store
from adipocyte.training.augmentations import WINDOW, Augmenter

Masks = Callable[[FieldKey, Window], NDArray[np.bool_]]


class Patches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Endless patches of *store*'s training wells: planes (Z, Y, X), target and mask (1, Y, X), float32, in network units.

    *target* None gives zeros for the target (the segmenter needs none). *masks* tell where nuclei are; of several, one is drawn for
    each patch. Raises ConfigError when a patch is larger than a field.
    """

    def __init__(
        self,
        store: Store,
        target: str | None,
        masks: tuple[Masks, ...],
        augmenter: Augmenter,
        *,
        patch_px: int,
        seed: int,
    ) -> None:
        self._store, self._target, self._masks, self._augmenter = store, target, masks, augmenter
        self._patch_px, self._seed = patch_px, seed
        self._keys = store.keys("train")
        self._valid = {key: store.valid(key) for key in self._keys}
        smallest = min(side.stop - side.start for valid in self._valid.values() for side in valid)
        if patch_px > smallest:
            fits = smallest // 32 * 32
            raise ConfigError(
                f"a patch of {patch_px} pixels does not fit the smallest field's side of {smallest}: -P patch_px={fits}"
            )

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        random = np.random.default_rng([self._seed, i])
        key = self._keys[random.integers(len(self._keys))]
        window, seed = self._window(key, random), int(random.integers(2**31))
        masks = self._masks[random.integers(len(self._masks))]
        stack = self._augmenter(self._read(key, window, masks), seed)
        planes, target, mask = stack[:-2], stack[-2:-1], stack[-1:] > 0.5
        return (
            torch.from_numpy(planes),
            torch.from_numpy(target),
            torch.from_numpy(mask.astype(np.float32)),
        )

    def _window(self, key: FieldKey, random: np.random.Generator) -> Window:
        """A random part of a field, never beyond what brightfield and fluorescence have both seen."""
        window = []
        for side in self._valid[key]:
            n_px = side.stop - side.start
            length = min(n_px, math.ceil(self._patch_px * WINDOW))
            start = side.start + int(random.integers(n_px - length + 1))
            window.append(slice(start, start + length))
        return tuple(window)

    def _read(self, key: FieldKey, window: Window, masks: Masks) -> NDArray[np.float32]:
        """(Z + 2, Y, X): normalised planes, normalised target (or zeros), mask."""
        mask = masks(key, window)[None].astype(np.float32)
        if self._target is None:
            planes, target = self._store.planes(key, window), np.zeros_like(mask)
        else:
            planes, counts = self._store.planes_and_target(key, self._target, window)
            target = self._store.scaling(key.magnification, self._target).normalise(counts)[None]
        return np.concatenate(
            [self._store.scaling(key.magnification, BRIGHTFIELD).normalise(planes), target, mask]
        )


def epoch_steps(store: Store, patch_px: int, batch: int) -> int:
    """How many steps cover the area of the training wells once."""
    area = sum(math.prod(store.shape(key)) for key in store.keys("train"))
    return max(1, math.ceil(area / (patch_px**2 * batch)))


def patch_loader(
    fabric: Fabric, patches: Patches, batch: int, workers: int, steps: range
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The batches of *steps*, in order, on the device of *fabric*, read ahead by *workers* processes (0: in this one).

    Step s has the patches s * batch to (s + 1) * batch; of several training processes each reads its own equal share of them. Raises
    ConfigError when a batch cannot be shared equally.
    """
    if batch % fabric.world_size:
        raise ConfigError(
            f"{fabric.world_size} processes cannot share a batch of {batch} patches: -P batch={fabric.world_size}"
        )
    share = batch // fabric.world_size
    starts = (step * batch + fabric.global_rank * share for step in steps)
    order = [range(start, start + share) for start in starts]
    loader = DataLoader(
        patches,
        batch_sampler=order,
        num_workers=workers,
        worker_init_fn=_stand_apart,
        generator=torch.Generator(),  # else it draws from the one that the step was seeded with
        pin_memory=fabric.device.type == "cuda",
    )
    return iter(fabric.setup_dataloaders(loader, use_distributed_sampler=False))


def _stand_apart(_: int) -> None:
    """Ctrl-C, torchrun and schedulers signal a group of processes: the trainer alone decides what to make of it, and needs its workers."""
    os.setpgid(0, 0)
