"""A folder of stains to tables: continued, mended, and never stopped by one bad field."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from adipocyte.domain import FieldKey
from adipocyte.errors import ConfigError, PlateError
from adipocyte.evaluation.cellprofiler.objects import IMAGE, KINDS
from adipocyte.evaluation.cellprofiler.wells import EDGES_UM
from adipocyte.evaluation.grades import Earned, Grade, Worth, to_json
from adipocyte.evaluation.reality import PROBABILITY, Reality
from adipocyte.evaluation.trees import Trees
from adipocyte.measuring import plate
from adipocyte.measuring.plate import (
    CONTROLS,
    DOSES,
    GRADES,
    WELLS,
    MeasuredPlate,
    here,
    measure_plate,
)
from adipocyte.plate.fields import RawField, write_field
from adipocyte.staining.stainer import Stained
from tests.support import drawn
from tests.support.layouts import write_stained
from tests.support.stores import contents

FIELDS = [("B03", 1), ("B03", 2), ("C04", 1)]
N_CELLS = len(drawn.INSIDE)


@pytest.fixture(scope="module")
def drawn_fields() -> dict[FieldKey, dict[str, np.ndarray]]:
    """Two wells, of two fields and of one; the last has one cell more."""
    more = {"C04": {(330, 210): drawn.HEALTHY}}
    return {
        FieldKey(20, well, fov): drawn.drawn_field(drawn.NUCLEI | more.get(well, {}), 400)
        for well, fov in FIELDS
    }


@pytest.fixture(scope="module")
def drawn_plate(drawn_fields, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "stained"
    for key, images in drawn_fields.items():
        write_field(folder, key, RawField(np.empty((0, 0, 0), np.uint16), images))
    return folder


@pytest.fixture
def stained(drawn_plate: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn_plate, tmp_path / "stained"))


@pytest.fixture(scope="module")
def whole(drawn_plate: Path, tmp_path_factory: pytest.TempPathFactory) -> MeasuredPlate:
    """The drawn plate, measured by two processes."""
    return measured(drawn_plate, tmp_path_factory.mktemp("whole"), crew=here(2))


def measured(images: Path, out: Path, **given) -> MeasuredPlate:
    settings = {"magnification": 0, "labels": False, "csv": False, "plate_map": None}
    return measure_plate(images, out, **settings | {"crew": here(0)} | given)


def frames(found: MeasuredPlate) -> dict[str, pd.DataFrame]:
    return {name: pd.read_parquet(path) for name, path in found.tables.items()}


def image_of(folder: Path, well: str, fov: int, target: str) -> Path:
    [path] = (folder / "20x_images").glob(f"*_{well}_*F{fov:03d}*A0{target[1]}Z*.tif")
    return path


def test_every_object_field_and_well_has_a_row(whole):
    tables = frames(whole)
    assert set(tables) == {IMAGE, *KINDS, WELLS}
    assert whole.n_new == len(tables[IMAGE]) == len(FIELDS)
    places = tables[IMAGE][["Metadata_Well", "Metadata_Site"]].itertuples(index=False)
    assert [tuple(place) for place in places] == FIELDS
    per_field = [N_CELLS, N_CELLS, N_CELLS + 1]
    for name in ("Nuclei", "Cells"):
        numbers = tables[name].groupby("ImageNumber").size()
        assert numbers.to_dict() == dict(enumerate(per_field, start=1))
    wells = tables[WELLS]
    assert list(wells["Metadata_Well"]) == ["B03", "C04"]
    assert list(wells["Metadata_Site_Count"]) == [2, 1]
    assert list(wells["Image_Count_Cells"]) == [2 * N_CELLS, N_CELLS + 1]
    np.testing.assert_allclose(
        wells["Cells_Mean_Children_LipidDroplets_Count"], drawn.N_DROPLETS, rtol=0.01
    )


def test_ome_zarr_is_measured_as_tiffs_are(drawn_fields, tmp_path, whole):
    """Bounds of intervals beside the stains count for nothing; a lost array stops nothing."""
    painted = {
        key: Stained(images, (), {target: (image, image) for target, image in images.items()})
        for key, images in drawn_fields.items()
    }
    stained, out = write_stained(tmp_path / "stained", painted), tmp_path / "out"
    found = frames(measured(stained, out))
    for name, expected in frames(whole).items():
        told = [column for column in expected if column.startswith("FileName_")]
        if told:
            assert found[name][told].iloc[-1].tolist() == [
                f"20x.zarr/C/4/1/0/[{channel}]" for channel in range(3)
            ]
        pd.testing.assert_frame_equal(found[name].drop(columns=told), expected.drop(columns=told))
    (stained / "20x.zarr" / "C" / "4" / "1" / "0" / "zarr.json").unlink()
    again = measured(stained / "20x.zarr", out)
    assert (len(again.fields), again.n_new) == (2, 0)
    assert [problem.where for problem in again.problems] == ["20x C04 F001"]
    (stained / "20x.zarr" / "zarr.json").unlink()
    with pytest.raises(PlateError, match=r"list its wells yet: .*same command that stains it"):
        measured(stained, out)


def test_wells_say_of_their_objects_what_numpy_says(whole):
    tables = frames(whole)
    droplets = tables["LipidDroplets"]
    diameters = droplets[droplets["Metadata_Well"] == "B03"]["AreaShape_EquivalentDiameter_um"]
    row = tables[WELLS].set_index("Metadata_Well").loc["B03"]
    column = "AreaShape_EquivalentDiameter_um"
    assert row[f"LipidDroplets_Median_{column}"] == pytest.approx(np.median(diameters))
    assert row[f"LipidDroplets_Mean_{column}"] == pytest.approx(np.mean(diameters))
    assert row[f"LipidDroplets_Percentile95_{column}"] == pytest.approx(
        np.percentile(diameters, 95)
    )
    shares = [value for name, value in row.items() if name.startswith("LipidDroplets_Share_")]
    assert len(shares) == len(EDGES_UM) - 1
    assert sum(shares) == pytest.approx(1)
    assert row["LipidDroplets_Share_2to4um"] == pytest.approx(
        ((diameters >= 2) & (diameters < 4)).mean()
    )


# pycytominer sets an option that this version of pandas is about to drop.
@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")
def test_pycytominer_reads_the_tables_as_they_are(whole):
    from pycytominer import aggregate, feature_select, normalize

    tables = frames(whole)
    cells = tables["Cells"]
    features = [name for name in cells if name.startswith(("AreaShape_", "Intensity_"))]
    wells = aggregate(
        cells,
        strata=["Metadata_Plate", "Metadata_Well"],
        features=features,
        operation="median",
        object_feature="ObjectNumber",
    )
    ours = tables[WELLS]
    assert list(wells["Metadata_Well"]) == ["B03", "C04"]
    for feature in features:
        np.testing.assert_allclose(wells[feature], ours[f"Cells_Median_{feature}"])
    scaled = normalize(
        ours,
        features="infer",
        image_features=True,
        meta_features="infer",
        method="standardize",
    )
    assert {"Cells_Median_AreaShape_Area", "Image_Count_Cells"} <= set(scaled)
    kept = feature_select(scaled, features="infer", operation="variance_threshold")
    assert 0 < kept.shape[1] <= scaled.shape[1]


def test_a_stopped_measurement_goes_on(stained, tmp_path, monkeypatch, whole):
    out, measure, asked = tmp_path / "out", plate.measure, []

    def stopped(*arguments):
        asked.append(arguments)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return measure(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(plate, "measure", stopped)
        with pytest.raises(KeyboardInterrupt):
            measured(stained, out)
    assert not list(out.glob("*.parquet"))
    found = measured(stained, out)
    assert found.n_new == len(FIELDS) - 1
    for name, table in frames(found).items():
        pd.testing.assert_frame_equal(table, frames(whole)[name])
    assert measured(stained, out).n_new == 0


def test_a_field_whose_files_changed_is_measured_again(stained, tmp_path):
    out = tmp_path / "out"
    measured(stained, out)
    tifffile.imwrite(image_of(stained, "C04", 1, "A1"), np.zeros((400, 400), np.uint16))
    found = measured(stained, out)
    assert found.n_new == 1
    assert list(frames(found)[WELLS]["Image_Count_Cells"]) == [2 * N_CELLS, 0]
    assert np.isnan(frames(found)[WELLS]["Cells_Median_AreaShape_Area"][1])


def test_bad_fields_are_told_and_stop_nothing(stained, tmp_path):
    image_of(stained, "B03", 1, "A2").write_bytes(b"II*\0 no TIFF")
    tifffile.imwrite(image_of(stained, "B03", 2, "A3"), np.zeros((400, 400), np.float32))
    found = measured(stained, tmp_path / "out")
    assert [problem.where for problem in found.problems] == ["20x B03 F001", "20x B03 F002"]
    assert "float32" in found.problems[1].found
    assert [str(field.key) for field in found.fields] == ["20x C04 F001"]
    assert len(frames(found)["Cells"]) == N_CELLS + 1
    image_of(stained, "C04", 1, "A1").write_bytes(b"")
    with pytest.raises(PlateError, match=r"no field of .* can be measured: mend one"):
        measured(stained, tmp_path / "out")
    assert len(pd.read_parquet(tmp_path / "out" / "Cells.parquet")) == N_CELLS + 1


def test_fields_without_a_stain_are_named_and_the_rest_of_them_measured(stained, tmp_path):
    image_of(stained, "C04", 1, "A1").unlink()
    found = measured(stained, tmp_path / "out")
    assert found.lacking == {"A1": (FieldKey(20, "C04", 1),)}
    row = frames(found)[WELLS].set_index("Metadata_Well").loc["C04"]
    assert row["Image_Count_Cells"] == 0
    assert row["Image_Count_LipidDroplets"] > drawn.N_DROPLETS * N_CELLS


def test_csv_holds_what_parquet_holds(stained, tmp_path, whole):
    found = measured(stained, tmp_path / "out", csv=True)
    for name, table in frames(whole).items():
        with found.tables[name].open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == list(table)
        assert len(rows) == len(table)
        numbers = [float(row["Metadata_Column"]) for row in rows]
        np.testing.assert_array_equal(numbers, table["Metadata_Column"])


def test_a_plate_map_stands_beside_the_wells_and_its_figures_in_tables(stained, tmp_path):
    path = tmp_path / "map.csv"
    path.write_text("well,role,compound,concentration\nC04,treated,insulin,10 nM\n")
    found = measured(stained, tmp_path / "out", plate_map=path)
    wells = frames(found)[WELLS].set_index("Metadata_Well")
    assert list(wells["Metadata_Role"]) == ["", "treated"]
    assert wells["Metadata_Compound"]["C04"] == "insulin"
    assert wells["Metadata_Concentration"]["C04"] == pytest.approx(1e-8)
    controls = frames(found)[CONTROLS]
    assert list(controls["Feature"]) == [n for n in wells if not n.startswith("Metadata_")]
    assert DOSES not in found.tables  # one dose is no curve
    normal = measured(stained, tmp_path / "out")
    assert "Metadata_Role" not in frames(normal)[WELLS]


def test_a_wrong_plate_map_is_told_before_anything_is_written(stained, tmp_path):
    path = tmp_path / "map.csv"
    path.write_text("well,role,compound,concentration\nD11,treated,insulin,10 nM\n")
    with pytest.raises(PlateError, match="well D11 has no image"):
        measured(stained, tmp_path / "out", plate_map=path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("inside", [".", "20x_images", "tables"])
def test_nothing_is_written_among_the_images(stained, inside):
    before = contents(stained)
    with pytest.raises(ConfigError, match=r"among the images .*: give another folder"):
        measured(stained, stained / inside)
    assert contents(stained) == before


def test_painted_objects_have_a_probability_and_columns_a_grade(stained, tmp_path, whole):
    """The larger a droplet, the likelier it is; of nuclei this model knows nothing."""
    usual_px = float(frames(whole)["LipidDroplets"]["AreaShape_Area"].mean())
    by_size = Trees(0.0, [[0] * 15], [[usual_px] * 15], [[0.0] * 15 + [1.0]])
    reality = Reality(20, "LipidDroplets", by_size, [0.0, 1.0], [0.1, 0.9])
    grade = Grade(20, "Wells", "Image_Count_Cells", Worth.USE, "", n_fields=9, n_wells=3)
    earned = to_json(Earned("none", [grade], [reality]))
    (stained / "stained.json").write_text('{"plate": "raw", "intensities": "none"}')
    (stained / "grades.json").write_text(json.dumps(earned))
    tables = frames(measured(stained, tmp_path / "out"))
    droplets = tables["LipidDroplets"]
    expected = np.where(droplets["AreaShape_Area"] > usual_px, 0.9, 0.1)
    assert len({*expected}) == 2
    np.testing.assert_allclose(droplets[PROBABILITY], expected)
    assert PROBABILITY not in tables["Nuclei"]
    assert list(tables[GRADES]["Grade"]) == ["use"]


def test_labels_are_written_on_request(stained, tmp_path, whole):
    out = tmp_path / "out"
    measured(stained, out)
    assert not (out / "labels").exists()
    assert measured(stained, out, labels=True).n_new == len(FIELDS)
    files = sorted((out / "labels" / "20x_images").iterdir())
    assert len(files) == len(FIELDS) * len(KINDS)
    tables = frames(whole)
    for name in KINDS:
        [path] = (out / "labels" / "20x_images").glob(f"*_C04_F001_{name}.tif")
        labels = tifffile.imread(path)
        own = tables[name][tables[name]["Metadata_Well"] == "C04"]
        assert labels.dtype == np.uint16
        np.testing.assert_array_equal(np.unique(labels)[1:], own["ObjectNumber"])
        np.testing.assert_array_equal(np.bincount(labels.ravel())[1:], own["AreaShape_Area"])
