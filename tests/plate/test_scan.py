"""A scan finds what a plate holds, whatever wrote it, and reports all its problems at once."""

import threading
import time
from io import BufferedReader
from pathlib import Path

import numpy as np
import pytest
import tifffile

from adipocyte.domain import TARGETS, FieldKey
from adipocyte.errors import PlateError
from adipocyte.plate import tiff
from adipocyte.plate.fields import RawField, read_field, write_field
from adipocyte.plate.names import ImageName
from adipocyte.plate.problems import problem_table
from adipocyte.plate.scan import scan_plate
from adipocyte.plate.tiff import encode_stack, write_image

SHAPE = (8, 9)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 65536, shape, dtype=np.uint16)


def add_field(
    plate, fov: int, n_z: int = 7, well: str = "B03", magnification: int = 20
) -> RawField:
    targets = dict(zip(TARGETS, noise(3, *SHAPE, seed=100 + fov), strict=True))
    field = RawField(noise(n_z, *SHAPE, seed=fov), targets)
    write_field(plate, FieldKey(magnification, well, fov), field)
    return field


@pytest.fixture
def plate(tmp_path):
    """A raw plate of three whole fields of 8 x 9 pixels."""
    for fov in (1, 2, 3):
        add_field(tmp_path, fov)
    return tmp_path


def file_of(plate, fov: int, ending: str):
    (path,) = (plate / "20x_images").glob(f"*F{fov:03d}*{ending}.tif")
    return path


def stacked(plate, fov: int, name: ImageName, **options: object) -> None:
    """Put the z-planes of a field into one file of that name."""
    paths = sorted((plate / "20x_images").glob(f"*F{fov:03d}*C04.tif"))
    stack = np.stack([tifffile.imread(path) for path in paths])
    for path in paths:
        path.unlink()
    tifffile.imwrite(plate / "20x_images" / str(name), stack, photometric="minisblack", **options)


def brightfield(fov: int, z_plane: int | None) -> ImageName:
    return ImageName(well="B03", fov=fov, action=4, z_plane=z_plane, channel=4)


def found(plate) -> list[tuple[str, str, str]]:
    return [
        (problem.where, problem.found, problem.remedy) for problem in scan_plate(plate).problems
    ]


# What it takes


@pytest.mark.parametrize("name", [brightfield(2, None), brightfield(2, 1)], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ome": True},
        {"bigtiff": True, "compression": "zstd"},
        {"compression": "lzw"},
        {"truncate": True},
        {"truncate": True, "imagej": True},
    ],
    ids=str,
)
def test_a_field_may_be_one_stack_and_others_single_planes(plate, name, options):
    before = {files.key: read_field(files, TARGETS) for files in scan_plate(plate).fields}
    stacked(plate, 2, name, **options)
    scanned = scan_plate(plate)
    assert (scanned.problems, scanned.n_z_planes) == ((), 7)
    for files in scanned.fields:
        np.testing.assert_array_equal(read_field(files, TARGETS).planes, before[files.key].planes)
    assert [len(files.planes) for files in scanned.fields] == [7, 1, 7]


def test_a_set_of_ome_tiffs_is_a_field(tmp_path):
    """A file for each channel, all described by one XML: brightfield holds 7 of its planes."""
    before = add_field(tmp_path, 1)
    stacked(tmp_path, 1, brightfield(1, None))
    place = "<TiffData FirstC='{}' FirstZ='{}' IFD='{}' PlaneCount='1'><UUID>{}</UUID></TiffData>"
    data = [place.format(3, z, z, "C04") for z in range(7)]
    data += [place.format(c, 0, 0, f"C{c + 1:02d}") for c in range(3)]
    xml = (
        "<OME xmlns='http://www.openmicroscopy.org/Schemas/OME/2016-06' UUID='{}'><Image><Pixels "
        "DimensionOrder='XYZCT' Type='uint16' SizeX='9' SizeY='8' SizeZ='7' SizeC='4' SizeT='1'>"
        + "".join(data)
        + "</Pixels></Image></OME>"
    )
    for path in (tmp_path / "20x_images").iterdir():
        options = {"description": xml.format(path.stem[-3:]), "metadata": None}
        tifffile.imwrite(path, tifffile.imread(path), photometric="minisblack", **options)
    scanned = scan_plate(tmp_path)
    assert (scanned.problems, scanned.n_z_planes) == ((), 7)
    after = read_field(scanned.fields[0], TARGETS)
    np.testing.assert_array_equal(after.planes, before.planes)
    for target in TARGETS:
        np.testing.assert_array_equal(after.targets[target], before.targets[target])


def test_a_stain_with_planes_behind_it_is_told(plate):
    path = file_of(plate, 2, "A02Z01C02")
    tifffile.imwrite(path, noise(3, *SHAPE), photometric="minisblack", truncate=True)
    [(where, told, remedy)] = found(plate)
    assert (where, remedy) == ("20x B03 F002", "export one plane to a file")
    assert told.endswith("A02Z01C02.tif has 3 pages")


@pytest.mark.parametrize("n_z", [1, 3, 12])
@pytest.mark.parametrize("as_stack", [False, True])
def test_the_number_of_planes_is_that_of_the_plate(tmp_path, n_z, as_stack):
    field = add_field(tmp_path, 1, n_z=n_z)
    if as_stack:
        stacked(tmp_path, 1, brightfield(1, None))
    scanned = scan_plate(tmp_path)
    assert (scanned.n_z_planes, scanned.problems) == (n_z, ())
    np.testing.assert_array_equal(read_field(scanned.fields[0], ()).planes, field.planes)


def test_eight_bits_are_counts_like_sixteen(tmp_path):
    write_field(tmp_path, FieldKey(20, "B03", 1), RawField(noise(7, *SHAPE), {}))
    for path in (tmp_path / "20x_images").iterdir():
        tifffile.imwrite(path, (tifffile.imread(path) >> 8).astype(np.uint8))
    planes = read_field(scan_plate(tmp_path).fields[0], ()).planes
    assert planes.dtype == np.uint16
    np.testing.assert_array_equal(planes, noise(7, *SHAPE) >> 8)


def test_any_prefix_names_a_plate_and_either_spelling_of_tiff(plate):
    for path in (plate / "20x_images").iterdir():
        name = path.name.replace("AssayPlate_Greiner_#655090", "My screen (2)")
        path.rename(path.with_name(name).with_suffix(".TIFF"))
    scanned = scan_plate(plate)
    assert (len(scanned.fields), scanned.problems) == (3, ())
    assert scanned.fields[0].plate == "My screen (2)"


def test_files_of_no_field_are_counted_and_named(plate):
    other_channel = file_of(plate, 1, "A01Z01C01").name.replace("C01", "C05")
    for name in ("thumbnail.tif", "notes.txt", ".DS_Store", other_channel):
        (plate / "20x_images" / name).write_bytes(b"nothing")
    (plate / "exports").mkdir()
    scanned = scan_plate(plate)
    assert sorted(path.name for path in scanned.ignored) == sorted(
        [".DS_Store", other_channel, "notes.txt", "thumbnail.tif"]
    )
    assert (scanned.problems, len(scanned.fields)) == ((), 3)


@pytest.mark.parametrize(
    "folder",
    [
        ".Trash-1000",
        "$RECYCLE.BIN",
        "@eaDir",
        "#recycle",
        "~snapshot",
        "__MACOSX",
        "System Volume Information",
        "lost+found",
        "Thumbnails",
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_what_disks_and_desktops_leave_stops_nothing(plate, folder, inside):
    images = plate / "20x_images"
    rubbish = (images if inside else plate) / folder
    rubbish.mkdir()
    for path in list(images.glob("*.tif")):
        (rubbish / path.name).write_bytes(b"thrown away")
        (images / f"._{path.name}").write_bytes(b"\0\5\x16\7Mac OS X")
    (images / f"~${path.name}").write_bytes(b"open in a program")
    (images / path.name.replace("B03", "B04")).symlink_to("gone.tif")
    (images / path.name.replace("B03", "B05")).symlink_to(path.name.replace("B03", "B05"))
    (plate / "loop").symlink_to(plate / "loop")
    (plate / "itself").symlink_to(plate, target_is_directory=True)
    scanned = scan_plate(plate)
    assert (scanned.problems, len(scanned.fields)) == ((), 3)
    assert len(scanned.ignored) >= 30 + 3


@pytest.mark.parametrize(
    ("change", "well"),
    [
        (lambda name: name.replace("_B03_", "_b03_"), "B03"),
        (lambda name: name.replace("_B03_", "_AA03_"), "AA03"),
        (lambda name: name.replace("_B03_", "_Q05_"), "Q05"),
        (lambda name: name.replace("_B03_", "_B3_"), "B03"),
        (lambda name: name.replace(".tif", ".Tif"), "B03"),
        (lambda name: name.replace(".tif", ".ome.tiff"), "B03"),
        (lambda name: name.replace("T0001F00", "t1f"), "B03"),
        (lambda name: name.replace("A04Z0", "A04Z"), "B03"),
        (lambda name: name.lower(), "B03"),
    ],
)
def test_names_that_can_be_meant_only_one_way_are_taken(plate, change, well):
    for path in list((plate / "20x_images").iterdir()):
        path.rename(path.with_name(change(path.name)))
    (plate / "20x_images").rename(plate / "20X_Images")
    scanned = scan_plate(plate)
    assert (scanned.problems, scanned.n_z_planes) == ((), 7)
    assert [files.key for files in scanned.fields] == [FieldKey(20, well, fov) for fov in (1, 2, 3)]
    for files in scanned.fields:
        planes = read_field(files, TARGETS).planes
        np.testing.assert_array_equal(planes, noise(7, *SHAPE, seed=files.key.fov))


@pytest.mark.parametrize(
    "name",
    [
        "AssayPlate_AZ03_T0001F001L01A04Z01C04.tif",
        "AssayPlate_3B_T0001F001L01A04Z01C04.tif",
        "AssayPlate_B03_T0001F001L01A04Z01C04 - Copy.tif",
        "AssayPlate_B03_T0001F001L01A04Z01C04 (1).tif",
    ],
)
def test_names_that_are_nearly_an_images_are_told(plate, name):
    (plate / "20x_images" / name).write_bytes(b"an image, perhaps")
    [(where, told, remedy)] = found(plate)
    assert where == "20x_images/"
    assert told == f"1 files are named nearly like an image, but not quite: {name}"
    assert "docs/data.md" in remedy
    assert len(scan_plate(plate).fields) == 3


def test_several_plates_in_a_folder_are_told_apart_by_name(tmp_path):
    for number, well in enumerate(("B03", "B04"), start=1):
        add_field(tmp_path, number, well=well)
        for path in list((tmp_path / "20x_images").glob(f"*_{well}_*")):
            path.rename(
                path.with_name(path.name.replace("AssayPlate_Greiner_#655090", f"P {number}"))
            )
    with pytest.raises(PlateError) as caught:
        scan_plate(tmp_path)
    assert "20x_images holds images of 2 plates" in str(caught.value)
    assert "P 1 (10 images), P 2 (10 images): take one with -P 'plate_name=P 1'" in str(
        caught.value
    )
    scanned = scan_plate(tmp_path, plate_name="P 2")
    assert ([files.key.well for files in scanned.fields], scanned.problems) == (["B04"], ())
    with pytest.raises(PlateError, match=r"no image is of a plate named 'P 3': there are P 1"):
        scan_plate(tmp_path, plate_name="P 3")


@pytest.mark.parametrize("first", [0, 1, 3, 12])
def test_planes_count_by_their_order_whatever_number_is_the_first(tmp_path, first):
    for fov in (1, 2, 3):
        add_field(tmp_path, fov)
        for path in sorted((tmp_path / "20x_images").glob(f"*F{fov:03d}*C04.tif"), reverse=True):
            z = int(path.name[-9:-7]) - 1 + first + 10 * (fov == 3)
            path.rename(path.with_name(f"{path.name[:-10]}z{z:02d}C04.tif"))
    for path in list((tmp_path / "20x_images").glob("*z*")):
        path.rename(path.with_name(path.name.replace("z", "Z")))
    scanned = scan_plate(tmp_path)
    assert (scanned.problems, scanned.n_z_planes) == ((), 7)
    for files in scanned.fields:
        planes = read_field(files, TARGETS).planes
        np.testing.assert_array_equal(planes, noise(7, *SHAPE, seed=files.key.fov))
    file_of(tmp_path, 1, f"Z{first + 2:02d}C04").unlink()
    assert found(tmp_path)[0][:2] == ("20x B03 F001", f"lacks Z{first + 2}")


def test_stains_at_several_z_are_told_and_one_is_taken(plate):
    for path in list((plate / "20x_images").glob("*Z01C0[123].tif")):
        for z in (2, 3):
            write_image(
                path.with_name(path.name.replace("Z01", f"Z{z:02d}")), noise(*SHAPE, seed=z)
            )
    problems = found(plate)
    assert len(problems) == 9
    assert problems[0][1:] == (
        "A1 has 3 z-planes, one is due",
        "take one with -P stain_z=2, or keep one",
    )
    scanned = scan_plate(plate, stain_z=3)
    assert (len(scanned.fields), scanned.problems) == (3, ())
    stains = read_field(scanned.fields[0], TARGETS).targets
    np.testing.assert_array_equal(stains["A2"], noise(*SHAPE, seed=3))
    assert scan_plate(plate, stain_z=4).targets == ()


def test_a_file_of_another_time_is_of_a_field_of_its_own(plate):
    path = file_of(plate, 1, "A02Z01C02")
    write_image(path.with_name(path.name.replace("T0001", "T0002")), noise(*SHAPE))
    told = found(plate)
    assert {where for where, _, _ in told} == {"20x B03 F001 T0002"}
    assert "_B03_T0002F001L01A04Z01C04.tif to" in told[0][2]


def test_a_stain_that_is_not_asked_for_is_not_looked_at(plate):
    file_of(plate, 1, "C01").write_bytes(b"")
    assert len(scan_plate(plate, targets=()).problems) == 0
    assert len(scan_plate(plate, targets=("A2",)).problems) == 0
    assert len(scan_plate(plate).problems) == 1


def test_a_stain_that_no_field_has_is_none_of_the_plates(plate):
    for path in (plate / "20x_images").glob("*C03.tif"):
        path.unlink()
    scanned = scan_plate(plate)
    assert (scanned.targets, scanned.problems) == (("A1", "A2"), ())


# What it refuses at once


def test_a_folder_that_is_not_there_is_refused_with_the_next_command(tmp_path):
    with pytest.raises(
        PlateError,
        match=r"no plate at .*gone.*20x_images/.*-P plate=<folder>.*mlflow run \. -e simulate",
    ):
        scan_plate(tmp_path / "gone")


def test_a_folder_without_images_is_refused_with_the_layout(tmp_path):
    (tmp_path / "20x_images").mkdir()
    with pytest.raises(
        PlateError, match=r"holds no image .*20x_images/.*named like AssayPlate.*_B03_.*\.tif"
    ):
        scan_plate(tmp_path)


def test_one_folder_of_a_plate_given_as_the_plate_is_refused_with_what_is_wrong(plate):
    with pytest.raises(
        PlateError,
        match=r"20x_images/ 30 images whose magnification cannot be told.*put them into a folder",
    ):
        scan_plate(plate / "20x_images")


# What it tells


def test_everything_wrong_is_told_at_once_with_the_field_and_what_to_do(plate):
    for fov in range(4, 12):
        add_field(plate, fov)
    file_of(plate, 2, "Z04C04").unlink()
    file_of(plate, 2, "Z06C04").unlink()
    file_of(plate, 3, "A03Z01C03").unlink()
    file_of(plate, 4, "Z02C04").write_bytes(b"")
    file_of(plate, 5, "A02Z01C02").write_bytes(file_of(plate, 5, "A02Z01C02").read_bytes()[:-20])
    write_image(file_of(plate, 6, "Z07C04"), noise(9, 8))
    tifffile.imwrite(file_of(plate, 7, "A01Z01C01"), noise(*SHAPE).astype(np.uint8))
    write_image(
        plate / "20x_images" / file_of(plate, 8, "A02Z01C02").name.replace("A02", "A01"),
        noise(*SHAPE),
    )
    write_image(plate / "20x_images" / str(brightfield(9, 8)), noise(*SHAPE))
    tifffile.imwrite(file_of(plate, 10, "Z03C04"), noise(*SHAPE).astype(np.float32))
    add_field(plate, 1, well="C02", magnification=60)
    (plate / "60x_images").rename(plate / "sixty")
    scanned = scan_plate(plate)
    assert [files.key.fov for files in scanned.fields] == [1, 11]
    told = {problem.where: (problem.found, problem.remedy) for problem in scanned.problems}
    expected = {
        "sixty/": (
            "10 images whose magnification cannot be told",
            "20x_images, say, inside the plate",
        ),
        "20x B03 F002": ("lacks Z4, Z6", "F002L01A04Z04C04.tif to"),
        "20x B03 F003": ("has no A3 image, which others have", "F003L01A03Z01C03.tif to"),
        "20x B03 F004": ("F004L01A04Z02C04.tif is empty (0 bytes)", "it must be a TIFF"),
        "20x B03 F005": ("F005L01A02Z01C02.tif is cut short", "copy it again, whole"),
        "20x B03 F006": ("Z07C04.tif is (9, 8), but ", "all images of a field must have one size"),
        "20x B03 F007": ("C01.tif is uint8, others uint16", "export all images alike"),
        "20x B03 F008": (
            "A02Z01C02.tif are the same image",
            "keep one",
        ),
        "20x B03 F009": (
            "Z08C04.tif is a plane beyond Z1…Z7, which others have",
            "move it elsewhere",
        ),
        "20x B03 F010": ("pixels of type float32", "do not rescale"),
    }
    assert told.keys() == expected.keys()
    for where, (what, remedy) in expected.items():
        assert what in told[where][0]
        assert remedy in told[where][1]
    table = problem_table(scanned.problems).splitlines()
    assert table[0].split() == ["where", "found", "what", "to", "do"]
    assert len(table) == 1 + len(expected)


@pytest.mark.parametrize(
    ("n_pages", "what"),
    [
        (6, "has 6 z-planes, others 7"),
        (9, "has 9 z-planes, others 7"),
        (1, "has 1 z-planes, others 7"),
        (100, "more than 99 pages"),
    ],
)
def test_a_stack_of_another_number_of_planes_is_told(plate, n_pages, what):
    stacked(plate, 2, brightfield(2, None))
    (plate / "20x_images" / str(brightfield(2, None))).write_bytes(
        encode_stack(noise(n_pages, *SHAPE))
    )
    [(where, told, _)] = found(plate)
    assert where == "20x B03 F002"
    assert what in told


def test_a_stack_beside_single_planes_is_told(plate):
    (plate / "20x_images" / str(brightfield(2, None))).write_bytes(encode_stack(noise(7, *SHAPE)))
    [(where, told, remedy)] = found(plate)
    assert (where, remedy) == ("20x B03 F002", "move it elsewhere")
    assert told.endswith("is a stack beside single planes")


def test_a_plane_of_several_pages_is_told(plate):
    file_of(plate, 2, "Z03C04").write_bytes(encode_stack(noise(2, *SHAPE)))
    [(_, told, remedy)] = found(plate)
    assert told.endswith("Z03C04.tif has 2 pages")
    assert remedy == "export one plane to a file"


@pytest.mark.parametrize("options", [{"ome": True}, {"imagej": True}], ids=str)
def test_a_stack_of_planes_and_channels_is_told_by_its_axes(plate, options):
    stacked(plate, 2, brightfield(2, None))
    path = plate / "20x_images" / str(brightfield(2, None))
    axes = "ZCYX"  # ImageJ's own order
    tifffile.imwrite(path, noise(7, 2, *SHAPE), metadata={"axes": axes}, **options)
    [(_, told, remedy)] = found(plate)
    assert "7 along depth" in told
    assert "2 along channel" in told
    assert "export each channel by itself" in remedy


def test_a_plate_of_many_problems_shows_them_all(tmp_path):
    for fov in range(1, 61):
        write_image(tmp_path / "20x_images" / str(brightfield(fov, 2)), noise(*SHAPE))
        write_image(tmp_path / "20x_images" / str(brightfield(fov, 4)), noise(*SHAPE))
    assert len(problem_table(scan_plate(tmp_path).problems).splitlines()) == 1 + 60


def test_a_stain_that_few_fields_have_is_none_of_the_plates(plate):
    for path in (plate / "20x_images").glob("*F00[12]*C03.tif"):
        path.unlink()
    scanned = scan_plate(plate)
    assert (scanned.targets, scanned.problems, len(scanned.fields)) == (("A1", "A2"), (), 3)


def test_a_folder_that_may_not_be_read_is_told(plate, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(type(plate), "iterdir", refuse)  # root may read any folder
    with pytest.raises(PlateError, match=r"cannot be looked into \(Permission denied\)"):
        scan_plate(plate)


def test_a_disk_that_answers_late_is_asked_for_several_files_at_once(tmp_path, monkeypatch):
    for fov in range(1, 21):
        write_field(tmp_path, FieldKey(20, "B03", fov), RawField(noise(7, 8, 9), {}))
    at_once = scan_plate(tmp_path, ())
    opened, askers = tiff.open_regular, set()

    def late(path: Path) -> BufferedReader:
        askers.add(threading.get_ident())
        time.sleep(0.003)
        return opened(path)

    monkeypatch.setattr(tiff, "open_regular", late)
    assert scan_plate(tmp_path, ()) == at_once
    assert len(askers) > 2
