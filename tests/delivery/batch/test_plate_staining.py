"""A whole plate is painted field by field, and the same command resumes after any interruption."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner
from ome_zarr_models.v05 import HCS, Image

from adipocyte.config import StainConfig
from adipocyte.delivery.batch import painter
from adipocyte.delivery.batch import plate as batch
from adipocyte.delivery.batch.painter import Assignment, FieldOutcome
from adipocyte.delivery.batch.plate import Here, should_compile, stain_plate
from adipocyte.delivery.batch.tiffs import described
from adipocyte.domain import TARGET_COLOURS, TARGETS, FieldKey
from adipocyte.errors import ConfigError, OutputError, PlateError
from adipocyte.measuring.grades import graded_by
from adipocyte.plate.fields import FieldFiles, RawField, read_field, stained_name
from adipocyte.plate.names import DEFAULT_PLATE, parse_name
from adipocyte.plate.planes import read_header, read_image
from adipocyte.plate.scan import scan_plate
from adipocyte.plate.stains import list_stains
from adipocyte.plate.tiff import write_image
from adipocyte.plate.understood import understood_table
from adipocyte.staining.bundle import add_grades, write_foretellers, write_intervals
from adipocyte.staining.stainer import Stainer
from entrypoints.stain import stain as command
from tests.support import ROOT
from tests.support.bundles import make_int8_bundle, some_foreteller, some_widths
from tests.support.layouts import PATTERN, WRITERS, write_imagexpress
from tests.support.plates import SHAPE_PX, images, plane, planes, write_plate
from tests.support.processes import wait_for
from tests.support.served import make_model

ANOTHER = "images of another plate, model, intensities, tiles or arithmetic"


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five fields."""
    return write_plate(tmp_path_factory.mktemp("raw") / "plate", range(1, 6))


@pytest.fixture
def stain(plate: Path, compact_model: Path, tmp_path: Path):
    """Paint the plate into tmp_path/out, or with other settings."""

    def run(crew: batch.Crew | None = None, **settings: Any) -> batch.StainedPlate:
        given = {
            "plate": plate,
            "model": str(compact_model),
            "out": str(tmp_path / "out"),
        } | settings
        return stain_plate(StainConfig(**given), crew or Here())

    return run


class LeavesEarly(Here):
    """Gives up after so many fields, by Ctrl-C or another way."""

    def __init__(self, n_fields: int, error: BaseException) -> None:
        self._n_fields, self._error = n_fields, error

    def paint(self, assignment: Assignment, fields: Sequence[FieldFiles]) -> Iterator[FieldOutcome]:
        yield from super().paint(assignment, fields[: self._n_fields])
        raise self._error


class LeavesEarlyQuietly(Here):
    """Paints no more than so many fields."""

    def __init__(self, n_fields: int) -> None:
        self._n_fields = n_fields

    def paint(self, assignment: Assignment, fields: Sequence[FieldFiles]) -> Iterator[FieldOutcome]:
        return super().paint(assignment, fields[: self._n_fields])


def everything(folder: Path) -> dict[str, bytes]:
    """The content of every file of a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def entries(out: Path) -> dict[str, Any]:
    return json.loads((out / "manifest.json").read_text())["fields"]


def fovs(keys: Sequence[FieldKey]) -> list[int]:
    return [key.fov for key in keys]


def test_every_field_is_painted_as_the_stainer_paints_it(stain, plate, compact_bundle, tmp_path):
    result = stain()
    assert fovs(result.painted) == [1, 2, 3, 4, 5]
    assert (result.skipped, result.problems) == ([], [])
    planes = tifffile.imread([plane(plate, 3, z) for z in range(1, 8)])
    expected = Stainer(compact_bundle).stain(planes, 20).images
    for target, channel in (("A1", "C01"), ("A2", "C02"), ("A3", "C03")):
        [path] = (tmp_path / "out").glob(f"20x_images/*F003*{channel}.tif")
        assert (tifffile.imread(path) == expected[target]).all()


def loaded(table: Path, base: Path) -> list[tuple[dict[str, Path], dict[str, str]]]:
    """The images and the metadata of each row, as CellProfiler's LoadData reads them.

    cellprofiler/modules/loaddata.py: `header_to_column` drops "Image_"; `prepare_run` splits each
    name at its first "_" into a category and the rest, refuses rows of another length than the
    header's, and joins the base image location, the PathName and the FileName. All else is data of
    the row, that of the category Metadata by its name.
    """
    header, *rows = csv.reader(table.read_text().splitlines())
    columns = [re.sub("^Image_(?=(FileName|PathName)_)", "", name) for name in header]
    found = []
    for row in rows:
        assert len(row) == len(columns)
        by_category: dict[str, dict[str, str]] = {}
        for column, value in zip(columns, row, strict=True):
            category, _, name = column.partition("_")
            by_category.setdefault(category, {})[name] = value
        files, folders = by_category.pop("FileName"), by_category.pop("PathName")
        assert by_category.keys() == {"Metadata"}
        paths = {name: base / folders[name] / file for name, file in files.items()}
        found.append((paths, by_category["Metadata"]))
    return found


def test_cellprofiler_loads_what_is_painted_also_after_a_move(stain, plate, tmp_path):
    out, moved = tmp_path / "out", tmp_path / "moved"
    broken = shutil.copytree(plate, tmp_path / "broken")
    plane(broken, 2, 3).unlink()
    with pytest.raises(KeyboardInterrupt):
        stain(LeavesEarly(1, KeyboardInterrupt()), plate=broken)
    assert not (out / "images.csv").exists()
    stain(plate=broken)
    out.rename(moved)
    rows = loaded(moved / "images.csv", moved)
    assert [metadata for _, metadata in rows] == [
        {
            "Plate": "AssayPlate_Greiner_#655090",
            "Magnification": "20",
            "Well": "B03",
            "Site": str(fov),
        }
        for fov in (1, 3, 4, 5)
    ]
    listed = [path for paths, _ in rows for path in paths.values()]
    assert sorted(listed) == sorted(moved.rglob("*.tif"))
    for paths, metadata in rows:
        for target, path in paths.items():
            name = parse_name(path.name)
            assert (name.target, name.fov) == (target, int(metadata["Site"]))


@pytest.mark.parametrize("form", ["tiff", "ome-zarr"])
def test_each_time_is_painted_and_told_apart(stain, form, tmp_path):
    raw, out = write_plate(tmp_path / "plate", [1]), tmp_path / "out"
    for path in list(raw.rglob("*.tif")):
        later = tifffile.imread(path)[::-1]
        write_image(path.with_name(path.name.replace("T0001", "T0002")), later)
    assert len(stain(plate=raw, format=form).painted) == 2
    assert entries(out).keys() == {"20x B03 F001", "20x B03 F001 T0002"}
    if form == "ome-zarr":
        shown = zarr.open_group(out / "20x.zarr" / "B" / "3", mode="r").attrs["ome"]["well"]
        assert [image["path"] for image in shown["images"]] == ["1", "1T0002"]
        return
    rows = [metadata for _, metadata in loaded(out / "images.csv", out)]
    assert [(row["Site"], row["Timepoint"]) for row in rows] == [("1", "1"), ("1", "2")]
    assert (
        sorted(parse_name(name.rpartition("/")[2]).time for name in images(out))
        == [1] * 3 + [2] * 3
    )


@pytest.mark.parametrize("layout", WRITERS)
def test_images_are_named_after_their_fields_in_any_layout_and_read_again(layout, tmp_path):
    """By `measure`, `evaluate` and CellProfiler; the plate's name is the instrument's own, "99"."""
    planes_of = {
        FieldKey(20, well, fov): RawField(planes(fov, (64, 65)), {})
        for well in ("B03", "AF48")
        for fov in (1, 12)
    }
    raw = WRITERS[layout](tmp_path / "raw", planes_of)
    given = {"layout": layout, "channels": "brightfield=TL-20"} if layout == PATTERN else {}
    fields = scan_plate(raw, (), **given).fields
    out = tmp_path / "out"
    for field in fields:
        for target in TARGETS:
            write_image(out / stained_name(field, target), planes(0, (64, 65))[0])
    (found,) = list_stains({"images": out}, 0)
    assert found.files.keys() == planes_of.keys()
    for name, data in described(fields, TARGETS).items():
        (out / name).write_bytes(data)
    rows = loaded(out / "images.csv", out)
    assert len(rows) == len(planes_of)
    for paths, metadata in rows:
        files = found.files[FieldKey(20, metadata["Well"], int(metadata["Site"]))]
        assert files == {target: [path] for target, path in paths.items()}
        assert metadata["Plate"] == "99"
        assert all(path.name.startswith(f"99_{metadata['Well']}_") for path in paths.values())
    overruled = scan_plate(raw, (), magnification=40, **given).fields[0]
    assert overruled.um_per_px == (0.163 if layout == PATTERN else 0.325)  # the usual, else as told


def test_another_objective_is_refused_or_resampled_and_measured_in_its_own_um(
    stain, plate, compact_bundle, tmp_path
):
    other = tmp_path / "other"
    shutil.copytree(plate / "20x_images", other / "10x_images")
    for path in other.rglob("*.tif"):
        write_image(path, read_image(path), 0.65)
    refused = stain(plate=other)
    assert refused.painted == []
    assert "has not seen 10x, only 20x" in refused.problems[0].found
    stained = stain(plate=other, resample=True)  # as the refusal says
    assert len(stain(plate=other).skipped) == 5
    assert len(stained.painted) == len(stained.warnings) == 5
    entries = json.loads((tmp_path / "out" / "manifest.json").read_text())["fields"]
    assert all(entry["resampled"] for entry in entries.values())
    field = scan_plate(other, ()).fields[2]
    expected = Stainer(compact_bundle).stain(
        read_field(field, ()).planes, 10, um_per_px=0.65, resample=True
    )
    for target, image in expected.images.items():
        path = tmp_path / "out" / stained_name(field, target)
        np.testing.assert_array_equal(read_image(path), image)
        assert read_header(path).um_per_px == 0.65


@pytest.mark.slow
def test_an_instruments_own_folder_is_painted_as_the_challenges(stain, plate, tmp_path, capsys):
    stain()
    expected = images(tmp_path / "out")
    fields = {files.key: read_field(files, ()) for files in scan_plate(plate, ()).fields}
    other = write_imagexpress(tmp_path / "imagexpress", fields)
    capsys.readouterr()
    result = stain(plate=other, out=str(tmp_path / "other"))
    assert (fovs(result.painted), result.problems) == ([1, 2, 3, 4, 5], [])
    assert re.search(r"channel +4 TL-20: brightfield\n", capsys.readouterr().out)
    prefix = "AssayPlate_Greiner_#655090"
    assert images(tmp_path / "other") == {
        name.replace(prefix, "99"): content for name, content in expected.items()
    }
    again = stain(plate=other, out=str(tmp_path / "other"))
    assert fovs(again.skipped) == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_what_the_models_measurements_are_worth_lies_beside_the_images(
    stain, compact_model, tmp_path
):
    model = Path(shutil.copytree(compact_model, tmp_path / "model"))
    grades = {"intensities": "none", "grades": [], "objects": []}
    add_grades(model / "artifacts" / "bundle", grades)
    out = tmp_path / "out"
    result = stain(model=str(model))
    assert json.loads((out / "grades.json").read_text()) == grades
    found = graded_by(out, [*result.painted, FieldKey(20, "C03", 1)])
    assert found.unlike == set(result.painted)  # noise is unlike the training wells


@pytest.mark.slow
def test_intervals_lie_beside_the_images_when_they_are_asked_for(stain, compact_model, tmp_path):
    """Also for fields that were painted without."""
    model = Path(shutil.copytree(compact_model, tmp_path / "model"))
    plate, out = write_plate(tmp_path / "plate", (1, 2)), tmp_path / "out"
    given = {"plate": plate, "model": str(model)}
    with pytest.raises(ConfigError, match=r"no intervals of A1 at 20x.* register it again"):
        stain(**given, uncertainty=True)
    widths = {f"20/{target}": some_widths() for target in ("A1", "A2", "A3")}
    write_intervals(model / "artifacts" / "bundle", widths)
    shutil.rmtree(out)
    assert len(stain(**given).painted) == 2
    plain = images(out)
    assert len(stain(**given, uncertainty=True).painted) == 2
    assert plain.items() <= images(out).items()
    assert len(list(out.rglob("*.tif"))) == 3 * len(plain)
    for name in plain:
        path = next(out.rglob(name))
        low, high = (path.with_name(f"{path.stem}_{end}.tif") for end in ("low", "high"))
        painted = tifffile.imread(path)
        assert (tifffile.imread(low) <= painted).all()
        assert (painted <= tifffile.imread(high)).all()
    told = [entry["trust"] for entry in entries(out).values()]
    assert [one["verdict"] for one in told] == ["unknown", "unknown"]
    assert "register it again" in told[0]["reason"]
    write_foretellers(model / "artifacts" / "bundle", [some_foreteller()])
    shutil.rmtree(out)
    result = stain(**given, uncertainty=True)
    assert result.refused == dict.fromkeys(
        result.painted, "it looks like nothing that the model was tested on"
    )
    again = stain(**given, uncertainty=True)
    assert (len(again.skipped), again.painted) == (2, [])
    graded = graded_by(out, again.skipped)
    assert graded.of_well(again.skipped)["Metadata_Trust"] == "no"
    assert graded.of_field(again.skipped[0]) == {"Metadata_Trust": "no"}
    (found,) = list_stains({"images": out}, 0)
    assert {target for files in found.files.values() for target in files} == {"A1", "A2", "A3"}
    assert all(len(paths) == 1 for files in found.files.values() for paths in files.values())


def channels_of(out: Path, fov: int) -> dict[str, np.ndarray]:
    """What a public validator finds in an image of a plate that it finds valid, by channel."""
    HCS.from_zarr(zarr.open_group(out / "20x.zarr", mode="r"))
    group = zarr.open_group(out / "20x.zarr" / "B" / "3" / str(fov), mode="r")
    image = Image.from_zarr(group).attributes.ome
    [dataset] = image.multiscales[0].datasets
    assert dataset.coordinateTransformations[0].scale == [1.0, 0.325, 0.325]
    names = [channel["label"] for channel in image.omero["channels"]]
    colours = [channel["color"] for channel in image.omero["channels"]]
    due = [TARGET_COLOURS.get(name[:2], "#ffffff") for name in names]
    assert colours == [colour.lstrip("#").upper() for colour in due]
    return dict(zip(names, np.asarray(group["0"]), strict=True))


@pytest.mark.slow
def test_an_ome_zarr_plate_is_valid_continues_and_holds_what_tiffs_hold(
    stain, plate, tmp_path, small_model
):
    """Also with intervals and brightfield, and in a place that is no folder."""
    model = Path(shutil.copytree(small_model, tmp_path / "model"))
    widths = {f"20/{target}": some_widths() for target in TARGETS}
    write_intervals(model / "artifacts" / "bundle", widths)
    given = {"model": str(model), "uncertainty": True}
    stain(LeavesEarlyQuietly(1), out=str(tmp_path / "tiffs"), **given)
    given |= {"format": "ome-zarr", "brightfield": True}
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        stain(LeavesEarly(1, KeyboardInterrupt()), **given)
    assert not (out / "20x.zarr" / "zarr.json").exists()
    with pytest.raises(PlateError, match=r"as ome-zarr, not tiff: .*-P format=ome-zarr, or name"):
        stain(**given | {"format": "tiff", "brightfield": False})
    with pytest.raises(PlateError, match=r"with brightfield: .* -P brightfield=true, or name"):
        stain(**given | {"brightfield": False})
    again = stain(LeavesEarlyQuietly(1), **given)
    assert (fovs(again.skipped), fovs(again.painted)) == ([1], [2])
    found = channels_of(out, 1)
    assert list(found)[:3] == list(TARGETS)
    assert channels_of(out, 2).keys() == found.keys()
    images_of_1 = {
        f"A{int(path.name.partition('C0')[2][0])}{path.stem.partition('C0')[2][1:]}": path
        for path in (tmp_path / "tiffs").rglob("*.tif")
    }
    images_of_1 |= {f"Z{z}": plane(plate, 1, z) for z in range(1, 8)}
    assert images_of_1.keys() == found.keys()
    for name, path in images_of_1.items():
        np.testing.assert_array_equal(found[name], tifffile.imread(path))
    (listed,) = list_stains({"images": out}, 0)
    assert (fovs(listed.files), {*listed.plates.values()}) == ([1, 2], {DEFAULT_PLATE})
    painted = images_of_1["A2"]
    np.testing.assert_array_equal(
        read_image(*listed.files[FieldKey(20, "B03", 1)]["A2"]), tifffile.imread(painted)
    )

    scanned = scan_plate(out)
    assert (fovs(files.key for files in scanned.fields), scanned.problems) == ([1, 2], ())
    raw = read_field(scanned.fields[0], TARGETS)
    np.testing.assert_array_equal(raw.planes[6], tifffile.imread(plane(plate, 1, 7)))
    np.testing.assert_array_equal(raw.targets["A2"], tifffile.imread(painted))
    assert "images of channel A1_low" in understood_table(scanned)

    elsewhere = f"memory://{tmp_path.name}/stained"
    stain(LeavesEarlyQuietly(1), out=elsewhere, **given)
    files, root = fsspec.url_to_fs(elsewhere)
    held = {path.removeprefix(root) for path in files.find(root)}
    assert {"/20x.zarr/zarr.json", "/20x.zarr/B/3/1/zarr.json"} < held
    files.rm(f"{root}/20x.zarr/B/3/1/0/c/15/0/0")  # the last plane
    lost = stain(LeavesEarlyQuietly(1), out=elsewhere, **given)
    assert (fovs(lost.painted), lost.skipped) == ([1], [])


def test_tiffs_are_not_continued_as_ome_zarr(stain):
    stain(LeavesEarlyQuietly(1))
    with pytest.raises(PlateError, match=r"as tiff, not ome-zarr: finish it with -P format=tiff"):
        stain(format="ome-zarr")
    with pytest.raises(
        ConfigError, match="in OME-Zarr alone, not as TIFFs: add -P format=ome-zarr"
    ):
        stain(brightfield=True)


@pytest.mark.slow
def test_the_manifest_tells_of_each_field(stain, tmp_path):
    result = stain()
    told = entries(tmp_path / "out")
    assert list(told) == [f"20x B03 F{fov:03d}" for fov in range(1, 6)]
    assert {entry["status"] for entry in told.values()} == {"painted"}
    assert all(0 < entry["seconds"] < 100 for entry in told.values())
    assert result.warnings  # noise is unlike the training wells
    assert {key: entry["warnings"] for key, entry in told.items()} == {
        str(key): list(said) for key, said in result.warnings.items()
    }


@pytest.mark.slow
def test_a_bad_field_is_recorded_and_mended_by_the_same_command(stain, plate, tmp_path):
    """One lacks a plane, which the scan sees; one has pixels that cannot be decoded, if read."""
    broken = shutil.copytree(plate, tmp_path / "broken")
    plane(broken, 2, 3).unlink()
    damaged = plane(broken, 4, 5)
    tifffile.imwrite(damaged, tifffile.imread(damaged), compression="zlib")
    whole = damaged.read_bytes()
    with tifffile.TiffFile(damaged) as tiff:
        start = tiff.pages[0].dataoffsets[0]
    damaged.write_bytes(whole[:start] + bytes(100) + whole[start + 100 :])
    result = stain(plate=broken)
    assert fovs(result.painted) == [1, 3, 5]
    told = entries(tmp_path / "out")
    lacking, unreadable = told["20x B03 F002"], told["20x B03 F004"]
    assert "lacks Z3" in lacking.pop("problem")
    assert lacking == {"status": "failed", "seconds": 0, "warnings": []}
    assert unreadable["status"] == "failed"
    assert damaged.name in unreadable["problem"]
    assert [problem.where for problem in result.problems] == ["20x B03 F002", "20x B03 F004"]

    shutil.copy(plane(plate, 2, 3), broken / "20x_images")
    damaged.write_bytes(whole)
    again = stain(plate=broken)
    assert (fovs(again.painted), fovs(again.skipped), again.problems) == ([2, 4], [1, 3, 5], [])
    assert {entry["status"] for entry in entries(tmp_path / "out").values()} == {"painted"}


def image_again(plate: Path, fov: int, shape_px: tuple[int, int] = SHAPE_PX) -> None:
    """Write other pixels under the same names."""
    for z, pixels in enumerate(planes(99, shape_px), start=1):
        tifffile.imwrite(plane(plate, fov, z), pixels)


@pytest.mark.slow
@pytest.mark.parametrize("shape_px", [SHAPE_PX, (80, 96)], ids=["the same size", "another size"])
def test_a_field_that_was_imaged_again_is_painted_again(stain, plate, tmp_path, shape_px):
    ours = shutil.copytree(plate, tmp_path / "ours")
    stain(plate=ours)
    image_again(ours, 3, shape_px)
    again = stain(plate=ours)
    assert (fovs(again.painted), fovs(again.changed)) == ([3], [3])
    assert fovs(again.skipped) == [1, 2, 4, 5]
    stain(plate=ours, out=str(tmp_path / "at once"))
    assert images(tmp_path / "out") == images(tmp_path / "at once")
    third = stain(plate=ours)
    assert (third.painted, third.changed, fovs(third.skipped)) == ([], [], [1, 2, 3, 4, 5])


def test_one_plane_of_another_time_is_another_field_and_stains_are_none_of_it(
    stain, plate, tmp_path
):
    ours = shutil.copytree(plate, tmp_path / "ours")
    stain(LeavesEarlyQuietly(2), plate=ours)
    os.utime(plane(ours, 1, 7), ns=(0, 0))
    stain_of_2 = plane(ours, 2, 1).name.replace("A04Z01C04", "A02Z01C02")
    (ours / "20x_images" / stain_of_2).write_bytes(plane(ours, 2, 1).read_bytes())
    again = stain(LeavesEarlyQuietly(0), plate=ours)
    assert (fovs(again.changed), fovs(again.skipped)) == ([1], [2])
    assert list(entries(tmp_path / "out")) == ["20x B03 F002"]


def test_a_field_that_changes_while_it_is_painted_is_told_and_painted_again(stain, plate, tmp_path):
    ours = shutil.copytree(plate, tmp_path / "ours")

    class Disturbed(LeavesEarlyQuietly):
        def paint(
            self, assignment: Assignment, fields: Sequence[FieldFiles]
        ) -> Iterator[FieldOutcome]:
            for outcome in super().paint(assignment, fields):
                image_again(ours, outcome.key.fov)
                yield outcome

    [problem] = stain(Disturbed(1), plate=ours).problems
    assert (problem.where, problem.found) == ("20x B03 F001", "changed while the plate was painted")
    assert entries(tmp_path / "out")["20x B03 F001"]["status"] == "failed"
    assert fovs(stain(LeavesEarlyQuietly(1), plate=ours).painted) == [1]


def test_what_an_older_version_painted_is_kept_and_its_files_are_remembered(stain, plate, tmp_path):
    """Its manifest does not say which files they were."""
    ours = shutil.copytree(plate, tmp_path / "ours")
    stain(LeavesEarlyQuietly(1), plate=ours)
    path = tmp_path / "out" / "manifest.json"
    told = entries(tmp_path / "out")
    del told["20x B03 F001"]["made_from"]
    path.write_text(json.dumps({"fields": told}))
    kept = stain(LeavesEarlyQuietly(0), plate=ours)
    assert (fovs(kept.skipped), kept.changed) == ([1], [])
    image_again(ours, 1)
    assert fovs(stain(LeavesEarlyQuietly(0), plate=ours).changed) == [1]


def test_the_command_says_which_fields_it_paints_again(plate, compact_model, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    ours = tmp_path / "ours"
    write_plate(ours, range(1, 3))
    settings = {"plate": ours, "model": compact_model, "out": tmp_path / "out"}
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    assert "2 fields painted" in CliRunner().invoke(command, arguments).stdout
    image_again(ours, 2)
    said = CliRunner().invoke(command, arguments).stdout
    assert "The files of field 20x B03 F002 have changed since it was painted" in said
    assert "1 fields painted" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OutputError("the disk is full")], ids=["Ctrl-C", "no room"]
)
def test_what_was_painted_before_an_interruption_is_kept(stain, tmp_path, error):
    with pytest.raises(type(error)):
        stain(LeavesEarly(2, error))
    assert len(entries(tmp_path / "out")) == 2
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.tif")}
    again = stain()
    assert (fovs(again.painted), fovs(again.skipped)) == ([3, 4, 5], [1, 2])
    assert {path: path.stat().st_mtime_ns for path in times} == times
    stain(out=str(tmp_path / "at once"))
    assert images(tmp_path / "out") == images(tmp_path / "at once")


@pytest.mark.slow
def test_a_plate_whose_painting_is_killed_resumes(stain, plate, compact_model, tmp_path):
    command = [sys.executable, "-m", "entrypoints.stain"]
    command += [
        "--plate",
        str(plate),
        "--model",
        str(compact_model),
        "--out",
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    ) as painting:
        wait_for(lambda: images(tmp_path / "out"), process=painting)
        painting.send_signal(signal.SIGKILL)
    assert len(images(tmp_path / "out")) > 0
    stain()
    stain(out=str(tmp_path / "at once"))
    assert images(tmp_path / "out") == images(tmp_path / "at once")
    assert len(entries(tmp_path / "out")) == 5


def test_the_manifest_is_written_while_the_plate_is_painted(stain, tmp_path, monkeypatch):
    """By then a kill may come at any time."""
    monkeypatch.setattr(batch, "WRITE_EVERY_S", 0)
    seen = []

    class Watched(Here):
        def paint(
            self, assignment: Assignment, fields: Sequence[FieldFiles]
        ) -> Iterator[FieldOutcome]:
            for outcome in super().paint(assignment, fields):
                seen.append(len(entries(tmp_path / "out")))
                yield outcome

    stain(Watched())
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_an_image_that_is_lost_is_painted_again(stain, tmp_path):
    stain()
    [lost] = (tmp_path / "out").glob("20x_images/*F002*C02.tif")
    lost.unlink()
    again = stain()
    assert (fovs(again.painted), lost.is_file()) == ([2], True)


@pytest.mark.slow
def test_a_finished_plate_needs_no_networks(stain, monkeypatch):
    stain()
    monkeypatch.setattr(painter, "load_stainer", None)
    assert fovs(stain().skipped) == [1, 2, 3, 4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_plate_can_go_to_any_address(stain, tmp_path, kind):
    address = {"file": f"file://{tmp_path}/elsewhere", "memory": f"memory://{tmp_path.name}"}[kind]
    assert fovs(stain(out=address).painted) == [1, 2, 3, 4, 5]
    assert fovs(stain(out=address).skipped) == [1, 2, 3, 4, 5]
    stain()
    files, root = fsspec.url_to_fs(address)
    painted = {path.removeprefix(root).lstrip("/"): path for path in files.find(root)}
    assert {
        name: files.cat_file(path) for name, path in painted.items() if name.endswith(".tif")
    } == images(tmp_path / "out")


@pytest.mark.slow
def test_a_plate_is_finished_in_the_arithmetic_it_was_begun_in(stain, tmp_path):
    """Another machine, or the same on a busier day, may be faster in the other."""

    class Other(Here):
        def fastest(self) -> str:
            return "32" if began == "bf16" else "bf16"

    with pytest.raises(KeyboardInterrupt):
        stain(LeavesEarly(2, KeyboardInterrupt()))
    began = json.loads((tmp_path / "out" / "stained.json").read_text())["precision"]
    assert fovs(stain(Other()).painted) == [3, 4, 5]
    stain(out=str(tmp_path / "at once"), precision=began)
    assert images(tmp_path / "out") == images(tmp_path / "at once")
    with pytest.raises(PlateError, match=ANOTHER):
        stain(precision=Other().fastest())


@pytest.mark.slow
def test_a_plate_that_an_older_version_began_goes_on(stain, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        stain(LeavesEarly(2, KeyboardInterrupt()))
    path = tmp_path / "out" / "stained.json"
    begun = json.loads(path.read_text())
    for name in ("normalisation", "started_from", "any_planes"):  # which format 5 did not say
        del begun["bundle"][name]
    path.write_text(json.dumps(begun | {"bundle": begun["bundle"] | {"format": 5}}))
    assert fovs(stain().painted) == [3, 4, 5]

    begun["bundle"]["checksums"]["bundle/weights"] = "of another model"
    path.write_text(json.dumps(begun))
    with pytest.raises(PlateError, match=ANOTHER):
        stain()


@pytest.mark.slow
def test_a_plate_in_int8_is_compiled_and_finished_so(stain, tmp_path):
    model = str(make_model(tmp_path / "model", make_int8_bundle(tmp_path / "bundle")))
    with pytest.raises(KeyboardInterrupt):
        stain(LeavesEarly(2, KeyboardInterrupt()), model=model, precision="int8")
    begun = json.loads((tmp_path / "out" / "stained.json").read_text())
    assert (begun["precision"], begun["compiled"]) == ("int8", True)
    [network] = begun["bundle"]["networks"].values()
    assert network.keys() == {"paints", "sees_mask"}  # as plates say that were begun without ranges
    assert fovs(stain(model=model).painted) == [3, 4, 5]
    stain(model=model, precision="int8", out=str(tmp_path / "at once"))
    assert images(tmp_path / "out") == images(tmp_path / "at once")
    with pytest.raises(ConfigError, match="int8 takes OpenVINO on a CPU"):
        stain(model=model, precision="int8", compile="false", out=str(tmp_path / "eager"))


def test_int8_is_refused_for_a_model_without_ranges(stain):
    with pytest.raises(ConfigError, match="register it again if it is old"):
        stain(precision="int8")


@pytest.fixture(scope="module")
def compiled(plate: Path, compact_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plate as compiled networks paint it."""
    out = tmp_path_factory.mktemp("compiled")
    settings = {"plate": plate, "model": str(compact_model), "out": str(out), "compile": "true"}
    stain_plate(StainConfig(**settings), Here())
    return out


@pytest.fixture
def nearly_compiled(compiled: Path, tmp_path: Path) -> Path:
    """A copy of it that lacks a field."""
    out = shutil.copytree(compiled, tmp_path / "out")
    for path in out.glob("20x_images/*F002*"):
        path.unlink()
    return out


@pytest.mark.slow
def test_what_is_compiled_stays_so(stain, compiled, nearly_compiled):
    assert fovs(stain().painted) == [2]
    assert images(nearly_compiled) == images(compiled)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("manifest.json", "{", "is damaged"),
        ("stained.json", "[1]", "was written by another program"),
    ],
)
def test_a_folder_with_files_of_other_kinds_is_refused(stain, tmp_path, name, content, said):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(content)
    with pytest.raises(PlateError, match=f"{name} in .* {said}.*-P out=<folder>"):
        stain()
    assert (tmp_path / "out" / name).read_text() == content


def link(path: Path, to: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to)
    return path


def plate_of_links(plate: Path, folder: Path, *, whole: bool) -> Path:
    """A plate whose folder of images is a link to the *plate*'s, or holds links to its images."""
    made = folder / "links"
    if whole:
        link(made / "20x_images", plate / "20x_images")
    else:
        for path in (plate / "20x_images").iterdir():
            link(made / "20x_images" / path.name, path)
    return made


# Ways into the raw plate: the setting `out` for a plate, the scratch folder, and the plate's links.
WAYS_IN = {
    "inside": lambda plate, tmp: plate / "stained",
    "itself": lambda plate, tmp: plate,
    "its images": lambda plate, tmp: plate / "20x_images",
    "by a detour": lambda plate, tmp: f"{plate}/../{plate.name}",
    "by an address": lambda plate, tmp: f"file://{plate}/stained",
    "by the root of this process": lambda plate, tmp: f"/proc/self/root{plate}/stained",
    "by a link": lambda plate, tmp: link(tmp / "link", plate.parent) / plate.name,
    "by a link to its images": lambda plate, tmp: link(tmp / "link", plate / "20x_images"),
    "a folder in it that is a link": lambda plate, tmp: (
        link(tmp / "out" / "20x_images", plate / "20x_images").parent
    ),
    "a manifest that is a link": lambda plate, tmp: (
        link(tmp / "out" / "manifest.json", plane(plate, 1, 1)).parent
    ),
    "an origin that is a link": lambda plate, tmp: (
        link(tmp / "out" / "stained.json", plane(plate, 1, 1)).parent
    ),
    "an image that is a link": lambda plate, tmp: (
        link(
            tmp / "out" / stained_name(scan_plate(plate, ()).fields[3], "A2"), plane(plate, 1, 1)
        ).parent.parent
    ),
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_the_raw_plate_is_never_written_to(stain, plate, tmp_path, way):
    before = everything(plate)
    out = WAYS_IN[way](plate, tmp_path)
    with pytest.raises(OutputError, match=r"is never written to|is a link.*-P out=<folder>"):
        stain(out=str(out))
    assert everything(plate) == before


@pytest.mark.parametrize("whole", [True, False])
def test_what_a_plate_of_links_leads_to_is_never_written_to(stain, plate, tmp_path, whole):
    before = everything(plate)
    linked = plate_of_links(plate, tmp_path, whole=whole)
    for out in (plate, linked, plate / "20x_images"):
        with pytest.raises(OutputError, match="is never written to"):
            stain(plate=linked, out=str(out))
    assert everything(plate) == before


@pytest.mark.slow
def test_a_hard_link_to_the_plate_is_replaced_and_not_written_through(stain, plate, tmp_path):
    before = everything(plate)
    stain()
    name = stained_name(scan_plate(plate, ()).fields[0], "A2")
    (tmp_path / "out" / name).unlink()
    os.link(plane(plate, 1, 1), tmp_path / "out" / name)
    with tifffile.TiffFile(tmp_path / "out" / name):
        pass  # a whole image of the right size, which nobody painted: it counts as there
    (tmp_path / "out" / "manifest.json").unlink()
    assert len(stain().painted) == 5
    assert everything(plate) == before
    assert not (tmp_path / "out" / name).samefile(plane(plate, 1, 1))


@pytest.mark.slow
def test_a_link_that_appears_while_the_plate_is_painted_is_not_followed(stain, plate, tmp_path):
    before = everything(plate)

    class Linking(Here):
        def paint(
            self, assignment: Assignment, fields: Sequence[FieldFiles]
        ) -> Iterator[FieldOutcome]:
            for outcome in super().paint(assignment, fields):
                (tmp_path / "out" / "20x_images").rename(tmp_path / "moved")
                link(tmp_path / "out" / "20x_images", plate / "20x_images")
                yield outcome

    with pytest.raises(OutputError, match="20x_images is a link"):
        stain(Linking())
    assert everything(plate) == before


def test_a_link_to_a_folder_elsewhere_is_where_the_plate_goes(stain, tmp_path):
    (tmp_path / "disk").mkdir()
    stain(LeavesEarlyQuietly(1), out=str(link(tmp_path / "link", tmp_path / "disk")))
    assert len(images(tmp_path / "disk")) == 3


def test_two_plates_at_once_in_one_folder_are_not_mixed(stain, plate, tmp_path):
    """The second claims the folder while the first has not painted anything."""
    other = shutil.copytree(plate, tmp_path / "other")

    class Overtaken(Here):
        def paint(
            self, assignment: Assignment, fields: Sequence[FieldFiles]
        ) -> Iterator[FieldOutcome]:
            stain(LeavesEarlyQuietly(1), plate=other)
            yield from super().paint(assignment, fields)

    with pytest.raises(OutputError, match=r"another command has begun to stain into .* meanwhile"):
        stain(Overtaken())
    assert json.loads((tmp_path / "out" / "stained.json").read_text())["plate"] == str(other)
    assert len(images(tmp_path / "out")) == 3
    assert list(entries(tmp_path / "out")) == ["20x B03 F001"]
    with pytest.raises(PlateError, match=ANOTHER):
        stain()


def test_images_that_nobody_knows_the_origin_of_are_refused(stain, plate, tmp_path):
    """They may be true stains of this plate."""
    name = tmp_path / "out" / stained_name(scan_plate(plate, ()).fields[0], "A2")
    name.parent.mkdir(parents=True)
    name.write_bytes(b"true")
    with pytest.raises(PlateError, match=r"A02Z01C02.tif and no stained.json .*-P out=<folder>"):
        stain()
    assert everything(tmp_path / "out") == {str(name.relative_to(tmp_path / "out")): b"true"}


def test_images_of_a_plate_of_another_name_bind_too(stain, plate, tmp_path):
    stain(LeavesEarlyQuietly(1))
    for path in (tmp_path / "out" / "20x_images").iterdir():
        path.rename(path.with_name(path.name.replace("AssayPlate", "Another")))
    renamed = shutil.copytree(plate, tmp_path / "renamed")
    with pytest.raises(PlateError, match=ANOTHER):
        stain(plate=renamed)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut to nothing", "cut", "of another size", "a pipe"])
def test_an_image_that_is_damaged_is_painted_again(stain, plate, tmp_path, damage):
    stain()
    before = images(tmp_path / "out")
    image = tmp_path / "out" / stained_name(scan_plate(plate, ()).fields[1], "A2")
    data = image.read_bytes()
    image.unlink()
    if damage == "a pipe":
        os.mkfifo(image)
    elif damage == "of another size":
        tifffile.imwrite(image, np.ones((64, 64), np.uint16))
    else:
        image.write_bytes(data[:-1] if damage == "cut" else b"")
    assert fovs(stain().painted) == [2]
    assert images(tmp_path / "out") == before


CONTENTS = [
    b"{",
    b"[1]",
    b'"text"',
    b"NaN",
    b"\xff\xfe\x00",
    b"[" * 200_000,
]
COUNT_FOR_NOTHING = [
    b"{}",
    b"null",
    b'{"claim": [1], "precision": {}, "compiled": null, "plate": NaN}',
    b'{"fields": [1]}',
    b'{"fields": {"20x B03 F001": 1, "20x B03 F002": {"status": [1]}}}',
]


@pytest.mark.slow
@pytest.mark.parametrize("content", [*CONTENTS, *COUNT_FOR_NOTHING])
@pytest.mark.parametrize("name", ["stained.json", "manifest.json"])
def test_a_file_of_any_content_ends_in_a_sentence_or_counts_for_nothing(
    stain, tmp_path, name, content
):
    stain(LeavesEarlyQuietly(2))
    (tmp_path / "out" / name).write_bytes(content)
    if name == "manifest.json" and content in COUNT_FOR_NOTHING:
        assert stain(LeavesEarlyQuietly(1)).skipped == []
        return
    with pytest.raises(PlateError, match=name):
        stain(LeavesEarlyQuietly(1))
    assert (tmp_path / "out" / name).read_bytes() == content


@pytest.mark.parametrize("name", ["stained.json", "manifest.json"])
def test_what_is_no_file_is_not_opened(stain, tmp_path, name):
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / name)
    with pytest.raises(OutputError, match="it is a FIFO, not a file"):
        stain()


@pytest.mark.slow
def test_a_detour_around_the_raw_plate_is_allowed(stain, plate, tmp_path):
    assert fovs(stain(out=f"{plate}/../beside").painted) == [1, 2, 3, 4, 5]


def test_a_plate_without_a_whole_field_is_recorded_field_by_field(stain, plate, tmp_path):
    broken = shutil.copytree(plate, tmp_path / "broken")
    for fov in range(1, 6):
        plane(broken, fov, 3).unlink()
    result = stain(plate=broken)
    assert (result.painted, len(result.problems)) == ([], 5)
    assert {entry["status"] for entry in entries(tmp_path / "out").values()} == {"failed"}


@pytest.mark.slow
def test_a_bad_field_that_is_removed_leaves_the_manifest(stain, plate, tmp_path):
    broken = shutil.copytree(plate, tmp_path / "broken")
    plane(broken, 2, 3).unlink()
    stain(plate=broken)
    assert "20x B03 F002" in entries(tmp_path / "out")
    for path in (broken / "20x_images").glob("*F002*"):
        path.unlink()
    assert fovs(stain(plate=broken).skipped) == [1, 3, 4, 5]
    assert list(entries(tmp_path / "out")) == [f"20x B03 F{fov:03d}" for fov in (1, 3, 4, 5)]


@pytest.mark.slow
def test_settings_bind_from_the_first_image_on(stain, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        stain(LeavesEarly(0, KeyboardInterrupt()), intensities="none")
    with pytest.raises(KeyboardInterrupt):
        stain(LeavesEarly(1, KeyboardInterrupt()), intensities="matching", tile_px=1088)
    for settings in ({"intensities": "none", "tile_px": 1088}, {"intensities": "matching"}):
        with pytest.raises(PlateError, match=ANOTHER):
            stain(**settings)
    assert fovs(stain(intensities="matching", tile_px=1088).painted) == [2, 3, 4, 5]


def test_auto_compiles_for_workers_of_sixteen_fields_where_it_is_possible():
    here, plain = Here().has_compiler, Plain().has_compiler
    wanted = [should_compile("auto", n_fields, here) for n_fields in (1, 15, 16, 3456)]
    assert wanted == [False, False, True, True]
    assert not should_compile("auto", 1000, plain)
    assert should_compile("true", 1, plain)  # `stain_plate` says what to install
    assert not should_compile("false", 3456, here)


def test_a_crew_is_not_asked_for_a_compiler_that_would_not_be_used():
    """A cluster starts a process to answer."""
    for wish, n_fields in (("auto", 15), ("false", 3456)):
        assert not should_compile(wish, n_fields, lambda: pytest.fail("asked"))


class Plain(Here):
    """Without a compiler."""

    def has_compiler(self) -> bool:
        return False


def test_what_cannot_be_compiled_here_is_said_before_anything_is_claimed(stain, tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"pip install \"adipocyte\[openvino\]\", or continue with -P compile=false",
    ):
        stain(Plain(), compile="true")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_was_compiled_cannot_be_finished_without_a_compiler(stain, nearly_compiled):
    before = images(nearly_compiled)
    with pytest.raises(
        ConfigError,
        match=r"openvino\]\", or name another folder with -P out=<folder>: this one was begun so",
    ):
        stain(Plain())
    assert images(nearly_compiled) == before
