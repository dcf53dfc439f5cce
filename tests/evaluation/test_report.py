"""The page of an evaluation: whole, honest, offline, and alive in a real browser."""

import base64
import dataclasses
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage

from adipocyte.domain import UM_PER_PX, FieldKey
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.measure import FieldMeasurement, total
from adipocyte.evaluation.metric import Part, Score
from adipocyte.evaluation.objects import ObjectPairs, match_objects
from adipocyte.evaluation.report import charts, images, page
from adipocyte.evaluation.sureness import Foretold, Held, Sureness
from adipocyte.imaging.grey import display_range, to_grey
from adipocyte.imaging.trust import Trust, Verdict
from adipocyte.plate.tiff import write_image
from adipocyte.simulation import simulate_field
from tests.support.pages import chromium, needs_chromium, opened_page, sandboxed

GAINS = {"none": 0.8, "matching": 0.95, "calibration": 1.02}
FEATURES = (
    "Count_nuclei",
    "Granularity_1_Bodipy",
    "Mean_cells_no_edge_AreaShape_Area",
    "StDev_Lipids_no_edge_AreaShape_Area",
)
ORIGIN = {"model": "models:/adipocyte@champion", "commit": "0123abc"}


def painting(truth: np.ndarray, gain: float, seed: int) -> np.ndarray:
    """What a mediocre model would paint: blurred, of another brightness, with noise."""
    noise = np.random.default_rng(seed).normal(0, 10, truth.shape)
    blurred = ndimage.gaussian_filter(truth.astype(float), 1.5)
    return np.clip(blurred * gain + noise, 0, 65535).astype(np.uint16)


def measured(
    folder: Path, key: FieldKey, truth: dict[str, np.ndarray], gains: dict[str, float]
) -> tuple[FieldMeasurement, FieldPaths]:
    """A field painted in the ways of *gains*, on disk and measured."""
    painted = {
        way: {name: painting(image, gain, key.fov) for name, image in truth.items()}
        for way, gain in gains.items()
    }
    paths = FieldPaths(
        key,
        {name: folder / str(key) / f"{name}.tif" for name in truth},
        {way: {name: folder / str(key) / way / f"{name}.tif" for name in truth} for way in gains},
        UM_PER_PX[key.magnification],
    )
    written = [(paths.truth, truth), *((paths.painted[way], painted[way]) for way in gains)]
    for files, images_of in written:
        for name, path in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, images_of[name])
    return FieldMeasurement(
        key=key,
        pixels={
            way: {name: pixels(truth[name], image) for name, image in of_way.items()}
            for way, of_way in painted.items()
        },
        truth_counts=histograms(truth),
        painted_counts={way: histograms(of_way) for way, of_way in painted.items()},
        truth_features={},
        painted_features={way: {} for way in gains},
        objects={way: objects(truth, of_way) for way, of_way in painted.items()},
    ), paths


def pixels(truth: np.ndarray, image: np.ndarray) -> dict[str, float]:
    return {
        "mae": float(np.abs(truth.astype(float) - image).mean()),
        "psnr": 30.0,
        "ssim": 0.9,
        "pearson": float(np.corrcoef(truth.ravel(), image.ravel())[0, 1]),
    }


def histograms(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.bincount(image.ravel()) for name, image in images.items()}


def objects(truth: dict[str, np.ndarray], image: dict[str, np.ndarray]) -> dict[str, ObjectPairs]:
    kinds = {"nuclei": "A1", "droplets": "A2"}
    return {
        kind: match_objects(labels(truth[name]), labels(image[name]))
        for kind, name in kinds.items()
        if name in truth
    }


def labels(image: np.ndarray) -> np.ndarray:
    return ndimage.label(image > 0.5 * image.mean() + 0.2 * image.max())[0].astype(np.int32)


def scored(
    measurements: list[FieldMeasurement], way: str, features: tuple[str, ...] = FEATURES
) -> Score:
    """A score with made-up features and intervals, because the page shows what it is given."""
    parts = {}
    for magnification in sorted({field.key.magnification for field in measurements}):
        here = [field for field in measurements if field.key.magnification == magnification]
        pixel = {
            name: float(np.mean([field.pixels[way][name]["mae"] for field in here])) / 500
            for name in here[0].truth_counts
        }
        errors = {name: 0.02 * 3**place * GAINS.get(way, 1) for place, name in enumerate(features)}
        mean = float(np.mean(list(pixel.values())))
        feature = float(np.mean(list(errors.values()))) if errors else None
        parts[magnification] = Part(
            n_fields=len(here),
            pixel_metrics=pixel,
            feature_errors=errors,
            left_out={"Granularity_16_Bodipy": "its median is 0"},
            pixel_metric=mean,
            feature_metric=feature,
            combined_metric=(mean + feature) / 2 if errors else None,
        )
    overall = {}
    for name in ("pixel_metric", "feature_metric", "combined_metric"):
        values = [getattr(part, name) for part in parts.values()]
        overall[name] = None if None in values else float(np.mean(values))
    spans = {
        name: {"fields": (0.95 * value, 1.06 * value), "wells": (0.9 * value, 1.1 * value)}
        for name, value in overall.items()
        if value
    }
    return Score(parts, **overall, intervals=spans)


def evaluation(
    folder: Path,
    keys: list[FieldKey],
    names: tuple[str, ...] = ("A1", "A2", "A3"),
    gains: dict[str, float] = GAINS,
) -> dict:
    """The arguments of a page: simulated fields of 128 x 144 pixels."""
    fields = []
    for seed, key in enumerate(keys):
        truth = simulate_field(key.magnification, (128, 144), seed=seed).targets
        fields.append(measured(folder, key, {name: truth[name] for name in names}, gains))
    measurements, paths = map(list, zip(*fields, strict=True))
    return {
        "measurements": measurements,
        "paths": paths,
        "scores": {way: scored(measurements, way) for way in gains},
        "shown": list(gains)[-1],
        "origin": ORIGIN,
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> dict:
    """Seven fields of four wells at two magnifications, painted in three ways."""
    keys = [
        FieldKey(20, "B03", 1),
        FieldKey(20, "B03", 2),
        FieldKey(20, "C04", 1),
        FieldKey(20, "D02", 1),
    ]
    return evaluation(
        tmp_path_factory.mktemp("small"),
        [*keys, *(FieldKey(40, well, 1) for well in ("B03", "C04", "D04"))],
    )


@pytest.fixture(scope="module")
def text(small) -> str:
    return page(**small)


def section(text: str, name: str) -> str:
    """The HTML of one section."""
    return re.search(rf'<section id="{name}">.*?</section>', text, re.DOTALL)[0]


def test_the_page_shows_every_metric_of_every_way(small, text):
    score = section(text, "score")
    for way in small["scores"].values():
        for part in (way, *way.parts.values()):
            for metric in ("combined_metric", "pixel_metric", "feature_metric"):
                assert f"<td>{getattr(part, metric):.3f}</td>" in score
    low, high = small["scores"]["calibration"].intervals["combined_metric"]["wells"]
    assert f"{low:.3f} to {high:.3f} over wells" in score
    assert all(name in score for name in ("as painted", "histogram matching", "calibration"))


def test_the_worst_the_median_and_the_best_field_are_shown_with_their_errors(small, text):
    fields = [field for field in small["measurements"] if field.key.magnification == 20]
    by_error = sorted(fields, key=lambda field: -field.pixels["calibration"]["A2"]["mae"])
    found = re.findall(
        r"<b>(\w+)</b> · (20x .*?)<br>\s*MAE ([\d.]+) counts · r ([\d.]+)",
        section(text, "pictures"),
    )
    of_a2 = found[3:6]  # three of A1 before them
    expected = zip(
        ("worst", "median", "best"), (by_error[0], by_error[2], by_error[3]), strict=True
    )
    assert of_a2 == [
        (rank, str(field.key), f"{of['mae']:.1f}", f"{of['pearson']:.3f}")
        for rank, field in expected
        for of in [field.pixels["calibration"]["A2"]]
    ]


def test_a_small_field_is_in_the_page_to_the_last_grey_level(small, text):
    shown = images.chosen(small["measurements"], "A1", 20, "calibration")[0]
    [paths] = [paths for paths in small["paths"] if paths.key == shown.key]
    truth = images.read_image(paths.truth["A1"])
    source = re.search(
        rf'class="truth" src="data:image/png;base64,([^"]*)"[^>]*alt="true A1 of {shown.key}"', text
    )[1]
    found = cv2.imdecode(
        np.frombuffer(base64.b64decode(source), dtype=np.uint8), cv2.IMREAD_GRAYSCALE
    )
    low, high = display_range(truth)
    np.testing.assert_array_equal(found, to_grey(truth, low, high))
    assert f"black {low:,.0f}, white {high:,.0f} counts" in text


@pytest.mark.parametrize("budget_bytes", [80_000, 50_000, 20_000])
def test_pictures_keep_to_their_budget_all_in_the_same_quality(small, monkeypatch, budget_bytes):
    monkeypatch.setattr(images, "BUDGET_BYTES", budget_bytes)
    chosen = [
        one
        for magnification in (20, 40)
        for one in images.chosen(small["measurements"], "A2", magnification, "none")
    ]
    found = images.gallery(chosen, {paths.key: paths for paths in small["paths"]}, "none")
    files = [
        base64.b64decode(source.removeprefix("data:image/webp;base64,"))
        for pair in found.pairs
        for source in (pair.truth, pair.painted)
    ]
    assert len(files) == 2 * len(chosen)
    assert 0.2 * budget_bytes < sum(map(len, files)) <= budget_bytes
    assert found.loss > 0.3  # grey levels: what it cost is told


def test_features_are_sorted_and_those_left_out_are_named_with_the_reason(text):
    features = section(text, "features")
    places = [
        features.index(f">{name}<")
        for name in ("StDev Lipids Area", "Mean cells Area", "Granularity 1 Bodipy", "Count nuclei")
    ]
    assert places == sorted(places)
    assert "1 left out: its median is 0" in features
    assert "Granularity_16_Bodipy" in features


def test_objects_are_counted_over_all_fields(small, text):
    pairs = [
        field.objects["calibration"]["nuclei"]
        for field in small["measurements"]
        if field.key.magnification == 20
    ]
    nuclei = re.search(r"Nuclei, 20x.*?</figure>", section(text, "objects"), re.DOTALL)[0]
    assert f"<dt>found</dt><dd>{sum(len(of.truth_px) for of in pairs)}</dd>" in nuclei
    assert f"<dt>missed</dt><dd>{sum(of.n_missed for of in pairs)}</dd>" in nuclei
    assert f"<dt>spurious</dt><dd>{sum(of.n_spurious for of in pairs)}</dd>" in nuclei


@pytest.mark.parametrize("log", [False, True])
def test_a_hundred_thousand_objects_cost_no_more_than_one_small_picture(log):
    areas = np.random.default_rng(0).lognormal(5, 1, (2, 100_000)).astype(np.int64) + 1
    chart = charts.object_sizes(
        "Droplets", ObjectPairs(*areas, n_missed=0, n_spurious=0), "#123456", log=log
    )
    assert chart.count("<image") == 1
    assert len(chart) < 200_000


def test_the_plate_shows_the_mean_over_a_wells_fields_in_medians_of_the_truth(small, text):
    fields = [field for field in small["measurements"] if field.key.magnification == 20]
    counts = total(field.truth_counts["A3"] for field in fields)
    median = np.median(np.repeat(np.arange(65536), counts))
    errors = [
        field.pixels["calibration"]["A3"]["mae"] for field in fields if field.key.well == "B03"
    ]
    plate = re.search(r"A3 cytoplasm, 20x.*?</figure>", section(text, "plate"), re.DOTALL)[0]
    assert f">{np.mean(errors) / median:.2f}<" in plate


def test_how_sure_the_model_was_is_compared_with_the_truth(small, text):
    assert 'id="sure"' not in text
    places = [Held(20, "A2", "all", 0.903, 1.5), Held(20, "A2", "edges", 0.61, 2.5)]
    trust = Trust(Verdict.CARE, "", {"A2": 0.2, "A3": 0.3})
    foretold = [
        Foretold(FieldKey(20, "B03", fov), trust, {"A2": 0.1 * fov, "A3": 0.4}) for fov in (1, 2)
    ]
    sure = section(page(**small, sureness=Sureness(places, foretold)), "sure")
    assert "A2 lipid droplets, 20x" in sure
    assert "<td>edges</td><td>61.0 %</td><td>2.50</td>" in sure
    assert "with care 2 fields" in sure
    assert sure.count("<svg") == 1
    assert "<svg" not in section(page(**small, sureness=Sureness(places)), "sure")


def test_the_same_evaluation_gives_the_same_bytes(small, text):
    assert page(**small) == text


def test_the_page_refers_to_nothing_outside_itself(text):
    assert "http:" not in text
    assert "https:" not in text
    assert {
        found
        for found in re.findall(r'(?:src|href)="([^"]{0,5})', text)
        if not found.startswith("#")
    } == {"data:"}
    assert "default-src 'none'; img-src data:" in text


def test_what_others_wrote_is_text_and_never_code(small):
    text = page(**{**small, "origin": {"<script>name": '"><script>alert(1)</script>'}})
    assert text.count("<script") == 1  # the page's own
    assert "&lt;script&gt;alert(1)" in text


def test_one_stain_of_one_field_in_a_far_well_without_features_is_enough(tmp_path):
    given = evaluation(tmp_path, [FieldKey(60, "P24", 3)], ("A2",), {"prediction": 1.0})
    [field] = given["measurements"]
    given["measurements"] = [dataclasses.replace(field, objects={})]
    given["scores"] = {
        "prediction": dataclasses.replace(scored([field], "prediction", ()), intervals={})
    }
    text = page(**given)
    assert "1 field of 1 well" in text
    assert "No features were measured" in text
    assert "No objects were measured" in text
    assert re.findall(r"<b>(\w+)</b> · (60x P24 F003)", text) == [("only", "60x P24 F003")]
    assert "A1 nuclei" not in text
    assert ">P<" in section(text, "plate")


def test_numbers_that_are_missing_are_dashes(tmp_path):
    given = evaluation(
        tmp_path, [FieldKey(20, "B03", 1), FieldKey(20, "B04", 1)], ("A1", "A3"), {"none": 0.0}
    )
    nothing = np.zeros((128, 144), dtype=np.int32)
    for field in given["measurements"]:
        field.pixels["none"]["A1"].update(mae=float("nan"), pearson=float("nan"))
        field.pixels["none"]["A3"].update(pearson=float("nan"))
        field.objects["none"].update(nuclei=match_objects(nothing, nothing))
    given["scores"]["none"].parts[20].feature_errors["Count_nuclei"] = float("nan")
    text = page(**given)
    assert "None of the true nuclei was found" in text
    assert re.findall(r"<b>(\w+)</b> · 20x", text) == ["worst", "best"]  # of A3 alone
    assert "· r –" in text
    assert (
        "nan" not in re.sub(r"base64,[^\"]*|<style>.*?</style>", "", text, flags=re.DOTALL).lower()
    )


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser, text, tmp_path):
    with opened_page(browser, text, tmp_path) as tab:
        yield tab


def grey_at(tab, viewer, x: int, y: int) -> tuple[int, int]:
    """A pixel of the truth and of the painting, as the browser decodes them."""
    return tuple(
        viewer.locator(image).evaluate(
            """async (image, [x, y]) => {
                await image.decode();
                const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
                const context = canvas.getContext("2d");
                context.drawImage(image, 0, 0);
                return context.getImageData(x, y, 1, 1).data[0];
            }""",
            [x, y],
        )
        for image in (".truth", ".painted")
    )


@pytest.mark.browser
@needs_chromium
def test_the_slider_uncovers_the_painting(opened):
    viewer = opened.locator(".viewer").nth(3)
    viewer.scroll_into_view_if_needed()
    viewer.locator(".painted").evaluate("image => image.decode()")
    viewer.locator(".truth").evaluate("image => image.decode()")
    seen = []
    for value in ("100", "0"):
        viewer.locator("input").fill(value)
        png = np.frombuffer(viewer.locator(".stack").screenshot(), dtype=np.uint8)
        seen.append(cv2.imdecode(png, cv2.IMREAD_GRAYSCALE).astype(int))
    assert np.abs(seen[0] - seen[1]).mean() > 1
    box = viewer.locator(".stack").bounding_box()
    opened.mouse.click(box["x"] + box["width"] / 4, box["y"] + 20)
    assert viewer.locator("input").input_value() == "25"


@pytest.mark.browser
@needs_chromium
def test_all_of_a_picture_can_be_worked_from_the_keyboard(opened):
    viewer = opened.locator(".viewer").first
    viewer.locator("input").focus()
    opened.keyboard.press("ArrowRight")
    assert viewer.locator(".stack").evaluate(
        "stack => parseFloat(stack.style.getPropertyValue('--at'))"
    ) == pytest.approx(51, abs=0.1)
    opened.keyboard.press("Tab")
    opened.keyboard.press("Enter")
    viewer.locator("canvas[data-ready]").wait_for()
    assert viewer.locator(".show-error").get_attribute("aria-pressed") == "true"
    opened.keyboard.press("Tab")
    opened.keyboard.press("Space")
    # A pixel of the field is one of the screen.
    assert viewer.locator(".stack").evaluate("stack => stack.clientWidth") == 144


@pytest.mark.browser
@needs_chromium
def test_the_error_is_the_difference_of_the_two_pictures_in_magma(opened):
    from matplotlib import colormaps

    viewer = opened.locator(".viewer").nth(6)
    viewer.locator(".show-error").click()
    viewer.locator("canvas[data-ready]").wait_for()
    read = "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]"
    colours = set()
    for x, y in ((3, 4), (70, 60), (100, 90), (140, 120)):
        truth, painted = grey_at(opened, viewer, x, y)
        expected = np.round(np.array(colormaps["magma"](min(255, 2 * abs(truth - painted)))) * 255)
        found = viewer.locator("canvas").evaluate(read, [x, y])
        np.testing.assert_allclose(found, expected, atol=0.51)
        colours.add(tuple(found))
    assert len(colours) > 1


@pytest.mark.browser
@needs_chromium
def test_the_page_lives_in_a_sandbox_without_an_origin(browser, text):
    with sandboxed(browser, text) as frame:
        viewer = frame.locator(".viewer").first
        viewer.locator(".show-error").click()
        viewer.locator("canvas[data-ready]").wait_for()
        assert viewer.locator("canvas").evaluate("() => self.origin") == "null"
        levels = viewer.locator("canvas").evaluate(
            "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
        )
        assert levels > 10
        frame.locator('a[href="#plate"]').click()
        assert frame.locator("#plate h2").bounding_box()["y"] < 200


@pytest.mark.browser
@needs_chromium
@pytest.mark.parametrize("width_px", [1200, 700, 380])
def test_nothing_sticks_out_of_the_window(opened, width_px):
    opened.set_viewport_size({"width": width_px, "height": 900})
    assert opened.evaluate("document.documentElement.scrollWidth") == width_px
