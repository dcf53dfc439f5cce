"""A network that sees joined pixels: its patches, its steps, and what is validated."""

import numpy as np
import pytest
import torch
from torch import nn

from adipocyte.config import GeneratorConfig, build
from adipocyte.domain import BRIGHTFIELD, FieldKey
from adipocyte.errors import ConfigError
from adipocyte.imaging.resizing import joined, resized
from adipocyte.store.reader import Store
from adipocyte.training.augmentations import Augmenter
from adipocyte.training.generator import check_request
from adipocyte.training.patches import Patches, epoch_steps
from adipocyte.training.seen import SeenFields
from adipocyte.training.validation import source_of, validate_generator

FINEST = 0.325  # 20x as it is, of 40x two by two pixels
FINE, COARSE = FieldKey(40, "C02", 1), FieldKey(20, "C02", 1)
PLAIN = Augmenter(32, 0, 0)


@pytest.fixture
def store(small_store: Store) -> Store:
    """Opened anew: what is kept in memory stays with it."""
    return Store(small_store.folder)


@pytest.mark.parametrize("kept_mb", [0.0, 100.0])
def test_pixels_are_joined_where_they_are_finer(store, kept_mb):
    fields = SeenFields(store, [FINE, COARSE], FINEST)
    fields.keep(kept_mb)
    assert fields.valid[FINE] == (slice(0, 48), slice(0, 40))
    assert fields.valid[COARSE] == store.valid(COARSE)
    window, own = (slice(3, 20), slice(5, 11)), (slice(6, 40), slice(10, 22))
    planes, stains = fields.planes_and_targets(FINE, ["A3", "A1"], window)
    np.testing.assert_array_equal(planes, joined(store.planes(FINE, own), 2))
    for stain, target in zip(stains, ("A3", "A1"), strict=True):
        np.testing.assert_array_equal(stain, joined(store.target(FINE, target, own)[None], 2)[0])
    as_they_are, _ = fields.planes_and_targets(COARSE, ["A2"], window)
    np.testing.assert_array_equal(as_they_are, store.planes(COARSE, window))


def test_fields_that_are_kept_are_read_no_more(store, monkeypatch):
    fields = SeenFields(store, [FINE], FINEST)
    fields.keep(100.0)
    monkeypatch.setattr(store, "planes_and_targets", None)
    again = SeenFields(store, [FINE], FINEST)  # as after the short training that measures the pace
    again.keep(100.0)
    again.planes_and_targets(FINE, ["A2"], again.valid[FINE])


def test_patches_hold_joined_pixels_and_must_fit_into_them(store):
    make = {"targets": ("A2",), "masks": (), "augmenter": PLAIN, "seed": 0}
    light = store.field_scaling(FINE, BRIGHTFIELD)
    whole = light.normalise(joined(store.planes(FINE), 2))
    windows = np.lib.stride_tricks.sliding_window_view(whole, (7, 32, 32))[0]
    patches = Patches(store, **make, patch_px=32, finest_um_per_px=FINEST)
    n_found = sum((windows == patches[i][0].numpy()).all((2, 3, 4)).any() for i in range(40))
    assert n_found >= 5
    with pytest.raises(ConfigError, match=r"a patch of 64 pixels does not fit .* of 40: "):
        Patches(store, **make, patch_px=64, finest_um_per_px=FINEST)
    for finest in (2 * FINEST, 20.0):
        with pytest.raises(ConfigError, match=r"side of \d+: -P finest_um_per_px=0"):
            Patches(store, **make, patch_px=32, finest_um_per_px=finest)


def test_steps_cover_the_area_that_is_seen(store):
    areas = {key.magnification: np.prod(store.shape(key)) for key in (FINE, COARSE)}
    n_wells = 2
    seen = n_wells * (areas[20] + areas[40] / 4)
    assert epoch_steps(store, 32, 1, FINEST) == -(-seen // 32**2)
    assert epoch_steps(store, 32, 1) == -(-n_wells * sum(areas.values()) // 32**2)


class FirstPlanes(nn.Module):
    """Paints the first plane as each of *n* stains."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(n, 1, 1))

    def forward(self, source):
        return source[:, : len(self.scale)] * self.scale


def test_validation_compares_in_the_microscopes_pixels(store):
    metrics, _ = validate_generator(FirstPlanes(1).eval(), store, ("A2",), None, None, FINEST)
    for key in store.keys("validation"):
        n = {20: 1, 40: 2}[key.magnification]
        seen = store.field_scaling(key, BRIGHTFIELD).normalise(joined(store.planes(key), n))
        assert source_of(store, key, None, FINEST).shape == seen.shape
        scaling = store.scaling(key.magnification, "A2")
        painted = scaling.denormalise(resized(seen[0], store.shape(key)))
        error = np.abs(painted.astype(np.int32) - store.target(key, "A2")).mean()
        assert metrics[f"val_mae_A2_{key.magnification}x"] == pytest.approx(error)


def test_a_network_that_sees_masks_sees_the_microscopes_pixels(store, tmp_path):
    settings = {"target": "A1", "finest_um_per_px": FINEST, "mask_source": "predicted"}
    with pytest.raises(ConfigError, match="-P finest_um_per_px=0, or -P mask_source=none"):
        check_request(store, build(GeneratorConfig, settings), tmp_path, None)
