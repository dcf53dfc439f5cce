"""What an answer says of its images: CellProfiler's features, and the objects in brief."""

import json

import numpy as np
import pytest

from adipocyte.delivery.serving.measuring import check, measured
from adipocyte.delivery.serving.painter import _MEASURED_BYTES
from adipocyte.errors import MemoryLimitError
from adipocyte.evaluation.cellprofiler import measure
from adipocyte.evaluation.cellprofiler.objects import DIAMETER, LIPID_AREA, N_DROPLETS, tables_of
from adipocyte.plate.tiff import encode_image
from tests.support import drawn


def test_the_objects_are_those_of_the_tables():
    images = drawn.drawn_field(drawn.NUCLEI)
    answer = measured({target: encode_image(image) for target, image in images.items()}, 20, 0.325)
    assert len(json.dumps(answer)) < _MEASURED_BYTES
    tables = tables_of(measure(images, 20))
    objects = json.loads(answer["objects"])
    n_cells, n_droplets = len(drawn.INSIDE), len(tables["LipidDroplets"][DIAMETER])
    assert objects["counts"] == {"Nuclei": n_cells, "Cells": n_cells, "LipidDroplets": n_droplets}
    assert objects["droplets_per_cell"] == [drawn.N_DROPLETS] * n_cells
    assert objects["droplets_per_cell"] == tables["Cells"][N_DROPLETS].tolist()
    assert objects["lipid_um2_per_cell"] == tables["Cells"][LIPID_AREA].tolist()
    assert objects["edges_um"] == [0, 1, 2, 4, 8, 16, 32, None]
    # Disks of radius 4 pixels of .325 um.
    np.testing.assert_array_equal(objects["droplets_by_diameter"], [0, 0, n_droplets, 0, 0, 0, 0])


def test_a_field_that_takes_more_memory_to_measure_than_is_allowed_is_refused():
    check((2000, 1000), 20, 0.325, 400)
    check((1000, 500), 10, 0.65, 400)  # measured in pixels half as large
    with pytest.raises(MemoryLimitError, match=r"2000 x 1000 pixels takes 400 MB of memory, 399 "):
        check((2000, 1000), 20, 0.325, 399)
