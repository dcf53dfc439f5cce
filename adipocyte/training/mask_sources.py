"""The masks that the nuclei generator is trained with.

They come from the true stain, as published, or from the segmenter, as in use.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from adipocyte.domain import FieldKey, Window
from adipocyte.networks.files import load_network
from adipocyte.networks.tiles import segment_field
from adipocyte.store.reader import Store
from adipocyte.training.patches import Masks
from adipocyte.training.validation import source_of


def training_masks(
    store: Store, source: str, segmenter: Path | None, device: torch.device
) -> tuple[Masks, ...]:
    """The masks of a *source*: "true", "predicted" by the network in *segmenter*, or "mixed", both.

    There are none without a segmenter. Raises BundleError when that network is damaged.
    """
    if segmenter is None:
        return ()
    if source == "true":
        return (store.mask,)
    predicted = PredictedMasks(segmenter, store, "train", device)
    return (store.mask, predicted) if source == "mixed" else (predicted,)


class PredictedMasks:
    """The masks that a segmenter predicts for the fields of a *part* of the split.

    *segmenter* is the folder of the network. Masks are held in memory at a bit a pixel. A call
    gives the mask of a field in a window, (Y, X), as `Store.mask` does. Raises BundleError when the
    network is damaged.
    """

    def __init__(self, segmenter: Path, store: Store, part: str, device: torch.device) -> None:
        network = load_network(segmenter, device)[1]
        self._widths = {key: store.shape(key)[1] for key in store.keys(part)}
        self._packed: dict[FieldKey, NDArray[np.uint8]] = {}
        for key in tqdm(store.keys(part), desc=f"nuclei masks, {part}", unit="field"):
            mask = segment_field(network, source_of(store, key, None))
            self._packed[key] = np.packbits(mask, axis=1)

    def __call__(self, key: FieldKey, window: Window) -> NDArray[np.bool_]:
        mask = np.unpackbits(self._packed[key], axis=1, count=self._widths[key])
        return mask[window].astype(bool)
