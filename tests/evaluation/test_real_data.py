"""What real microscopy and the real CellProfiler say. Skipped where the shared data are not there (see ADIPOCYTE_SHARED)."""

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from adipocyte.config import PreprocessConfig
from adipocyte.domain import FieldKey
from adipocyte.imaging.masks import nuclei_mask
from adipocyte.plate.scan import scan_plate
from adipocyte.preparation.prepare import prepare
from tests.support import SHARED as SHARED_FOLDER

SHARED = SHARED_FOLDER / "data"
SHIPPED = PreprocessConfig(plate="")
needs_plate = pytest.mark.skipif(
    not (SHARED / "isl_plate").is_dir(), reason=f"no {SHARED / 'isl_plate'}"
)
needs_golden = pytest.mark.skipif(
    not (SHARED / "cellprofiler_golden").is_dir(), reason=f"no {SHARED / 'cellprofiler_golden'}"
)


@needs_plate
def test_a_real_plate_is_prepared_with_its_pixels_unchanged(tmp_path):
    plate = SHARED / "isl_plate"
    store = prepare(
        PreprocessConfig(
            plate=plate,
            store=tmp_path / "store",
            validation_wells="B03",
            test_wells="D03",
        )
    )
    assert list(store.manifest.fields) == [
        FieldKey(20, well, 1) for well in ("B03", "C03", "D03", "D04")
    ]
    for files in scan_plate(plate).fields:
        assert store.shape(files.key) == (512, 320)
        np.testing.assert_array_equal(
            store.target(files.key, "A2"), tifffile.imread(files.targets["A2"])
        )
        np.testing.assert_array_equal(store.planes(files.key)[6], tifffile.imread(files.planes[6]))
        assert 0.005 < store.mask(files.key).mean() < 0.1


@needs_golden
@pytest.mark.parametrize("magnification", [20, 40, 60])
def test_masks_agree_with_the_nuclei_that_cellprofiler_found(magnification):
    """Two methods, one truth: CellProfiler thresholds locally, so edges differ by a pixel or two, whole nuclei do not (IoU .90 to .94)."""
    golden = SHARED / "cellprofiler_golden"
    [path] = (golden / "images" / f"{magnification}x" / "target").glob("*B03*C01.tif")
    found = tifffile.imread(golden / "labels" / f"{magnification}x" / "nuclei.tif")
    zoom = magnification / 20
    mask = nuclei_mask(
        tifffile.imread(path),
        threshold=SHIPPED.mask_threshold,
        superpixel_px=SHIPPED.mask_superpixel_px * zoom,
        smallest_px=round(SHIPPED.mask_smallest_px * zoom**2),
    )
    assert (mask & (found > 0)).sum() / (mask | (found > 0)).sum() > 0.9
    covered = ndimage.mean(mask, found, np.unique(found)[1:])
    assert covered.min() > 0.5
