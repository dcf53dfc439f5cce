"""A plate of any layout is scanned to the fields that it would have in the challenge's."""

import re
import shutil

import numpy as np
import pytest
import zarr

from adipocyte.domain import TARGETS, UM_PER_PX, FieldKey
from adipocyte.errors import ConfigError, PlateError
from adipocyte.plate.fields import RawField, read_field, stained_name, write_field
from adipocyte.plate.scan import Plate, scan_plate
from adipocyte.plate.stains import list_stains
from adipocyte.plate.tiff import encode_image, read_image
from adipocyte.plate.understood import understood_table
from adipocyte.store.writer import describe_plates
from adipocyte.store.writer import write_field as store_field
from tests.support import SHARED
from tests.support.layouts import PATTERN, SETTINGS, WRITERS, Fields, write_phenix

VENDORS = SHARED / "data" / "vendors"
YOKOGAWA = VENDORS / "yokogawa_cv8000" / "CV8000-Minimal-DataSet-2C-3W-4S-FP2-stack"
EXPORTED = VENDORS / "imagexpress" / "9987_Plate_3435"
DATABASE = VENDORS / "imagexpress" / "1well-3C-2S-Zmix-T"
real = pytest.mark.skipif(not VENDORS.is_dir(), reason=f"no {VENDORS}")


def fields_of(*wells: str, magnification: int = 20) -> Fields:
    """Two fields of noise, 8 x 9 pixels, in each well."""
    random = np.random.default_rng(0)
    return {
        FieldKey(magnification, well, fov): RawField(
            random.integers(0, 65536, (7, 8, 9), dtype=np.uint16),
            dict(zip(TARGETS, random.integers(0, 65536, (3, 8, 9), dtype=np.uint16), strict=True)),
        )
        for well in wells
        for fov in (1, 2)
    }


@pytest.fixture(params=WRITERS)
def layout(request):
    return request.param


@pytest.fixture
def plate(layout, tmp_path):
    return WRITERS[layout](tmp_path / "plate", fields_of("B03"))


def scan(layout, plate, **settings) -> Plate:
    return scan_plate(plate, **SETTINGS.get(layout, {}) | settings)


def test_every_layout_gives_the_fields_and_pixels_of_the_challenges(layout, tmp_path):
    fields = fields_of("B03", "AF48")
    for key, field in fields.items():
        write_field(tmp_path / "usual", key, field)
    usual = scan_plate(tmp_path / "usual")
    scanned = scan(layout, WRITERS[layout](tmp_path / "plate", fields))
    assert (scanned.problems, scanned.partial, scanned.n_z_planes) == ((), (), 7)
    assert scanned.targets == usual.targets == TARGETS
    assert [files.key for files in scanned.fields] == [files.key for files in usual.fields]
    for files in scanned.fields:
        np.testing.assert_array_equal(read_field(files, ()).planes, fields[files.key].planes)
        np.testing.assert_equal(read_field(files, TARGETS).targets, fields[files.key].targets)
    name = "20x_images/99_AF48_T0001F002L01A02Z01C02.tif"
    assert stained_name(scanned.fields[1], "A2") == name


def test_what_was_understood_is_a_table(layout, plate):
    table = understood_table(scan(layout, plate))
    assert re.search(rf"layout +{re.escape(layout)}\n", table)
    assert re.search(r"magnification +20x", table)
    assert re.search(r"wells +1: B03\n", table)
    assert re.search(r"fields +2 whole\n", table)
    assert re.search(r"channel +.*DAPI: A1 nuclei\n", table)
    assert len(re.findall(r"^channel", table, re.MULTILINE)) == 4
    if layout == "imagexpress":
        assert re.search(r"left alone +20 thumbnails: ", table)


def test_channels_are_named_by_number_or_name(layout, plate):
    last = {"imagexpress": "w4", "yokogawa": "C04", PATTERN: "tl-20"}.get(layout, "4")
    scanned = scan(layout, plate, channels=f"brightfield={last}, A1=BODIPY 493")
    assert (scanned.targets, scanned.problems) == (("A1",), ())
    truth = fields_of("B03")
    for files in scanned.fields:
        stain = read_field(files, ("A1",)).targets["A1"]
        np.testing.assert_array_equal(stain, truth[files.key].targets["A2"])


@pytest.mark.parametrize(
    ("channels", "found"),
    [
        ("brightfield=9", "no channel is '9'"),
        ("brightfield=Cy5", "no channel is 'Cy5'"),
        ("A1=DAPI", "channels names no brightfield"),
        ("brightfield=TL-20, A4=DAPI", "channels has 'A4=DAPI'"),
        ("brightfield=TL-20, A1=TL-20", "channels has 'A1=TL-20' beside another"),
        ("brightfield", "channels has 'brightfield'"),
    ],
)
def test_a_map_that_names_nothing_is_refused_with_the_channels(tmp_path, channels, found):
    plate = WRITERS["imagexpress"](tmp_path / "plate", fields_of("B03"))
    with pytest.raises(ConfigError, match=f"^{re.escape(found)}") as refusal:
        scan_plate(plate, channels=channels)
    assert "1 DAPI, 2 BODIPY 493, 3 CellTracker Deep Red, 4 TL-20" in refusal.value.remedy
    assert "-P 'channels=brightfield=4, A1=1, A2=2, A3=3'" in refusal.value.remedy


def test_channels_that_names_do_not_tell_are_refused_unless_no_stain_is_asked_for(tmp_path):
    plate = WRITERS["imagexpress"](tmp_path / "plate", fields_of("B03"))
    htd = plate / "99.HTD"
    htd.write_text(htd.read_text().replace("BODIPY 493", "FITC"))
    for path in plate.rglob("*_w2.TIF"):
        path.write_bytes(path.read_bytes().replace(b"BODIPY 493", b"FITC 493  "))
    with pytest.raises(PlateError, match="channels 2 FITC show cannot be told"):
        scan_plate(plate)
    assert len(scan_plate(plate, ()).fields) == 2
    htd.write_text(htd.read_text().replace("TL-20", "DIC"))
    for path in plate.rglob("*_w4.TIF"):
        path.write_bytes(path.read_bytes().replace(b"TL-20", b"DIC--"))
    with pytest.raises(PlateError, match=r"^no channel is brightfield"):
        scan_plate(plate, ())
    assert len(scan_plate(plate, (), channels="brightfield=4, A1=nothing").fields) == 2


def test_in_the_challenges_layout_channels_may_mean_something_else(tmp_path):
    fields = fields_of("B03")
    for key, field in fields.items():
        write_field(tmp_path, key, field)
    for path in list((tmp_path / "20x_images").glob("*C04.tif")):
        path.rename(path.with_name(path.name.replace("C04", "C05")))
    scanned = scan_plate(tmp_path, channels="brightfield=5, A2=1")
    assert (scanned.targets, scanned.problems, scanned.n_ignored) == (("A2",), (), 4)
    (tmp_path / "20x_images").rename(tmp_path / "mine")
    given = scan_plate(tmp_path / "mine", channels="brightfield=5", magnification=40)
    assert [files.key.magnification for files in given.fields] == [40, 40]
    (tmp_path / "mine").rename(tmp_path / "20x_images")
    stain = read_field(scanned.fields[0], ("A2",)).targets["A2"]
    np.testing.assert_array_equal(stain, fields[FieldKey(20, "B03", 1)].targets["A1"])


@pytest.mark.parametrize("magnification", [10, 100])
@pytest.mark.parametrize("layout", ["imagexpress", "yokogawa", "phenix"])
def test_any_objective_is_taken_as_the_plate_tells_or_as_is_given(layout, magnification, tmp_path):
    plate = WRITERS[layout](tmp_path / "plate", fields_of("B03", magnification=magnification))
    told = scan_plate(plate)
    assert {files.key.magnification for files in told.fields} == {magnification}
    assert {files.um_per_px for files in told.fields} == {0.325}
    assert f"{magnification}x, 0.325 µm per pixel" in understood_table(told)
    given = scan_plate(plate, magnification=20, um_per_px=0.65)
    assert [(files.key.magnification, files.um_per_px) for files in given.fields] == [
        (20, 0.65)
    ] * 2
    table = understood_table(given)
    assert f"taken as 20x as you say; the plate says {magnification}x" in table
    assert "pixels taken as 0.65 µm as you say; the plate says 0.325" in table


def test_an_objective_of_unknown_pixels_is_refused_until_they_are_given(tmp_path):
    for key, field in fields_of("B03", magnification=25).items():
        write_field(tmp_path, key, field, 0.26)
    scanned = scan_plate(tmp_path)  # the TIFFs tell
    assert {files.um_per_px for files in scanned.fields} == {0.26}
    assert scanned.understood.um_per_px == {25: 0.26}
    for path in tmp_path.rglob("*.tif"):
        path.write_bytes(encode_image(read_image(path)))
    with pytest.raises(PlateError, match=r"how large the pixels are at 25x: .*-P um_per_px="):
        scan_plate(tmp_path)
    assert scan_plate(tmp_path, um_per_px=0.3).understood.um_per_px == {25: 0.3}


def test_what_images_tell_is_overruled_by_what_is_given(tmp_path):
    for at, (key, field) in enumerate(fields_of("B03").items()):
        write_field(tmp_path, key, field, 0.325 * (1 + at))
    with pytest.raises(PlateError, match=r"pixels of 0\.325 µm .* 0\.65 µm"):
        scan_plate(tmp_path)
    given = scan_plate(tmp_path, um_per_px=0.325)
    assert {files.um_per_px for files in given.fields} == {0.325}
    table = understood_table(given)
    assert "pixels taken as 0.325 µm at 20x; files of images say 0.65" in table


def test_pixels_of_an_impossible_size_are_refused(tmp_path):
    plate = WRITERS["phenix"](tmp_path / "plate", fields_of("B03"))
    [index] = plate.rglob("Index*.xml")
    index.write_text(index.read_text().replace("3.25E-07", "3.25E-04"))
    with pytest.raises(PlateError, match=r"pixels are of 325 µm at 20x.*-P um_per_px=, up to 20"):
        scan_plate(plate)


def test_one_size_of_pixels_is_of_one_objective(tmp_path):
    for magnification in (10, 20):
        for key, field in fields_of("B03", magnification=magnification).items():
            write_field(tmp_path, key, field)
    with pytest.raises(PlateError, match="images at 10x and 20x, which have not one size"):
        scan_plate(tmp_path, um_per_px=0.5)


def test_two_layouts_in_a_folder_are_named_and_one_is_taken(tmp_path):
    plate = WRITERS["imagexpress"](tmp_path / "plate", fields_of("B03"))
    for key, field in fields_of("C02", "C03").items():
        write_field(plate, key, field)
    with pytest.raises(
        PlateError,
        match=r"has the layouts challenge and imagexpress: take one with -P layout=challenge",
    ):
        scan_plate(plate)
    assert len(scan_plate(plate, layout="imagexpress").fields) == 2
    assert len(scan_plate(plate, layout="challenge").fields) == 4
    shutil.rmtree(plate / "TimePoint_1")  # what is left of the other has no images
    assert len(scan_plate(plate).fields) == 4


@pytest.mark.parametrize("layout", ["yokogawa", "phenix", "ome-zarr"])
def test_the_challenges_images_beside_another_layouts_are_named(layout, tmp_path):
    plate = WRITERS[layout](tmp_path / "plate", fields_of("B03"))
    for key, field in fields_of("C02", "C03").items():
        write_field(plate, key, field)
    with pytest.raises(PlateError, match=f"has the layouts challenge and {layout}: take one"):
        scan_plate(plate)
    assert len(scan_plate(plate, (), layout=layout).fields) == 2
    assert len(scan_plate(plate, (), layout="challenge").fields) == 4


def test_several_time_points_are_fields_of_their_own(tmp_path):
    plate = WRITERS["imagexpress"](tmp_path / "plate", fields_of("B03"))
    shutil.copytree(plate / "TimePoint_1", plate / "TimePoint_2")
    scanned = scan_plate(plate)
    assert [files.key for files in scanned.fields] == [
        FieldKey(20, "B03", fov, time) for fov in (1, 2) for time in (1, 2)
    ]
    assert all(f"TimePoint_{files.key.time}/" in str(files.paths) for files in scanned.fields)
    assert re.search(r"times +2: 1, 2\nfields +4 whole", understood_table(scanned))
    alone = scan_plate(plate / "TimePoint_2")
    assert [str(files.key) for files in alone.fields] == ["20x B03 F001", "20x B03 F002"]
    assert "times" not in understood_table(alone)
    own = WRITERS[PATTERN](tmp_path / "own", fields_of("B03"))
    shutil.copytree(own / "20x", own / "20x_2")
    with pytest.raises(PlateError, match=r"magnification of .*20x_2.* cannot be told"):
        scan_plate(own, layout=PATTERN)


def test_pixels_of_two_sizes_are_refused_and_unusual_ones_noted(tmp_path):
    plate = WRITERS["imagexpress"](tmp_path / "plate", fields_of("B03"))
    small = [*plate.rglob("*_w3.TIF")]
    for path in small:
        path.write_bytes(path.read_bytes().replace(b"0.325", b"0.650"))
    with pytest.raises(PlateError, match=r"images at 20x have pixels of 0\.325 µm .* 0\.65 µm"):
        scan_plate(plate)
    assert len(scan_plate(plate, channels="brightfield=4, A1=1").fields) == 2
    for path in {*plate.rglob("*_w?.TIF")} - {*small}:
        path.write_bytes(path.read_bytes().replace(b"0.325", b"0.650"))
    table = understood_table(scan_plate(plate))
    assert "20x, 0.65 µm per pixel" in table
    assert "note           pixels of 0.65 µm at 20x, where 0.325 is usual" in table


def test_projections_beside_their_planes_are_passed_over(tmp_path):
    plate = WRITERS["imagexpress"](tmp_path / "plate", fields_of("B03"))
    for path in list((plate / "TimePoint_1" / "ZStep_1").glob("*_w4.TIF")):
        shutil.copy(path, plate / "TimePoint_1")
    scanned = scan_plate(plate)
    assert (scanned.problems, scanned.n_z_planes) == ((), 7)
    assert "2 projections of z-planes" in understood_table(scanned)


# Records of a Yokogawa


@pytest.fixture
def recorded(tmp_path):
    return WRITERS["yokogawa"](tmp_path / "plate", fields_of("B03", "B04"))


def test_a_record_without_its_file_and_a_file_without_a_record_are_told(recorded):
    (recorded / "99_B03_T0001F001L01A04Z03C04.tif").unlink()
    (recorded / "99_B04_T0001F002L01A02Z01C02.tif").unlink()
    stray = recorded / "99_B03_T0001F009L01A04Z03C04.tif"
    shutil.copy(recorded / "99_B03_T0001F002L01A04Z03C04.tif", stray)
    scanned = scan_plate(recorded)
    told = {problem.where: problem.found for problem in scanned.problems}
    assert told == {
        "MeasurementData.mlf": f"1 images have no record in it: {stray.name}",
        "20x B03 F001": "1 files that the instrument recorded are missing: "
        "99_B03_T0001F001L01A04Z03C04.tif",
        "20x B04 F002": "has no A2 image, though the instrument recorded "
        "99_B04_T0001F002L01A02Z01C02.tif",
    }
    assert [str(files.key) for files in scanned.fields] == ["20x B03 F002", "20x B04 F001"]
    assert [str(files.key) for files in scanned.partial] == ["20x B04 F002"]
    for path in recorded.glob("*C03.tif"):
        path.unlink()
    scanned = scan_plate(recorded)
    assert scanned.targets == ("A1", "A2")
    assert sum("no A3 image" in problem.found for problem in scanned.problems) == 4


BOMB = (
    '<!DOCTYPE a [<!ENTITY b "bang"><!ENTITY c "&b;&b;&b;&b;"><!ENTITY d SYSTEM '
    '"file:///etc/passwd">]><a>&c;&d;</a>'
)


@pytest.mark.parametrize("name", ["MeasurementData.mlf", "MeasurementDetail.mrf", "a.mes"])
@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda _: BOMB, "document type"),
        (lambda _: '<?xml version="1.0" encoding="none"?><a/>', "unknown encoding"),
        (lambda _: "<a>" * 100, "in each other"),
        (lambda _: f"<a>{'x' * 20_000}</a>", "characters"),
    ],
    ids=["cut", "bomb", "encoding", "deep", "long"],
)
def test_damaged_metadata_are_refused_with_their_file(recorded, name, damage, found):
    path = recorded / name
    path.write_text(damage(path.read_text(encoding="utf-8-sig")))
    with pytest.raises(PlateError, match=found) as refusal:
        scan_plate(recorded)
    assert str(path) in refusal.value.found


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ('bts:Row="2"', 'bts:Row="-2"', "whose Row is '-2'"),
        ('bts:Row="2"', 'bts:Row="33"', "of row 33 and column 3"),
        ("99_B03_T0001F001L01A04Z01C04.tif", "", "without a file's name"),
    ],
)
def test_a_record_of_no_image_is_refused(recorded, before, after, found):
    path = recorded / "MeasurementData.mlf"
    path.write_text(path.read_text(encoding="utf-8-sig").replace(before, after, 1))
    with pytest.raises(PlateError, match=f"MeasurementData.mlf has a record {re.escape(found)}"):
        scan_plate(recorded)


def test_a_pattern_and_opera_phenix_tell_times_apart(tmp_path):
    own = WRITERS[PATTERN](tmp_path / "own", fields_of("B03"))
    for path in list((own / "20x").iterdir()):
        shutil.copy(path, path.with_name(f"t7_{path.name}"))
        path.rename(path.with_name(f"t4_{path.name}"))
    pattern = "t{time}_" + PATTERN
    keys = [one.key for one in scan_plate(own, layout=pattern).fields]
    assert keys == [FieldKey(20, "B03", fov, time) for fov in (1, 2) for time in (4, 7)]
    phenix = WRITERS["phenix"](tmp_path / "phenix", fields_of("B03"))
    index = phenix / "Images" / "Index.xml"
    text = index.read_text()
    records = text[text.index("<Images>") + len("<Images>") : text.index("</Images>")]
    later = records.replace("<TimepointID>0<", "<TimepointID>1<").replace("sk1fk", "sk2fk")
    index.write_text(text.replace("</Images>", f"{later}</Images>"))
    for path in list(index.parent.glob("*.tiff")):
        shutil.copy(path, path.with_name(path.name.replace("sk1fk", "sk2fk")))
    scanned = scan_plate(phenix)
    assert scanned.problems == ()
    assert [str(one.key) for one in scanned.fields if one.key.fov == 1] == [
        "20x B03 F001",
        "20x B03 F001 T0002",
    ]


def test_times_are_told_apart_where_a_field_has_two_and_not_where_each_well_has_its_own(recorded):
    path = recorded / "MeasurementData.mlf"
    text = path.read_text(encoding="utf-8-sig")
    place = 'bts:Column="4" bts:TimePoint='
    path.write_text(text.replace(f'{place}"1"', f'{place}"2"'))
    scanned = scan_plate(recorded)
    assert {files.key.time for files in scanned.fields} == {1}
    assert len(scanned.fields) == 4
    lines = text.splitlines(keepends=True)
    again = [line.replace('bts:TimePoint="1"', 'bts:TimePoint="0"') for line in lines]
    again = [line.replace("_T0001F", "_T0000F") for line in again if "MeasurementRecord" in line]
    for image in list(recorded.glob("*_T0001F*.tif")):
        shutil.copy(image, image.with_name(image.name.replace("_T0001F", "_T0000F")))
    path.write_text("".join([*lines[:-1], *again, lines[-1]]))
    keys = [files.key for files in scan_plate(recorded).fields]
    assert len(keys) == 8
    assert {key.time for key in keys} == {1, 2}  # though they are counted from 0


def test_projections_of_a_yokogawa_are_channels_and_its_errors_are_noted(recorded):
    path = recorded / "MeasurementData.mlf"
    text = path.read_text(encoding="utf-8-sig")
    text = text.replace('bts:Ch="2"', 'bts:Ch="2" bts:ZImageProcessing="Maximum"')
    error = '<bts:MeasurementRecord bts:Type="ERR" bts:Row="2" bts:Column="3"/>'
    path.write_text(text.replace("</bts:MeasurementData>", f"{error}</bts:MeasurementData>"))
    table = understood_table(scan_plate(recorded))
    assert re.search(r"channel +2 BODIPY 493 Maximum: A2 lipid droplets\n", table)
    assert "note           1 errors that the instrument recorded\n" in table


def test_a_record_never_leads_out_of_the_plate(recorded, tmp_path):
    name = "99_B03_T0001F001L01A04Z01C04.tif"
    (recorded / name).rename(tmp_path / name)
    path = recorded / "MeasurementData.mlf"
    path.write_text(path.read_text(encoding="utf-8-sig").replace(name, f"..\\{name}"))
    [problem] = scan_plate(recorded).problems
    assert problem.found == f"1 files that the instrument recorded are missing: {name}"


def test_metaseries_with_entities_are_read_no_further(tmp_path):
    plate = WRITERS["imagexpress"](tmp_path / "plate", fields_of("B03"))
    for path in plate.rglob("*_w?.TIF"):
        path.write_bytes(path.read_bytes().replace(b"<MetaData>\n<prop", b"<MetaData>\n&d;op"))
    with pytest.raises(PlateError, match=r"cannot be told: give it with -P magnification=20"):
        scan_plate(plate)
    assert len(scan_plate(plate, magnification=20).fields) == 2


# The index of an Opera Phenix


def test_planes_that_lie_otherwise_apart_are_told(tmp_path):
    plate = WRITERS["phenix"](tmp_path / "plate", fields_of("B03", "B04"))
    assert "z-planes       7, 2 µm apart at 20x\n" in understood_table(scan_plate(plate))
    path = plate / "Images" / "Index.xml"
    before, after = path.read_text().split("<URL>r02c03f02", 1)
    for z in range(7, 0, -1):  # three times as far apart
        after = after.replace(f">{2e-6 * z:E}<", f">{6e-6 * z:E}<", 1)
    path.write_text(f"{before}<URL>r02c03f02{after}")
    [problem] = scan_plate(plate).problems
    assert problem.where == "20x B03 F002"
    assert problem.found == "its z-planes lie 6 µm apart, others 2 µm"


def test_the_form_of_harmony_5_is_read_like_the_later_ones(tmp_path):
    fields = fields_of("B03", "AF48")
    later = scan_plate(WRITERS["phenix"](tmp_path / "later", fields))
    plate = write_phenix(tmp_path / "plate", fields, version=5)
    for folder in (plate, plate / "Images"):
        scanned = scan_plate(folder)
        assert understood_table(scanned) == understood_table(later)
        for files in scanned.fields:
            np.testing.assert_array_equal(read_field(files, ()).planes, fields[files.key].planes)


def index_of(plate, before: str, after: str) -> None:
    """Replace text in the index of a plate."""
    path = plate / "Images" / "Index.xml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_pixels_of_two_sizes_in_the_channels_of_a_phenix_are_refused(tmp_path):
    plate = WRITERS["phenix"](tmp_path / "plate", fields_of("B03"))
    before = "<ChannelName>DAPI</ChannelName><ImageType>Signal</ImageType>"
    before += '<ChannelType>Fluorescence</ChannelType><ImageResolutionX Unit="m">3.25E-07'
    index_of(plate, before, before.replace("3.25", "6.5"))
    with pytest.raises(PlateError, match=r"images at 20x have pixels of 0\.325 µm .* 0\.65 µm"):
        scan_plate(plate)
    assert len(scan_plate(plate, ()).fields) == 2


def test_phase_contrast_is_not_taken_for_brightfield_though_its_light_is_transmitted(tmp_path):
    plate = WRITERS["phenix"](tmp_path / "plate", fields_of("B03"))
    light = "<IlluminationType>Transmitted</IlluminationType>"
    index_of(plate, "<ChannelType>Brightfield", f"{light}<ChannelType>Phase")
    index_of(plate, "TL-20", "Digital Phase Contrast")
    with pytest.raises(PlateError, match=r"^no channel is brightfield.*4 Digital Phase Contrast"):
        scan_plate(plate)
    assert len(scan_plate(plate, channels="brightfield=4").fields) == 2


def test_a_record_of_a_phenix_without_its_file_and_a_file_without_a_record_are_told(tmp_path):
    plate = WRITERS["phenix"](tmp_path / "plate", fields_of("B03", "B04"))
    name, other = "r02c03f01p03-ch4sk1fk1fl1.tiff", "r02c04f01p01-ch4sk1fk1fl1.tiff"
    (plate / "Images" / name).rename(tmp_path / name)
    index_of(plate, f"<URL>{name}", f"<URL>..\\..\\{name}")  # never leads out of the plate
    stray = plate / "Images" / "r02c03f09p01-ch4sk1fk1fl1.tiff"
    shutil.copy(plate / "Images" / other, stray)
    scanned = scan_plate(plate)
    assert {problem.where: problem.found for problem in scanned.problems} == {
        "Index.xml": f"1 images have no record in it: {stray.name}",
        "20x B03 F001": f"1 files that the instrument recorded are missing: {name}",
    }
    assert len(scanned.fields) == 3
    index_of(plate, f"<URL>{other}", f"<URL>Images/{other}")  # from the measurement's folder
    assert len(scan_plate(plate).fields) == 3


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("<Row>2</Row><Col>3</Col><FieldID>", "<Row>x</Row><FieldID>", "whose Row is 'x'"),
        ("<Row>2</Row><Col>3</Col><FieldID>", "<Row>33</Row><Col>3</Col><FieldID>", "of row 33"),
        ("<URL>r02c03f01p01-ch4sk1fk1fl1.tiff", "<URL>", "without a file's name"),
        ("</Images>", "", "is damaged"),
        ("<EvaluationInputData ", f"{BOMB[: BOMB.index('<a>')]}<a ", "document type"),
    ],
)
def test_an_index_that_cannot_be_used_is_refused(tmp_path, before, after, found):
    plate = WRITERS["phenix"](tmp_path / "plate", fields_of("B03"))
    index_of(plate, before, after)
    with pytest.raises(PlateError, match=f"Index.xml .*{re.escape(found)}"):
        scan_plate(plate)


def test_a_folder_without_an_index_is_no_phenix(tmp_path):
    with pytest.raises(PlateError, match=r"holds neither Index\.idx\.xml nor Index\.xml"):
        scan_plate(tmp_path, layout="phenix")


# OME-Zarr


def test_a_prepared_store_is_a_plate_too(tmp_path):
    fields = fields_of("B03", "AF48") | fields_of("B03", magnification=40)
    lacking = FieldKey(20, "B03", 2)
    del fields[lacking].targets["A2"]
    for key, field in fields.items():
        mask = np.ones(field.planes.shape[1:], bool)
        store_field(tmp_path / "prepared", key, field, mask, UM_PER_PX[key.magnification])
    describe_plates(tmp_path / "prepared", fields)
    (tmp_path / "prepared" / "manifest.json").write_text("{}")
    scanned = scan_plate(tmp_path / "prepared")
    assert [files.key for files in scanned.partial] == [lacking]
    assert {files.key for files in (*scanned.fields, *scanned.partial)} == fields.keys()
    for files in scanned.fields:
        read = read_field(files, TARGETS)
        np.testing.assert_array_equal(read.planes, fields[files.key].planes)
        np.testing.assert_equal(read.targets, fields[files.key].targets)
    table = understood_table(scanned)
    assert "20x, 0.325 µm per pixel, 40x, 0.163 µm per pixel\n" in table
    assert re.search(r"plate +prepared\n", table)
    assert re.search(r"channel +A1: A1 nuclei\n", table)
    assert "1 files beside the plates: manifest.json" in table
    one = scan_plate(tmp_path / "prepared" / "20x.zarr", ())
    assert len(one.fields) == 4
    (stains,) = list_stains({"images": tmp_path / "prepared"}, 0)
    assert stains.files.keys() == fields.keys()
    assert stains.files[lacking].keys() == {"A1", "A3"}
    assert {*stains.plates.values()} == {"prepared"}


@pytest.fixture
def converted(tmp_path):
    return WRITERS["ome-zarr"](tmp_path / "plate", fields_of("B03", "B04"))


def change(path, before: str, after: str) -> None:
    """Replace text in the metadata of a group."""
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_fields_that_are_not_there_or_not_named_are_told(converted):
    well = converted / "20x.zarr" / "B" / "3"
    shutil.copytree(well / "1", well / "7")
    shutil.rmtree(well / "2")
    change(converted / "20x.zarr" / "B" / "4" / "1" / ".zattrs", '"x"', '"u"')
    change(converted / "20x.zarr" / "B" / "4" / "2" / "0" / ".zarray", '"<u2"', '"|O"')
    scanned = scan_plate(converted, stain_z=1)
    told = [(problem.where, problem.found) for problem in scanned.problems]
    assert [files.key for files in scanned.fields] == [FieldKey(20, "B03", 1)]
    assert [where for where, _ in told] == ["B03", "20x B03 F002", "20x B04 F001", "20x B04 F002"]
    assert "1 fields that its metadata do not name: 7" in told[0][1]
    assert "cannot be read (No such file" in told[1][1]
    assert "has the axes 'tczyu'" in told[2][1]
    assert "has values of type '|O'" in told[3][1]


def test_stains_of_ome_zarr_are_those_whose_channels_are_called_so(converted):
    told = r"is OME-Zarr without a channel A1, A2 or A3: it has 1 DAPI, 2 BODIPY 493, "
    with pytest.raises(PlateError, match=told):
        list_stains({"images": converted}, 0)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ('"B/3"', '"../B/3"', "lead to '../B/3', out of it"),
        ('"B/3"', '"/etc/3"', "lead to '/etc/3', out of it"),
        ('"B/3"', '"B/3x"', "have a well 'B/3x'"),
        ('"wells"', '"well"', "are damaged (it 'plate' 'wells' is not there)"),
    ],
)
def test_metadata_of_a_plate_that_cannot_be_used_are_refused(converted, before, after, found):
    change(converted / "20x.zarr" / ".zattrs", before, after)
    with pytest.raises(PlateError, match=re.escape(found)):
        scan_plate(converted)


def test_of_several_acquisitions_of_an_ome_zarr_one_is_named_as_a_plate(converted):
    """By its number where the plate calls it nothing, or two alike."""
    for well in ("3", "4"):
        told = converted / "20x.zarr" / "B" / well / ".zattrs"
        for fov in "12":
            change(told, f'"path": "{fov}"', f'"path": "{fov}", "acquisition": 1{fov}')
    with pytest.raises(PlateError, match=r"2 plates: .*99 11 .*99 12 .*-P 'plate_name=99 11'"):
        scan_plate(converted)
    for names, taken in ((("red", "red"), "99 12"), (("before", "after"), "99 after")):
        told = [{"id": 11 + n, "name": name} for n, name in enumerate(names)]
        group = zarr.open_group(converted / "20x.zarr", mode="a")
        group.attrs["plate"] = {**group.attrs["plate"], "acquisitions": told}
        scanned = scan_plate(converted, stain_z=1, plate_name=taken)
        found = [(str(files.key), files.plate) for files in scanned.fields]
        assert found == [("20x B03 F002", taken), ("20x B04 F002", taken)]


def test_several_times_of_an_ome_zarr_are_told_apart(converted):
    array = zarr.open_array(converted / "20x.zarr" / "B" / "3" / "1" / "0")
    array.resize((2, *array.shape[1:]))
    keys = [str(files.key) for files in scan_plate(converted, stain_z=1).fields]
    assert [key for key in keys if "B03 F001" in key] == ["20x B03 F001", "20x B03 F001 T0002"]


def test_fields_that_are_counted_from_0_are_counted_from_1(converted):
    for well in (converted / "20x.zarr" / "B").iterdir():
        if well.is_dir():
            (well / "1").rename(well / "0")
            change(well / ".zattrs", '"path": "1"', '"path": "0"')
    scanned = scan_plate(converted, stain_z=1)
    assert [files.key.fov for files in scanned.fields] == [1, 3, 1, 3]


def test_of_several_plates_in_a_folder_one_is_named(converted):
    shutil.copytree(converted / "20x.zarr", converted / "other.zarr")
    (converted / "20x.zarr").rename(converted / "one.zarr")
    change(converted / "other.zarr" / ".zattrs", '"99"', '"100"')
    with pytest.raises(PlateError, match=r"holds images of 2 plates: .*-P plate_name=100"):
        scan_plate(converted, (), magnification=20)
    scanned = scan_plate(converted, (), magnification=20, plate_name="100")
    assert (len(scanned.fields), scanned.fields[0].plate) == (4, "100")


def test_a_plates_name_is_never_a_path(converted):
    change(converted / "20x.zarr" / ".zattrs", '"99"', '"../..\\\\a:b"')
    assert scan_plate(converted, ()).fields[0].plate == "_.._a_b"


# Patterns


@pytest.mark.parametrize(
    "pattern", ["imagxpress", "", "{plate}.tif", "{well}_{well}.tif", "{well}_{site}.tif"]
)
def test_what_is_no_pattern_is_refused_with_an_example(pattern, tmp_path):
    with pytest.raises(ConfigError, match=r"neither a layout's name nor a pattern.*\{plate\}_"):
        scan_plate(tmp_path, layout=pattern)


def test_a_pattern_that_matches_nothing_is_refused_with_the_first_three_names(tmp_path):
    plate = WRITERS[PATTERN](tmp_path / "plate", fields_of("B03"))
    with pytest.raises(PlateError, match=r"named like \{well\}_s\{fov\}\.tif: it has ") as refusal:
        scan_plate(plate, layout="{well}_s{fov}.tif")
    assert refusal.value.remedy.count(".tif") == 3
    assert "and 17 more" in refusal.value.remedy


def test_a_pattern_may_leave_out_all_but_the_well(tmp_path):
    (tmp_path / "plate").mkdir()
    key = FieldKey(40, "B03", 1)
    write_field(tmp_path, key, RawField(fields_of("B03")[FieldKey(20, "B03", 1)].planes[:1], {}))
    [path] = (tmp_path / "40x_images").iterdir()
    path.rename(tmp_path / "plate" / "scan 7 (b3).TIF")
    scanned = scan_plate(tmp_path / "plate", (), layout="* ({well}).tif", magnification=40)
    assert [files.key for files in scanned.fields] == [key]
    assert scanned.fields[0].plate == "plate"


# Real plates


@real
def test_a_real_yokogawa_plate_is_understood():
    with pytest.raises(PlateError, match=r"^no channel is brightfield.*channels 1 405, 2 488;"):
        scan_plate(YOKOGAWA)
    scanned = scan_plate(YOKOGAWA, channels="brightfield=488, A1=405", stain_z=2)
    assert (scanned.problems, scanned.n_z_planes, scanned.targets) == ((), 4, ("A1",))
    wells = ("D08", "E03", "F08")
    expected = [FieldKey(20, well, fov) for well in wells for fov in (1, 2, 3, 4)]
    assert [files.key for files in scanned.fields] == expected
    assert {files.shape for files in scanned.fields} == {(2000, 2000)}
    table = understood_table(scanned)
    assert "20x, 0.325 µm per pixel" in table
    assert re.search(r"left alone +10 files", table)


@real
def test_real_imagexpress_plates_are_understood():
    for plate in (EXPORTED, DATABASE):
        both = scan_plate(plate, (), channels="brightfield=2", magnification=20)
        assert {files.key.time for files in both.fields} == {1, 2}
        assert both.problems == ()
    exported = scan_plate(EXPORTED / "TimePoint_2", channels="brightfield=FITC, A1=DAPI")
    expected = [FieldKey(40, well, fov) for well in ("B02", "B03") for fov in (1, 2)]
    assert [files.key for files in exported.fields] == expected
    assert (exported.problems, exported.targets) == ((), ("A1",))
    assert "pixels of 1.3672 µm at 40x, where 0.163 is usual" in understood_table(exported)
    [folder] = DATABASE.glob("*/*/TimePoint_1")
    four = scan_plate(folder, (), channels="brightfield=Cy3")
    assert {files.key.magnification for files in four.fields} == {4}
    database = scan_plate(folder, (), channels="brightfield=Cy3", magnification=20)
    assert [str(files.key) for files in database.fields] == ["20x C07 F001", "20x C07 F002"]
    assert {one.name for one in database.understood.channels} == {"FITC", "Cy3", "Texas Red"}
