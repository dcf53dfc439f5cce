"""The page of what was measured: whole, honest, offline, and alive in a real browser."""

import dataclasses
import html
import json
import re

import numpy as np
import pytest

from adipocyte.domain import FieldKey, row_and_column
from adipocyte.evaluation.cellprofiler.features import Measured, measure
from adipocyte.evaluation.cellprofiler.objects import (
    AREA,
    DIAMETER,
    KINDS,
    LIPID_AREA,
    N_DROPLETS,
    columns_of,
)
from adipocyte.evaluation.cellprofiler.wells import SHARES, well_row
from adipocyte.evaluation.grades import WELLS, Grade, Worth
from adipocyte.measuring.grades import Graded
from adipocyte.measuring.pictures import SHOWN
from adipocyte.measuring.plate import MeasuredPlate, Shown, StainedField
from adipocyte.measuring.plate_map import Role, Treatment, written
from adipocyte.measuring.report import page
from adipocyte.measuring.report.treatments import MOST_CONDITIONS
from adipocyte.measuring.screen import control_rows, dose_rows, features_of
from adipocyte.plate.problems import Problem
from tests.support import drawn
from tests.support.pages import chromium, needs_chromium, opened_page, sandboxed

HOSTILE = '</script><img src=x onerror="document.title=1"> \\1 $x^$'
KEPT = (*SHOWN, *SHARES, f"Cells_StDev_{AREA}", "Nuclei_Mean_Intensity_MeanIntensity_Hoechst")
LIPID = f"Cells_Mean_{LIPID_AREA}"
NAMES = [f"{row}{column:02d}" for row in "BCDE" for column in range(2, 8)]
DOSES_M = (1e-8, 1e-7, 1e-6, 1e-5)


def treatments(names: list[str]) -> dict[str, Treatment]:
    """Four negative and four positive controls, and two compounds of four doses, twice."""
    found = dict.fromkeys(names[:4], Treatment(Role.NEGATIVE, "DMSO"))
    found |= dict.fromkeys(names[4:8], Treatment(Role.POSITIVE, "rosiglitazone", 1e-6, "M"))
    given = [(compound, dose) for dose in DOSES_M for compound in ("insulin", HOSTILE)] * 2
    treated = zip(names[8:], given, strict=False)
    return found | {name: Treatment(Role.TREATED, *one, "M") for name, one in treated}


def effect(one: Treatment | None) -> float:
    """From 0 to 1, as a dose gives it."""
    if one is None or one.role is Role.NEGATIVE:
        return 0.0
    return 1.0 if one.role is Role.POSITIVE else one.concentration / (one.concentration + 3e-7)


def invented(name: str, strength: float, n_cells: int) -> dict[str, str | float]:
    """The row of a well of one field with invented objects: more and larger droplets."""
    random = np.random.default_rng([ord(name[0]), int(name[1:])])
    sizes = {"Nuclei": n_cells, "Cells": n_cells, "LipidDroplets": 20 * n_cells}
    tables = {
        table: {column: random.normal(10, 1, n) for column in columns_of(table)}
        for table, n in sizes.items()
    }
    tables["Cells"][N_DROPLETS] = random.poisson(5 + 20 * strength, n_cells)
    tables["Cells"][LIPID_AREA] = random.normal(40 + 200 * strength, 15, n_cells)
    tables["LipidDroplets"][DIAMETER] = random.lognormal(0.7 + strength, 0.6, 20 * n_cells)
    tables["LipidDroplets"]["Classify_Defective"] = np.zeros(20 * n_cells)
    letter, column = row_and_column(name)
    return {
        "Metadata_Plate": "AssayPlate",
        "Metadata_Magnification": 20,
        "Metadata_Well": name,
        "Metadata_Row": letter,
        "Metadata_Column": column,
    } | well_row([tables])


def measured_plate(
    names: list[str], given: dict[str, Treatment], n_cells: int = 20
) -> MeasuredPlate:
    """A plate with rows of KEPT and of counts, one field for each well.

    The first well has *n_cells*, each after it one more, or none either.
    """
    rows = []
    for at, name in enumerate(names):
        one = given.get(name)
        row = invented(name, effect(one), n_cells and n_cells + at)
        kept = {
            column: value
            for column, value in row.items()
            if column in KEPT
            or column.startswith(("Metadata_", "Image_Count_", LIPID, "Cells_Mean_Child"))
        }
        of_map = {
            "Metadata_Role": one.role.value if one else "",
            "Metadata_Compound": one.compound if one else "",
            "Metadata_Concentration": one.concentration if one else float("nan"),
            "Metadata_Unit": one.unit if one else "",
        }
        rows.append(kept | (of_map if given else {}))
    return MeasuredPlate(
        fields=tuple(StainedField(FieldKey(20, name, 1), "AssayPlate", {}) for name in names),
        n_new=0,
        wells=rows,
        problems=(),
        lacking={},
        controls=control_rows(rows, given) if given else [],
        doses=dose_rows(rows, given),
        graded=None,
        tables={},
    )


@pytest.fixture(scope="module")
def with_map() -> MeasuredPlate:
    """Controls, and two compounds in doses."""
    return measured_plate(NAMES, treatments(NAMES))


@pytest.fixture(scope="module")
def plain() -> MeasuredPlate:
    return measured_plate(NAMES, {})


@pytest.fixture(scope="module")
def field() -> Shown:
    """A field of 384 x 384 pixels, and what is found in it; its nuclei stand for brightfield."""
    images = drawn.drawn_field(drawn.NUCLEI)
    return Shown(FieldKey(20, "B03", 1), images["A1"], images, measure(images, 20))


@pytest.fixture(scope="module")
def text(with_map, field) -> str:
    return page(with_map, field)


def section(text: str, name: str) -> str:
    """The HTML of one section."""
    return re.search(rf'<section id="{name}">.*?</section>', text, re.DOTALL)[0]


def values_of(text: str) -> list[dict]:
    """What lies in the page for its script."""
    return json.loads(re.search(r'id="wells">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_counts_and_warns(with_map, field):
    empty = {"Image_Count_Cells": 0, "Image_Count_DefectiveLipidDroplets": 201}
    given = dataclasses.replace(
        with_map,
        wells=[with_map.wells[0] | empty, *with_map.wells[1:]],
        problems=(Problem("20x B03 F002", "an image is <float32>", "write it as uint16"),),
        lacking={"A1": (FieldKey(20, "C04", 1),)},
    )
    overview = section(page(given, field), "overview")
    assert re.findall(r'"number">([\d,]+)<', overview) == ["24", "24", "756", "736", "15,120"]
    assert "<td>an image is &lt;float32&gt;</td><td>write it as uint16</td>" in overview
    assert "Without A1 (nuclei), so without what needs it: 20x C04 F001." in overview
    assert "AssayPlate, 20x: no cells in B02." in overview
    assert "more than half of the droplets are defective in B02." in overview


def test_nothing_odd_is_said_to_be_so(plain, field):
    assert "nothing is odd" in section(page(plain, field), "overview")


def test_effects_of_places_and_controls_that_are_not_told_apart_are_warned_of(with_map, field):
    controls = [row | {"Z_prime": 0.2, "Row_p": 0.04} for row in with_map.controls]
    overview = section(page(dataclasses.replace(with_map, controls=controls), field), "overview")
    n = len(controls)
    assert "Z&#39; of no feature is above 0.5" in overview
    assert f"{n} of {n} features differ between rows (p below 0.05)" in overview


def test_every_feature_of_every_well_is_in_the_page(with_map, text):
    [plate] = values_of(text)
    assert plate["wells"] == NAMES
    features = [name for name in with_map.wells[0] if not name.startswith("Metadata_")]
    assert sorted(plate["values"]) == sorted(features)
    for feature in features:
        expected = [row[feature] for row in with_map.wells]
        np.testing.assert_allclose(plate["values"][feature], expected, rtol=1e-5)
    options = re.findall(r'<option value="([^"]*)"', section(text, "plate"))
    assert set(options) == set(features)
    groups = re.findall(r'<optgroup label="([^"]*)"', text)
    assert groups == ["First looks", "Nuclei", "Cells", "LipidDroplets", "Image"]


def test_without_a_script_the_first_feature_is_seen(text):
    wells = re.findall(r'title="(\w\d\d) · (\d+)[^"]*" style="--fill: #', section(text, "plate"))
    assert wells == [(name, str(20 + at)) for at, name in enumerate(NAMES)]


def test_controls_are_sorted_by_how_well_they_are_told_apart(with_map, text):
    shown = section(text, "controls")
    values = [float(row["Z_prime"]) for row in with_map.controls]
    ordered = sorted((one for one in values if np.isfinite(one)), reverse=True)
    found = re.findall(r'<td class="feature">(\w+)</td><td>([^<]*)</td>', shown)
    assert [one for _, one in found[: len(ordered)]] == [
        f"{one:,.2f}".replace("-", "−") for one in ordered
    ]
    assert {one for _, one in found[len(ordered) :]} <= {"–"}
    assert len(found) == len(values)


def test_how_many_small_ps_chance_gives_is_said(with_map, field):
    controls = [
        row | {"Row_p": 0.01 if at == 0 else 0.06, "Column_p": float("nan")}
        for at, row in enumerate(with_map.controls)
    ]
    shown = section(page(dataclasses.replace(with_map, controls=controls), field), "controls")
    n = len(controls)
    words = " ".join(shown.split())
    assert (
        f"Between rows, 1 of {n} features have p below 0.05; by chance it would be {0.05 * n:.0f}"
        in words
    )
    assert "Between columns" not in words


def test_the_best_curves_of_each_compound_have_their_ec50_in_words(with_map, text):
    shown = section(text, "doses")
    assert re.findall(r"<h3>(\w+|&lt;/script).*? <small>", shown) == ["insulin", "&lt;/script"]
    of_insulin = shown[shown.index("<h3>insulin") :].partition("<h3>")[2].partition("<h3>")[0]
    rows = [row for row in with_map.doses if row["Metadata_Compound"] == "insulin"]
    best = sorted(
        (row for row in rows if np.isfinite(row["R2"])), key=lambda row: row["R2"], reverse=True
    )
    found = re.findall(r"<b>(\w+)</b><br>EC50 ([^,]*), ([^·]*) · R² ([\d.]+)", of_insulin)
    assert [feature for feature, *_ in found] == [row["Feature"] for row in best[:6]]
    assert found[0][1] == written(best[0]["EC50"], "M")
    low, high = written(best[0]["EC50_low"], "M"), written(best[0]["EC50_high"], "M")
    assert found[0][2] == f"{low} to {high}"
    assert of_insulin.count("<svg") == 6


def test_of_features_with_the_same_curve_one_is_drawn(with_map, field):
    rows = [row for row in with_map.doses if row["Metadata_Compound"] == "insulin"]
    best = max(rows, key=lambda row: np.nan_to_num(row["R2"], nan=-1))
    alike = [best | {"Feature": "Cells_Mean_Children_LipidDroplets_Count"}, *rows]
    doses = section(page(dataclasses.replace(with_map, doses=alike), field), "doses")
    assert best["Feature"] not in doses
    assert doses.count("<svg") == 6


def test_an_interval_that_says_nothing_is_no_number(with_map, field):
    doses = [row | {"EC50_low": 0.0, "EC50_high": float("inf")} for row in with_map.doses]
    shown = section(page(dataclasses.replace(with_map, doses=doses), field), "doses")
    assert shown.count("interval too wide to tell") == shown.count("<svg") == 12


def test_droplets_are_shown_by_treatment_and_controls_come_first(with_map, text):
    shown = section(text, "droplets")
    names = [html.unescape(one) for one in re.findall(r"<tr><td>(.*?)</td>", shown)]
    assert names[:2] == ["negative, DMSO", "positive, rosiglitazone 1 µM"]
    assert names[-1] == "insulin 10 µM"
    assert len(names) == 2 + 2 * len(DOSES_M)
    shares = [float(one) for one in re.findall(r"--share: ([\d.e-]+)%", shown)][: len(SHARES)]
    negative = with_map.wells[:4]
    expected = [100 * np.mean([row[name] for row in negative]) for name in SHARES]
    np.testing.assert_allclose(shares, expected)


def test_many_wells_are_shown_from_the_smallest_to_the_largest_droplets(plain, field):
    shown = section(page(plain, field), "droplets")
    names = re.findall(r"<tr><td>(.*?)</td>", shown)
    medians = {row["Metadata_Well"]: row[f"LipidDroplets_Median_{DIAMETER}"] for row in plain.wells}
    assert len(names) == MOST_CONDITIONS
    assert [medians[name] for name in names] == sorted(medians[name] for name in names)
    assert {names[0], names[-1]} == {
        min(medians, key=medians.__getitem__),
        max(medians, key=medians.__getitem__),
    }
    assert f"{MOST_CONDITIONS} of {len(NAMES)} are shown" in shown


def test_the_wells_with_least_and_most_lipid_are_named(plain, field):
    shown = section(page(plain, field), "look")
    ordered = [row["Metadata_Well"] for row in sorted(plain.wells, key=lambda row: row[LIPID])]
    found = re.findall(r'<td class="feature">(\w+)</td>', shown)[:6]
    assert found == ordered[:3] + ordered[-3:][::-1]


def test_without_a_plate_map_nothing_is_said_of_controls(plain, field):
    text = page(plain, field)
    assert 'id="controls"' not in text
    assert 'id="doses"' not in text
    assert "negative" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("n_cells", [0, 1])
def test_a_plate_with_next_to_nothing_in_it_is_shown_without_nan(field, n_cells):
    blank = {target: np.zeros((384, 384), np.uint16) for target in field.stains}
    names = NAMES[:1] if n_cells else NAMES
    plate = measured_plate(names, {} if n_cells else treatments(names), n_cells)
    text = page(plate, Shown(field.key, None, blank, measure(blank, 20)))
    own = re.sub(
        r"base64,[^\"]*|<style>.*?</style>|<script>.*?</script>", "", text, flags=re.DOTALL
    )
    assert not re.search(r"\bnan\b|\binf\b", own, re.IGNORECASE)
    assert ("No droplet was found" in text) == (n_cells == 0)
    assert values_of(text)[0]["wells"] == names


EMPTY = Shown(FieldKey(20, "B03", 1), None, {}, Measured({}, {}, {}, 0.325, (64, 64)))


def test_no_rows_are_no_error():
    nothing = MeasuredPlate((), 0, [], (), {}, [], [], None, {})
    text = page(
        nothing, Shown(FieldKey(20, "B03", 1), None, {}, Measured({}, {}, {}, 0.325, (64, 64)))
    )
    assert "No well was measured" in section(text, "plate")
    assert values_of(text) == []


def test_a_field_without_a_stain_shows_the_others_and_says_so(plain, field):
    images = {target: image for target, image in field.stains.items() if target != "A1"}
    shown = section(page(plain, Shown(field.key, None, images, measure(images, 20))), "look")
    assert re.findall(r'alt="(\w\d) [a-z ]+ of', shown) == ["A2", "A3"]
    assert "without a stain that cells need" in shown
    assert shown.count('class="show-outlines"') == 1


def test_the_same_plate_gives_the_same_bytes(with_map, field, text):
    assert page(with_map, field) == text


def test_the_page_refers_to_nothing_outside_itself(text):
    assert "http:" not in text
    assert "https:" not in text
    addresses = re.findall(r'<[^>]*(?:src|href)="([^"]{0,5})', text)
    assert {one for one in addresses if not one.startswith("#")} == {"data:"}
    assert "default-src 'none'; img-src data:" in text


def test_what_others_wrote_is_text_and_never_code(text):
    assert text.count("<script") == text.count("</script") == 2  # the page's own
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=" in text
    assert any(HOSTILE in given for given in values_of(text)[0]["given"])


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser, text, tmp_path):
    with opened_page(browser, text, tmp_path) as tab:
        yield tab


def fills(tab) -> dict[str, str]:
    """The colour that each well is seen in, by what is said of it."""
    wells = tab.locator(".well").evaluate_all(
        """wells => wells.map(well => [
            well.getAttribute("aria-label"), getComputedStyle(well).backgroundColor
        ])"""
    )
    return dict(wells)


@pytest.mark.browser
@needs_chromium
def test_another_feature_is_another_map(opened, with_map):
    before = fills(opened)
    opened.locator("#feature").select_option(LIPID)
    after = fills(opened)
    values = {row["Metadata_Well"]: float(row[LIPID]) for row in with_map.wells}
    names = [words.split(" · ")[0] for words in after]
    shown = [float(words.split(" · ")[1]) for words in after]
    np.testing.assert_allclose(shown, [values[name] for name in names], rtol=1e-3)
    assert list(before.values()) != list(after.values())
    ordered = sorted(after, key=lambda words: values[words.split(" · ")[0]])
    assert after[ordered[0]] == "rgb(68, 1, 84)"  # the ends of viridis
    assert after[ordered[-1]] == "rgb(253, 231, 37)"
    low, high = (float(opened.locator(end).inner_text()) for end in (".low", ".high"))
    np.testing.assert_allclose([low, high], [min(values.values()), max(values.values())], rtol=1e-3)


@pytest.mark.browser
@needs_chromium
def test_what_is_not_to_be_trusted_is_grey_and_says_why(browser, with_map, field, tmp_path):
    worths = {LIPID: (Worth.NOT, "r 0.1"), "Image_Count_Nuclei": (Worth.CARE, "r 0.7")}
    grades = [
        Grade(20, WELLS, name, *worths.get(name, (Worth.USE, "")), n_fields=9, n_wells=3)
        for name in features_of(with_map.wells)
    ]
    graded = Graded(tuple(grades), ("A doubt.",), frozenset({FieldKey(20, "B03", 1)}))
    text = page(dataclasses.replace(with_map, graded=graded), field)
    told = section(text, "overview")
    assert f"{len(grades) - 2} use, 1 with care, 1 not" in told
    assert "A doubt." in told
    assert "unlike the training wells: B03." in told
    assert section(text, "controls").count('<tr class="worthless"') == 1
    assert LIPID in section(page(with_map, field), "doses")
    assert LIPID not in section(text, "doses")
    with opened_page(browser, text, tmp_path) as tab:
        seen = {}
        for name in (LIPID, "Image_Count_Nuclei", "Image_Count_Cells"):
            tab.locator("#feature").select_option(name)
            heat = tab.locator(".heat").first
            filtered = heat.evaluate("one => getComputedStyle(one).filter")
            seen[name] = (filtered, tab.locator(".worth").first.inner_text())
    assert seen == {
        LIPID: ("grayscale(1)", "not to be trusted: r 0.1"),
        "Image_Count_Nuclei": ("none", "with care: r 0.7"),
        "Image_Count_Cells": ("none", "use"),
    }


@pytest.mark.browser
@needs_chromium
def test_the_script_draws_the_first_feature_as_the_page_has_it(browser, text, opened, tmp_path):
    (tmp_path / "plain").mkdir()
    with opened_page(browser, text, tmp_path / "plain", java_script_enabled=False) as tab:
        quiet = re.findall(r"--fill: (#\w+)", tab.content())
    drawn = opened.locator(".well").evaluate_all(
        'wells => wells.map(well => well.style.getPropertyValue("--fill"))'
    )
    assert drawn == quiet
    assert len(set(drawn)) == len(NAMES)


@pytest.mark.browser
@needs_chromium
def test_a_well_says_its_value_to_the_mouse_and_to_the_keyboard(opened):
    told = opened.locator(".map output")
    opened.locator(".well").nth(6).hover()
    assert told.inner_text() == "C02 · 26 · positive, rosiglitazone 1 µM"
    opened.locator("#feature").focus()
    opened.keyboard.press("Tab")
    assert told.inner_text() == "B02 · 20 · negative, DMSO"
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("ArrowDown")
    assert told.inner_text() == f"D03 · 33 · {HOSTILE} 1 µM"
    opened.keyboard.press("Shift+Tab")
    opened.keyboard.press("Tab")
    assert told.inner_text().startswith("D03")
    opened.locator("#feature").select_option(LIPID)
    assert told.inner_text().startswith("D03")
    assert " · 33 · " not in told.inner_text()


@pytest.mark.browser
@needs_chromium
def test_wells_without_a_value_are_striped_and_said_to_be_empty(browser, with_map, field, tmp_path):
    wells = [with_map.wells[0] | {LIPID: float("nan")}, *with_map.wells[1:]]
    text = page(dataclasses.replace(with_map, wells=wells), field)
    with opened_page(browser, text, tmp_path) as tab:
        tab.locator("#feature").select_option(LIPID)
        assert tab.locator(".well.empty").count() == 1
        assert tab.locator(".well.empty").get_attribute("aria-label").startswith("B02 · – ·")
        tab.locator("#feature").select_option("Image_Count_Cells")
        assert tab.locator(".well.empty").count() == 0


@pytest.mark.browser
@needs_chromium
def test_outlines_are_switched_by_their_button(opened):
    brightfield, viewer = opened.locator(".viewer").first, opened.locator(".viewer").nth(1)
    assert not brightfield.locator(".outlines").is_visible()
    brightfield.locator(".show-outlines").click()
    assert brightfield.locator(".outlines").is_visible()
    button = viewer.locator(".show-outlines")
    viewer.scroll_into_view_if_needed()
    seen = [viewer.locator(".marked").screenshot()]
    assert viewer.locator(".outlines").is_visible()
    button.focus()
    opened.keyboard.press("Space")
    assert not viewer.locator(".outlines").is_visible()
    assert button.get_attribute("aria-pressed") == "false"
    seen.append(viewer.locator(".marked").screenshot())
    button.click()
    seen.append(viewer.locator(".marked").screenshot())
    assert seen[0] == seen[2] != seen[1]
    picture, frame = viewer.locator(".marked"), viewer.locator(".frame")
    assert picture.bounding_box()["width"] == frame.bounding_box()["width"] < 384
    viewer.locator(".zoom").click()
    assert viewer.locator(".marked").evaluate("picture => picture.clientWidth") == 384


@pytest.mark.browser
@needs_chromium
def test_objects_that_are_hardly_real_can_be_hidden(browser, plain, field, tmp_path):
    """One of the droplets in each class; nuclei have no probability, and stay."""
    n = field.found.labels[KINDS["LipidDroplets"]].max()
    likely = np.array([0.1, 0.6, 0.9, 0.99])[np.arange(n) % 4]
    shown = dataclasses.replace(field, probabilities={"LipidDroplets": likely})
    assert 'id="least"' not in page(plain, field)
    with opened_page(browser, page(plain, shown), tmp_path) as tab:
        nuclei, droplets = (tab.locator(".marked").nth(at) for at in (1, 2))
        seen = {}
        for least in ("0.0", "0.5", "0.8", "0.95"):
            tab.locator("#least").select_option(least)
            seen[least] = droplets.screenshot(), nuclei.screenshot(), visible(droplets)
        tab.locator("#least").select_option("0.0")
        assert droplets.screenshot() == seen["0.0"][0]
    assert [n_seen for *_, n_seen in seen.values()] == [4, 3, 2, 1]
    assert len({picture for picture, *_ in seen.values()}) == 4
    assert len({picture for _, picture, _ in seen.values()}) == 1


def visible(marked) -> int:
    return sum(one.is_visible() for one in marked.locator(".outlines").all())


@pytest.mark.browser
@needs_chromium
def test_plates_of_one_magnification_share_a_scale(browser, plain, field, tmp_path):
    """Once as the page has it, once as its script draws it."""
    others = [
        row
        | {"Metadata_Plate": plate, "Metadata_Magnification": magnification}
        | {"Image_Count_Cells": n_cells}
        for plate, magnification, n_cells in (("Second", 20, 90), ("Third", 40, 7))
        for row in plain.wells
    ]
    text = page(dataclasses.replace(plain, wells=[*plain.wells, *others]), field)
    expected = [("20", "90"), ("20", "90"), ("7", "7")]
    assert re.findall(r'class="low">(\d+)<.*?class="high">(\d+)<', text) == expected
    with opened_page(browser, text, tmp_path) as tab:
        ends = [tab.locator(end).all_inner_texts() for end in (".low", ".high")]
        assert list(zip(*ends, strict=True)) == expected
        colours = set(fills(tab.locator(".map").nth(1)).values())
        assert colours == {"rgb(253, 231, 37)"}


@pytest.mark.browser
@needs_chromium
def test_nothing_that_others_wrote_runs(opened):
    assert opened.title() == "Measurements of 24 wells"
    assert opened.locator('img[src="x"]').count() == 0


@pytest.mark.browser
@needs_chromium
def test_the_page_lives_in_a_sandbox_without_an_origin(browser, text):
    with sandboxed(browser, text) as frame:
        frame.locator("#feature").select_option(LIPID)
        assert frame.locator(".well").first.evaluate("() => self.origin") == "null"
        frame.locator('a[href="#look"]').click()
        assert frame.locator("#look h2").bounding_box()["y"] < 200


@pytest.mark.browser
@needs_chromium
def test_a_plate_without_wells_opens_without_complaint(browser, tmp_path):
    nothing = MeasuredPlate((), 0, [], (), {}, [], [], None, {})
    text = page(
        nothing, Shown(FieldKey(20, "B03", 1), None, {}, Measured({}, {}, {}, 0.325, (64, 64)))
    )
    with opened_page(browser, text, tmp_path) as tab:
        assert tab.locator("h2").count() == 4


@pytest.mark.browser
@needs_chromium
@pytest.mark.parametrize("width_px", [1200, 700, 380])
def test_nothing_sticks_out_of_the_window(opened, width_px):
    opened.set_viewport_size({"width": width_px, "height": 900})
    assert opened.evaluate("document.documentElement.scrollWidth") == width_px
