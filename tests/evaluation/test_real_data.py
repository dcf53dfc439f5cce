"""What real microscopy and the real CellProfiler say."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from adipocyte.config import PreprocessConfig
from adipocyte.domain import MAGNIFICATIONS, UM_PER_PX, FieldKey
from adipocyte.plate.scan import scan_plate
from adipocyte.preparation.field import mask_of
from adipocyte.preparation.prepare import masking_of, prepare
from tests.support import SHARED, golden

REAL_PLATE = SHARED / "data" / "isl_plate"
DEFAULTS = PreprocessConfig(plate=Path())


@pytest.mark.skipif(not REAL_PLATE.is_dir(), reason=f"no {REAL_PLATE}")
def test_a_real_plate_is_prepared_with_its_pixels_unchanged(tmp_path):
    store = prepare(
        PreprocessConfig(
            plate=REAL_PLATE,
            store=tmp_path / "store",
            validation_wells="B03",
            test_wells="D03",
        )
    )
    assert list(store.manifest.fields) == [
        FieldKey(20, well, 1) for well in ("B03", "C03", "D03", "D04")
    ]
    for files in scan_plate(REAL_PLATE).fields:
        assert store.shape(files.key) == (512, 320)
        np.testing.assert_array_equal(
            store.target(files.key, "A2"), tifffile.imread(files.targets["A2"])
        )
        np.testing.assert_array_equal(store.planes(files.key)[6], tifffile.imread(files.planes[6]))
        assert 0.005 < store.mask(files.key).mean() < 0.1


def assert_mask_covers_the_nuclei(folder: Path, magnification: int) -> None:
    """CellProfiler thresholds locally, so the edges differ by a pixel or two (IoU .90 to .94)."""
    nuclei = golden.read_images(folder, magnification, "target", golden.PLACES[0])["A1"]
    found = golden.read_labels(folder, magnification)["nuclei"]
    mask = mask_of(nuclei, magnification, UM_PER_PX[magnification], masking_of(DEFAULTS))
    assert (mask & (found > 0)).sum() / (mask | (found > 0)).sum() > 0.9
    covered = ndimage.mean(mask, found, np.unique(found)[1:])
    assert covered.min() > 0.5


@pytest.mark.parametrize("magnification", golden.SHIPPED_LABELS)
def test_masks_agree_with_the_nuclei_that_cellprofiler_found(magnification):
    assert_mask_covers_the_nuclei(golden.SHIPPED, magnification)


@golden.needs_larger
def test_masks_agree_with_cellprofilers_nuclei_at_40x():
    assert_mask_covers_the_nuclei(golden.LARGER, 40)


ONLY_LARGER_FIELDS = [field for field in golden.FIELDS if field not in golden.SHIPPED_FIELDS]
ONLY_LARGER_LABELS = [one for one in MAGNIFICATIONS if one not in golden.SHIPPED_LABELS]


@pytest.mark.slow
@golden.needs_larger
@pytest.mark.parametrize(("magnification", "kind", "place"), ONLY_LARGER_FIELDS)
def test_all_99_features_are_cellprofilers_in_the_larger_set(magnification, kind, place):
    found = golden.measured(magnification, kind, place).features
    golden.assert_same_features(found, golden.features(magnification, kind, place))


@pytest.mark.slow
@golden.needs_larger
@pytest.mark.parametrize("magnification", ONLY_LARGER_LABELS)
def test_the_labels_of_every_step_are_cellprofilers_in_the_larger_set(magnification):
    golden.assert_same_labels(golden.LARGER, magnification)


@pytest.mark.slow
@golden.needs_larger
@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
def test_the_challenges_score_is_the_organisers_in_the_larger_set(magnification):
    golden.assert_score_is_the_organisers(
        magnification, lambda *field: golden.measured(*field).features
    )
