"""The contact sheet shows flagged fields first, with their reason."""

import numpy as np

from adipocyte.preparation.contact_sheet import contact_sheet, thumbnail


def test_flagged_fields_come_first_with_their_reason():
    fault = "too dark"
    thumbnails = [np.full((20, 30), 10 * n, np.uint8) for n in range(5)]
    figure = contact_sheet(thumbnails, list("abcde"), [(), (), (), (fault,), ()])
    panels = [panel for panel in figure.axes if panel.images]
    assert [panel.get_title() for panel in panels] == ["d", "a", "b", "c", "e"]
    assert [panel.get_xlabel() for panel in panels] == ["too dark", "", "", "", ""]
    np.testing.assert_array_equal(panels[0].images[0].get_array(), thumbnails[3])
    assert figure.get_suptitle() == "5 fields, 1 flagged"


def test_a_sheet_of_a_whole_plate_shows_every_flagged_field_and_says_what_it_leaves_out():
    bad = {5, 100, 207}
    flagged = [("empty",) if n in bad else () for n in range(208)]
    figure = contact_sheet(
        [np.zeros((4, 4), np.uint8)] * 208, [str(n) for n in range(208)], flagged
    )
    titles = [panel.get_title() for panel in figure.axes if panel.images]
    assert titles[:4] == ["5", "100", "207", "0"]
    assert len(set(titles)) == 96
    assert figure.get_suptitle() == "208 fields, 3 flagged, 112 left out"


def test_a_thumbnail_is_small_and_shows_dark_to_bright():
    ramp = np.arange(500 * 330).reshape(500, 330).clip(max=65535)
    small = thumbnail(ramp.astype(np.uint16))
    assert small.shape == (125, 83)
    assert (small.min(), small.max()) == (0, 255)
    assert not thumbnail(np.full((64, 64), 7, np.uint16)).any()
