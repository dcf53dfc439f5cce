"""Two folders of images are paired, and each problem is reported with its remedy."""

import numpy as np
import pytest
import tifffile

from adipocyte.domain import TARGETS, FieldKey
from adipocyte.errors import PlateError
from adipocyte.evaluation.measure import measure_field
from adipocyte.evaluation.pairs import PREDICTION, pair
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.names import target_name
from adipocyte.staining.stainer import Stained
from tests.support.layouts import write_stained
from tests.support.stores import damaged

NO_PLANES = np.zeros((0, 64, 64), dtype=np.uint16)


def write_fields(folder, *keys, shape=(64, 70)):
    image = np.random.default_rng(0).integers(50, 900, shape).astype(np.uint16)
    for key in keys:
        write_field(folder, key, RawField(NO_PLANES, dict.fromkeys(TARGETS, image)))
    return folder


KEYS = (FieldKey(20, "B03", 1), FieldKey(20, "C02", 4), FieldKey(40, "B03", 1))


@pytest.fixture
def folders(tmp_path):
    return write_fields(tmp_path / "truth", *KEYS), write_fields(tmp_path / "prediction", *KEYS)


def path_of(folder, key, target="A2"):
    return folder / f"{key.magnification}x_images" / str(target_name(key, target))


def problems(pairs):
    return [(problem.where, problem.found, problem.remedy) for problem in pairs.problems]


def test_whole_folders_pair_up_field_by_field(folders):
    pairs = pair(*folders)
    assert [field.key for field in pairs.fields] == sorted(KEYS)
    assert not pairs.problems
    assert pairs.fields[0].truth["A2"] == path_of(folders[0], KEYS[0])
    assert pairs.fields[0].painted[PREDICTION]["A2"] == path_of(folders[1], KEYS[0])


def test_a_prediction_may_be_ome_zarr(folders, tmp_path):
    image = np.full((64, 70), 300, np.uint16)
    stained = Stained(dict.fromkeys(TARGETS, image), ())
    prediction = write_stained(tmp_path / "zarr", dict.fromkeys(KEYS[:2], stained))
    pairs = pair(folders[0], prediction)
    assert [field.key for field in pairs.fields] == list(KEYS[:2])
    assert [where for where, _, _ in problems(pairs)] == [str(KEYS[2])]
    expected = measure_field(pair(*folders).fields[0], with_features=False)
    found = measure_field(pairs.fields[0], with_features=False)
    np.testing.assert_equal(found.truth_counts, expected.truth_counts)
    assert found.painted_counts[PREDICTION]["A2"].argmax() == 300
    (prediction / "20x.zarr" / "B" / "3" / "1" / "0" / "c" / "1" / "0" / "0").write_bytes(b"no")
    assert [where for where, _, _ in problems(pair(folders[0], prediction))] == [
        str(KEYS[0]),
        str(KEYS[2]),
    ]


def test_the_organisers_names_pair_with_the_challenges(folders):
    """Their evaluation folders call every target action A01."""
    for path in folders[0].rglob("*A02Z01C02.tif"):
        path.rename(path.with_name(path.name.replace("A02Z01C02", "A01Z01C02")))
    assert len(pair(*folders).fields) == 3


def test_what_disks_and_desktops_leave_beside_images_stops_nothing(folders):
    for folder in folders:
        for path in list(folder.rglob("*.tif")):
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7Mac OS X")
            (folder / ".Trash-1000").mkdir(exist_ok=True)
            (folder / ".Trash-1000" / path.name).write_bytes(b"thrown away")
        path.with_name(path.name.replace("B03", "B09")).symlink_to("gone.tif")
    pairs = pair(*folders)
    assert (len(pairs.fields), pairs.problems) == (3, [])


def test_a_prediction_at_several_z_is_told(folders):
    path = path_of(folders[1], KEYS[0])
    path.with_name(path.name.replace("Z01", "Z02")).write_bytes(path.read_bytes())
    [(_, found, _)] = problems(pair(*folders))
    assert found == "A2 has 2 z-planes, one is due"


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_image_leaves_its_field_out_and_says_which(folders, which):
    path_of(folders[which], KEYS[1]).unlink()
    pairs = pair(*folders)
    assert [field.key for field in pairs.fields] == [KEYS[0], KEYS[2]]
    [(where, found, remedy)] = problems(pairs)
    assert (where, found) == ("20x C02 F004", f"A2 has no {('truth', 'prediction')[which]}")
    assert path_of(folders[which], KEYS[1]).name in remedy


def test_another_size_is_told_with_both(folders):
    write_fields(folders[1], KEYS[0], shape=(64, 71))
    [first, *_] = problems(pair(*folders))
    assert "is 64 x 71 pixels" in first[1]
    assert "64 x 70" in first[1]
    assert len(pair(*folders).fields) == 2


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
def test_float_negative_and_eight_bit_predictions_are_refused_with_the_remedy(folders, dtype):
    """A cast would wrap -3 to 65533, and CellProfiler scales 8-bit and float images differently."""
    image = np.full((64, 70), -3 if dtype != np.uint8 else 3, dtype=dtype)
    tifffile.imwrite(path_of(folders[1], KEYS[0]), image)
    [(where, found, remedy)] = problems(pair(*folders))
    assert where == "20x B03 F001"
    assert np.dtype(dtype).name in found
    assert "uint16" in remedy


def test_a_damaged_file_and_a_doubled_one_are_told(folders):
    path_of(folders[1], KEYS[0]).write_bytes(b"no TIFF")
    double = path_of(folders[0], KEYS[1])
    double.with_name(double.name.replace("A02Z01C02", "A01Z01C02")).write_bytes(double.read_bytes())
    found = problems(pair(*folders))
    assert any("cannot be read as TIFF" in one[1] for one in found)
    assert any("are the same image" in one[1] for one in found)


def test_small_images_are_told(tmp_path):
    folder = write_fields(tmp_path / "truth", KEYS[0], shape=(40, 40))
    [(_, found, remedy)] = problems(pair(folder, folder))
    assert "(40, 40) pixels" in found
    assert "at least 64" in remedy


def test_a_stain_that_a_field_lacks_in_both_folders_does_not_leave_the_score_unsaid(folders):
    for folder in folders:
        path_of(folder, KEYS[1]).unlink()
    pairs = pair(*folders)
    assert [field.key for field in pairs.fields] == [KEYS[0], KEYS[2]]
    [(where, found, remedy)] = problems(pairs)
    assert (where, found) == (
        "20x C02 F004",
        "A2 is in neither folder, though other fields of 20x have it",
    )
    assert "take the field out of both" in remedy


def test_damaged_pixels_are_told_before_anything_is_measured(folders):
    damaged(path_of(folders[1], KEYS[1]))
    [(where, found, _)] = problems(pair(*folders))
    assert where == "20x C02 F004"
    assert "cannot be read as TIFF" in found


def test_the_magnification_may_be_the_folders_own_name_or_given(folders, tmp_path):
    assert [
        field.key for field in pair(folders[0] / "20x_images", folders[1] / "20x_images").fields
    ] == list(KEYS[:2])
    plain = [
        (folder / "20x_images").rename(tmp_path / f"flat{n}") for n, folder in enumerate(folders)
    ]
    needed = r"put it into a folder named 20x_images.*-P magnification=20"
    with pytest.raises(PlateError, match=f"cannot be told: {needed}"):
        pair(*plain)
    assert [field.key for field in pair(*plain, magnification=20).fields] == list(KEYS[:2])


def test_brightfield_and_other_files_are_passed_over(folders):
    (folders[0] / "20x_images" / "notes.txt").write_text("hello")
    write_field(folders[0], KEYS[0], RawField(np.zeros((7, 64, 70), dtype=np.uint16), {}))
    assert len(pair(*folders).fields) == 3


def test_a_missing_or_empty_folder_is_told_with_the_form_of_names(folders, tmp_path):
    remedy = "give the prediction with -P prediction=<folder>"
    with pytest.raises(PlateError, match=f"there is no folder .*nowhere: {remedy}"):
        pair(folders[0], tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    example = r"AssayPlate_Greiner_#655090_B03_T0001F001L01A01Z01C01\.tif"
    with pytest.raises(PlateError, match=f"empty holds no stained image .* {example}"):
        pair(tmp_path / "empty", folders[1])


def test_a_problem_is_whole_whatever_the_folders_are_called(folders, tmp_path):
    strange = folders[1].rename(tmp_path / "run: 2 :: draft")
    path = path_of(strange, KEYS[0])
    path.write_text("no TIFF")
    [(where, found, remedy)] = problems(pair(folders[0], strange))
    assert where == "20x B03 F001"
    assert str(path) in found or path.name in found
    assert "TIFF" in found
    assert remedy.endswith("; predictions: clip to 0…65535, round and save as uint16")
    assert not remedy.startswith(";")
