"""Alignments: found, given in a file, and applied when a store is read."""

import json

import numpy as np
import pytest
import zarr

from adipocyte.domain import TARGETS
from adipocyte.errors import ConfigError
from adipocyte.imaging.alignment import Alignment
from adipocyte.imaging.registration import Registration
from adipocyte.preparation.alignment import alignment_sentences
from adipocyte.store.paths import field_path, mask_path
from tests.support.stores import prepared


def test_stains_and_masks_are_read_in_the_frame_of_brightfield_and_stored_as_they_were(
    shifted, small_store, tmp_path
):
    store = prepared(shifted, tmp_path / "store", align=str(tmp_path / "alignment.json"))
    seen = np.s_[0:94, 3:80]
    for key in store.manifest.fields:
        assert store.valid(key) == seen
        np.testing.assert_array_equal(store.planes(key), small_store.planes(key))
        raw_mask = zarr.open_array(mask_path(store.folder, key) / "0", mode="r")[:].astype(bool)
        np.testing.assert_array_equal(
            store.mask(key)[seen], np.roll(raw_mask, (-2, 3), axis=(0, 1))[seen]
        )
        for target in TARGETS:
            aligned, truth = store.target(key, target), small_store.target(key, target)
            assert np.abs(aligned[seen].astype(int) - truth[seen]).max() <= 1
            window = np.s_[15:70, 8:77]
            both = store.planes_and_targets(key, [target], window)
            np.testing.assert_array_equal(both[0], store.planes(key, window))
            assert np.abs(both[1].astype(int) - aligned[window]).max() <= 1
            raw = zarr.open_array(field_path(store.folder, key) / "0", mode="r")[
                7 + TARGETS.index(target)
            ]
            np.testing.assert_array_equal(raw, np.roll(truth, (2, -3), axis=(0, 1)))


def test_another_alignment_is_another_store(shifted, tmp_path):
    plain = prepared(shifted, tmp_path / "store", align="none").digest
    aligned = prepared(shifted, tmp_path / "store", align=str(tmp_path / "alignment.json")).digest
    assert aligned != plain
    (tmp_path / "alignment.json").write_text(
        json.dumps({"20": {"1": {"dy_px": 1.0, "dx_px": 1.0, "scale": 1.0}}})
    )
    assert prepared(
        shifted, tmp_path / "store", align=str(tmp_path / "alignment.json")
    ).digest not in (plain, aligned)


def test_sentences_say_how_many_sites_are_aligned_and_why_others_are_not(small_store):
    aligned = Registration(
        Alignment(-4.2, 1.0, 0.999), Alignment(-4.2, 1.0, 0.999), 3, 48, 0.02, 0.7, "aligned"
    )
    refused = small_store.manifest.registrations[20][1]
    assert refused.alignment.is_identity
    assert alignment_sentences({20: {1: aligned, 2: aligned, 3: refused}}) == [
        "20x: stains aligned at 2 of 3 sites, by up to 4.2 pixels",
        f"20x: 1 of 3 sites {refused.verdict}",
    ]
    assert "too little to see" in refused.verdict


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no file of alignments"),
        ("[]", "is no file of alignments"),
        ('{"20": {"1": {"dy_px": 1}}}', "is no file of alignments"),
        ('{"20": {"1": {"dy_px": NaN, "dx_px": 0, "scale": 1}}}', "finite"),
        (
            '{"20": {"2": {"dy_px": 1, "dx_px": 0, "scale": 1}}}',
            "does not say how fluorescence lies at 20x in field of view 1",
        ),
    ],
)
def test_a_file_of_alignments_that_does_not_fit_is_refused(plate, tmp_path, content, message):
    (tmp_path / "alignment.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        prepared(plate, tmp_path / "store", align=str(tmp_path / "alignment.json"))


def test_an_alignment_that_leaves_nothing_of_a_field_is_refused(plate, tmp_path):
    (tmp_path / "alignment.json").write_text(
        json.dumps({"20": {"1": {"dy_px": 500.0, "dx_px": 0.0, "scale": 1.0}}})
    )
    with pytest.raises(
        ConfigError,
        match=r"alignment\.json does not fit field 20x B03 F001, because .* or -P align=estimate",
    ):
        prepared(plate, tmp_path / "store", align=str(tmp_path / "alignment.json"))


def test_a_file_of_alignments_that_is_not_there_is_refused(plate, tmp_path):
    with pytest.raises(
        ConfigError, match=r"guess is no file of alignments .*-P align=estimate or -P align=none"
    ):
        prepared(plate, tmp_path / "store", align="guess")
