"""The tables of one field: CellProfiler's values, and which droplet lies in which cell."""

import numpy as np
import pytest

from adipocyte.domain import UM_PER_PX
from adipocyte.evaluation.cellprofiler import measure
from adipocyte.evaluation.cellprofiler.features import AGGREGATES
from adipocyte.evaluation.cellprofiler.objects import (
    AREA,
    DEFECTIVE,
    DIAMETER,
    IMAGE,
    KINDS,
    LIPID_AREA,
    N_DROPLETS,
    NUMBER,
    PARENT,
    columns_of,
    parents,
    tables_of,
)
from adipocyte.imaging.resizing import resized
from tests.support import drawn, golden
from tests.support.golden import SHIPPED_FIELDS, measured


@pytest.mark.parametrize(("magnification", "kind", "place"), SHIPPED_FIELDS)
def test_the_tables_hold_the_objects_that_cellprofiler_measured(magnification, kind, place):
    tables = tables_of(measured(magnification, kind, place))
    theirs = golden.features(magnification, kind, place)
    for name, of in KINDS.items():
        table = tables[name]
        assert len(table[NUMBER]) == theirs[f"Count_{of}"]
        for column in set(columns_of(name)):
            for aggregate, function in AGGREGATES.items():
                if (mean := f"{aggregate}_{of}_{column}") in theirs:
                    finite = table[column][np.isfinite(table[column])]
                    assert function(finite) == pytest.approx(theirs[mean], rel=1e-5), mean
    defective = tables["LipidDroplets"][DEFECTIVE].sum()
    assert defective == theirs["Count_Defective_lipid_droplets"]


@pytest.mark.parametrize(("magnification", "kind", "place"), SHIPPED_FIELDS)
def test_nothing_of_cells_and_droplets_is_lost(magnification, kind, place):
    tables = tables_of(measured(magnification, kind, place))
    cells, droplets = tables["Cells"], tables["LipidDroplets"]
    inside = droplets[PARENT] > 0
    assert 0 < inside.sum() < len(inside)  # some lie in cells that touch the frame
    assert cells[N_DROPLETS].sum() == inside.sum()
    assert cells[LIPID_AREA].sum() == pytest.approx(droplets[AREA][inside].sum())
    np.testing.assert_array_equal(tables["Nuclei"][PARENT], cells[NUMBER])
    np.testing.assert_array_equal(cells["Children_Nuclei_Count"], 1)


def test_each_drawn_cell_has_its_droplets_where_they_were_drawn():
    tables = tables_of(measure(drawn.drawn_field(drawn.NUCLEI), 20))
    cells, droplets, nuclei = (tables[name] for name in ("Cells", "LipidDroplets", "Nuclei"))
    np.testing.assert_array_equal(cells[N_DROPLETS], [drawn.N_DROPLETS] * len(drawn.INSIDE))
    places = sorted(zip(nuclei["Location_Center_Y"], nuclei["Location_Center_X"], strict=True))
    np.testing.assert_allclose(places, sorted(drawn.INSIDE), atol=0.5)
    for number, (y, x) in enumerate(
        zip(nuclei["Location_Center_Y"], nuclei["Location_Center_X"], strict=True), start=1
    ):
        own = droplets[PARENT] == number
        away_y = droplets["Location_Center_Y"][own] - y
        away_x = droplets["Location_Center_X"][own] - x
        np.testing.assert_allclose(np.hypot(away_y, away_x), 26, atol=1)
    um = UM_PER_PX[20]
    areas_px = droplets["AreaShape_Area"]
    np.testing.assert_allclose(droplets[AREA], areas_px * um**2)
    np.testing.assert_allclose(np.pi / 4 * droplets[DIAMETER] ** 2, droplets[AREA])


def test_the_parent_is_what_covers_most():
    children = np.array([[1, 1, 1, 0, 2, 2], [3, 3, 4, 4, 0, 0]])
    others = np.array([[1, 2, 2, 2, 2, 1], [0, 0, 0, 3, 3, 3]])
    np.testing.assert_array_equal(parents(children, others), [2, 1, 0, 3])


@pytest.mark.parametrize(
    ("given", "empty"),
    [
        (("A2",), {"Nuclei", "Cells"}),
        (("A1", "A2"), {"Cells"}),
        (("A3",), {"Nuclei", "Cells", "LipidDroplets"}),
    ],
)
def test_without_a_stain_there_are_all_columns_and_no_rows_of_what_needs_it(given, empty):
    images = drawn.drawn_field(drawn.NUCLEI)
    tables = tables_of(measure({target: images[target] for target in given}, 20))
    assert set(tables) == {*KINDS, IMAGE}
    for name in KINDS:
        assert tuple(tables[name]) == columns_of(name)
        assert (len(tables[name][NUMBER]) == 0) == (name in empty)
    if "A1" in given:
        assert np.isnan(tables["Nuclei"]["Intensity_MeanIntensity_CellTrackerRed"]).all()
        np.testing.assert_array_equal(tables["Nuclei"][PARENT], 0)


def test_without_nuclei_there_are_droplets_of_no_cell():
    tables = tables_of(measure(golden.read_edge_case("e2_no_nuclei"), 20))
    assert len(tables["Nuclei"][NUMBER]) == len(tables["Cells"][NUMBER]) == 0
    assert len(tables["LipidDroplets"][NUMBER]) > 100
    np.testing.assert_array_equal(tables["LipidDroplets"][PARENT], 0)


def test_a_field_of_another_objective_is_measured_in_the_nearest_pipelines_pixels():
    """The same cells under 10x, whose pixels are twice as large, and in other pixels at 20x."""
    field = drawn.drawn_field(drawn.NUCLEI)
    expected = tables_of(measure(field, 20))
    coarse = {target: resized(image, (192, 192)) for target, image in field.items()}
    for magnification, um_per_px in ((10, None), (20, 2 * UM_PER_PX[20])):
        found = measure(coarse, magnification, um_per_px)
        assert (found.um_per_px, found.zoom) == (UM_PER_PX[20], 2)
        assert found.drawn("nuclei_no_edge").shape == (192, 192)
        tables = tables_of(found)
        for name in ("Nuclei", "LipidDroplets"):
            assert len(tables[name][NUMBER]) == len(expected[name][NUMBER])
            theirs = np.sort(expected[name][DIAMETER])
            np.testing.assert_allclose(np.sort(tables[name][DIAMETER]), theirs, rtol=0.1)
        nuclei = tables["Nuclei"]
        y, x = nuclei["Location_Center_Y"], nuclei["Location_Center_X"]
        drawn_at = (np.array(sorted(drawn.INSIDE)) + 0.5) / 2 - 0.5  # from the first pixel's middle
        order = np.lexsort((x, np.round(y)))
        np.testing.assert_allclose(np.stack([y, x], axis=1)[order], drawn_at, atol=0.1)


def test_sizes_in_um_are_of_the_pixels_that_are_told():
    field = drawn.drawn_field(drawn.NUCLEI)
    usual, told = (tables_of(measure(field, 20, um)) for um in (None, 0.3))
    ratio = told["Nuclei"][DIAMETER] / usual["Nuclei"][DIAMETER]
    np.testing.assert_allclose(ratio, 0.3 / UM_PER_PX[20])
