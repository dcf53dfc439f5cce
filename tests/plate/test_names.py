"""The names of the challenge go both ways; other names are refused with an example."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adipocyte.domain import ROWS
from adipocyte.errors import PlateError
from adipocyte.plate.names import ImageName, magnification_folder, parse_magnification, parse_name

TWO_DIGITS = st.integers(0, 99)
NAMES = st.builds(
    ImageName,
    plate=st.text(
        st.characters(
            codec="utf-8", exclude_characters="/\n\r", exclude_categories=["Cc", "Zl", "Zp", "Cs"]
        ),
        min_size=1,
    ),
    well=st.builds("{}{:02d}".format, st.sampled_from(ROWS), st.integers(0, 99)),
    time=st.integers(0, 9999),
    fov=st.integers(0, 999),
    line=TWO_DIGITS,
    action=TWO_DIGITS,
    z_plane=st.none() | TWO_DIGITS,
    channel=TWO_DIGITS,
)


@given(name=NAMES)
def test_a_name_written_and_read_is_the_same_name(name):
    assert parse_name(str(name)) == name


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("AssayPlate_Greiner_#655090_B03_T0001F002L01A04Z05C04.tif", "Z5"),
        ("AssayPlate_Greiner_#655090_B03_T0001F002L01A02Z01C02.tif", "A2"),
        # The organisers' evaluation folders.
        ("AssayPlate_Greiner_#655090_B03_T0001F002L01A01Z01C02.tif", "A2"),
        ("AssayPlate_Greiner_#655090_B03_T0001F002L01A03Z01C03.tiff", "A3"),
    ],
)
def test_the_channel_alone_says_what_an_image_is(text, label):
    name = parse_name(text)
    assert (name.plate, name.well, name.fov) == ("AssayPlate_Greiner_#655090", "B03", 2)
    assert (name.target or f"Z{name.z_plane}") == label


@pytest.mark.parametrize(
    "text",
    ["", "thumbnail.tif", "P_AG3_T0001F002L01A04Z05C04.tif", "P_B03_T0001F002L01A04Z05C04.png"],
)
def test_a_name_of_another_form_is_refused_with_an_example(text):
    example = r"AssayPlate_Greiner_#655090_B03_T0001F001L01A04Z01C04\.tif"
    with pytest.raises(PlateError, match=rf"'{text}' is not a name .*: name it like {example}$"):
        parse_name(text)


def test_a_folder_says_its_magnification():
    assert [parse_magnification(magnification_folder(m)) for m in (4, 20, 63, 100)] == [
        4,
        20,
        63,
        100,
    ]
    assert parse_magnification("40x") == 40
    for folder in ("0x_images", "1000x", "x_images", "20x_images_old", "masks"):
        assert parse_magnification(folder) is None
