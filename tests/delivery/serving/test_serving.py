"""The served model over the real server: its answers to good rows, bad rows and parameters."""

import base64
import io
import json
import logging
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
import tifffile
from mlflow.exceptions import MlflowException

from adipocyte.client import StainClient
from adipocyte.delivery.serving.parameters import NAMES
from adipocyte.domain import TARGETS
from adipocyte.errors import ServiceError, UnreachableError
from adipocyte.evaluation.cellprofiler import measure
from adipocyte.evaluation.cellprofiler.objects import DIAMETER, tables_of
from adipocyte.plate.tiff import decode_stack, encode_stack
from adipocyte.staining.stainer import Stainer
from tests.support.plates import planes
from tests.support.served import Server, Watched, rows, serve

GREY = np.random.default_rng(0).integers(500, 4000, (7, 64, 64), dtype=np.uint16)


@pytest.fixture(scope="module")
def model(small_model: Path) -> mlflow.pyfunc.PyFuncModel:
    return mlflow.pyfunc.load_model(str(small_model))


@pytest.fixture(scope="module")
def stainer(small_bundle: Path) -> Stainer:
    return Stainer(small_bundle)


def post(server: Server, body: dict | str) -> requests.Response:
    data = body if isinstance(body, str) else json.dumps(body)
    return requests.post(
        f"{server.url}/invocations",
        data=data,
        headers={"Content-Type": "application/json"},
        timeout=300,
    )


def answers(response: requests.Response) -> list[dict]:
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def image(text: str) -> np.ndarray:
    return decode_stack(base64.b64decode(text), 1)[0]


def refused(response: requests.Response, sentence: str) -> None:
    assert response.status_code == 400, response.text
    assert sentence in response.json()["message"]


def tiff(array: np.ndarray, **options: str) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


# Good rows.


def test_the_example_on_the_models_page_works_as_pasted(small_server, small_model):
    response = post(small_server, (small_model / "serving_input_example.json").read_text())
    [answer] = answers(response)
    assert list(answer) == [*TARGETS, "warnings"]
    assert image(answer["A1"]).shape == (64, 64)


def test_an_answer_is_base64_without_line_breaks(small_server):
    """As RFC 4648 has it. MLflow breaks lines of bytes after 76 letters, which some refuse."""
    [answer] = answers(post(small_server, rows(encode_stack(GREY))))
    assert decode_stack(base64.b64decode(answer["A1"], validate=True), 1).shape == (1, 64, 64)


def test_the_server_paints_what_the_stainer_paints(small_server, stainer):
    stack = planes()
    [answer] = answers(post(small_server, rows(encode_stack(stack))))
    expected = stainer.stain(stack, 20)
    for target in TARGETS:
        np.testing.assert_array_equal(image(answer[target]), expected.images[target])


def test_eight_rows_are_eight_fields(small_server, stainer):
    stacks = [np.roll(GREY, shift, axis=2) for shift in range(8)]
    found = answers(post(small_server, rows(*map(encode_stack, stacks))))
    assert len(found) == 8
    for stack, answer in zip(stacks, found, strict=True):
        np.testing.assert_array_equal(image(answer["A2"]), stainer.stain(stack, 20).images["A2"])


def test_clients_at_the_same_time_each_get_their_own_answer(small_server, stainer):
    stacks = [np.roll(GREY, shift, axis=1) for shift in range(8)]
    with ThreadPoolExecutor(8) as clients:
        found = list(
            clients.map(
                lambda stack: answers(post(small_server, rows(encode_stack(stack))))[0], stacks
            )
        )
    for stack, answer in zip(stacks, found, strict=True):
        np.testing.assert_array_equal(image(answer["A3"]), stainer.stain(stack, 20).images["A3"])


def test_warnings_say_what_is_unlike_the_training_wells(small_server):
    dark, clipped = planes() // 4, np.minimum(planes(), int(np.median(planes())))
    good, low, high = answers(
        post(small_server, rows(*map(encode_stack, (planes(), dark, clipped))))
    )
    assert good["warnings"] == ""
    assert "brightfield mean" in low["warnings"]
    assert "saturated" in high["warnings"]


# Parameters.


@pytest.mark.parametrize(
    ("params", "keywords"),
    [
        ({"histogram_matching": True}, {"intensities": "matching"}),
        ({"histogram_matching": False}, {"intensities": "none"}),
        ({"targets": "A3, A2"}, {"targets": ("A3", "A2")}),
        ({"targets": "A1"}, {"targets": ("A1",)}),
        ({"tile_px": 928}, {"tile_px": 928}),
        ({"tta": True}, {"tta": True}),
        ({"um_per_px": 0.5, "resample": True}, {"um_per_px": 0.5, "resample": True}),
        (
            {"targets": "A2", "tta": True, "histogram_matching": True},
            {"targets": ("A2",), "tta": True, "intensities": "matching"},
        ),
        ({name: None for name in NAMES}, {}),
    ],
    ids=str,
)
def test_a_parameter_does_what_it_says(small_server, stainer, params, keywords):
    stack = planes(1, (160, 192))
    [answer] = answers(post(small_server, rows(encode_stack(stack), **params)))
    expected = stainer.stain(stack, 20, **keywords).images
    assert set(answer) - {"warnings"} == set(expected)
    for target, painted in expected.items():
        np.testing.assert_array_equal(image(answer[target]), painted)


def test_parameters_that_change_the_picture_are_not_ignored(stainer):
    stack = planes(1, (160, 192))
    plain = stainer.stain(stack, 20).images["A2"]
    for keywords in ({"intensities": "matching"}, {"tta": True}):
        assert (stainer.stain(stack, 20, **keywords).images["A2"] != plain).any(), keywords


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        (
            {"histogram_macthing": False},
            "there is no parameter ['histogram_macthing']: there are "
            f"{', '.join(NAMES)}; mind the spelling",
        ),
        (
            {"histogram_matching": "perhaps"},
            "histogram_matching is 'perhaps': it must be true, false or null",
        ),
        ({"targets": "A2,A9"}, "A9"),
        ({"targets": ["A2"]}, "targets is ['A2']: it must be a text"),
        ({"targets": "A" * 300}, "it must be a text of at most 200 characters"),
        ({"targets": "A" * 5000}, "params holds a text of more than 4096 characters"),
        ({"tile_px": 900}, "multiples of 32"),
        ({"tile_px": 128}, "the side at least 928"),
        ({"tile_px": -640}, "the side at least 928"),
        ({"tile_px": 640.5}, "tile_px is 640.5: it must be a whole number"),
        ({"tile_px": True}, "tile_px is True: it must be a whole number"),
        ({"tta": 1}, "tta is 1: it must be true or false"),
        ({"measure": "yes"}, "measure is 'yes': it must be true or false"),
        ({"on_error": "skip"}, "on_error must be stop or report, got 'skip'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stack", [encode_stack(GREY), b"no TIFF"], ids=["good row", "bad row"])
def test_a_parameter_that_makes_no_sense_is_refused_whatever_the_rows(
    small_server, stack, params, sentence
):
    refused(post(small_server, rows(stack, **({"on_error": "report"} | params))), sentence)


def test_params_must_be_an_object(small_server):
    refused(
        post(small_server, rows(encode_stack(GREY)) | {"params": ["tta"]}),
        "params is a list: it must be an object",
    )


def test_a_misspelt_parameter_is_refused_in_python_too_however_little_is_logged(model, monkeypatch):
    """It holds the wording of MLflow's warning, because the refusal reads it."""
    monkeypatch.setattr(logging.getLogger("mlflow"), "level", logging.ERROR)
    table = pd.DataFrame({"stack": [encode_stack(GREY)], "magnification": [20]})
    with pytest.raises(MlflowException, match=r"there is no parameter \['histogram_macthing'\]"):
        model.predict(table, params={"histogram_macthing": False})


# What is measured.


def test_features_and_objects_are_those_of_the_answered_images(small_server):
    body = rows(encode_stack(planes(1, (370, 384))), measure=True, on_error="report")
    [answer] = answers(post(small_server, body))
    assert list(answer) == [*TARGETS, "warnings", "features", "objects", "error"]
    expected = measure({target: image(answer[target]) for target in TARGETS}, 20)
    assert json.loads(answer["features"]) == nulled(expected.features)
    droplets = tables_of(expected)["LipidDroplets"]
    objects = json.loads(answer["objects"])
    assert objects["counts"]["LipidDroplets"] == len(droplets[DIAMETER]) > 0
    assert sum(objects["droplets_by_diameter"]) == len(droplets[DIAMETER])


def test_what_needs_a_stain_that_was_not_asked_for_is_null(small_server):
    body = rows(encode_stack(planes(1, (370, 384))), measure=True, targets="A2")
    [answer] = answers(post(small_server, body))
    expected = measure({"A2": image(answer["A2"])}, 20)
    assert json.loads(answer["features"]) == nulled(expected.features)
    objects = json.loads(answer["objects"])
    n = sum(objects["droplets_by_diameter"])
    assert objects["counts"] == {"Nuclei": None, "Cells": None, "LipidDroplets": n}


def nulled(features: dict[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in features.items()}


def test_a_field_too_small_to_be_measured_is_refused_before_any_is_painted(
    compact_model, monkeypatch
):
    model = mlflow.pyfunc.load_model(str(compact_model))
    watched = Watched(monkeypatch)
    stacks = [encode_stack(planes(1, (370, 384))), encode_stack(GREY)]
    table = pd.DataFrame({"stack": stacks, "magnification": [20, 20]})
    sentence = "row 1: a field of 64 x 64 pixels is too small to be measured: a side must be at"
    with pytest.raises(MlflowException, match=sentence):
        model.predict(table, {"measure": True})
    assert watched.n_calls == 0
    reported = model.predict(table[1:], {"measure": True, "on_error": "report", "targets": "A2"})
    [answer] = reported.to_dict("records")
    assert "370" in answer.pop("error")
    assert answer == {"A2": None, "warnings": "", "features": None, "objects": None}


# Bad rows.

BAD_ROWS = {
    "six planes": (
        encode_stack(GREY[:6]),
        20,
        "the stack has 6 of 7 pages: it must have 7 grey pages",
    ),
    "float": (
        tiff(GREY.astype(np.float32), photometric="minisblack"),
        20,
        "pixels of type float32",
    ),
    "colour": (
        tiff(np.ones((7, 64, 64, 3), np.uint16), photometric="rgb"),
        20,
        "(64, 64, 3) (colour?)",
    ),
    "truncated": (encode_stack(GREY)[:20000], 20, "cut short"),
    "end missing": (encode_stack(GREY)[:-5000], 20, "cut short"),
    "no bytes": (b"", 20, "is empty (0 bytes)"),
    "no TIFF": (b"not a picture", 20, "cannot be read as TIFF"),
    "JPEG": (
        tiff(GREY.astype(np.uint8), compression="jpeg", photometric="minisblack"),
        20,
        "is compressed with JPEG",
    ),
    "no whole magnification": (encode_stack(GREY), 20.5, "its magnification is 20.5: send the"),
    "text": (encode_stack(GREY), "20", "its magnification is '20': send the objective's"),
    "truth": (encode_stack(GREY), True, "its magnification is True"),
    "null": (encode_stack(GREY), None, "the row has no magnification"),
    "no number": (encode_stack(GREY), float("nan"), "its magnification is nan"),
    "many digits": (encode_stack(GREY), 10**4000, "its magnification is 1000"),
    "far off": (encode_stack(GREY), -1e300, "its magnification is -1e+300"),
    "a list": (encode_stack(GREY), [20] * 99, "its magnification is [20, 20, "),
    "no stack": (None, 20, "the row has no stack: send the bytes of a TIFF, in JSON in base64"),
    "a number": (17, 20, "its stack is 17"),
    "numbers": (GREY[0, :9].tolist(), 20, "its stack is [["),
    "no base64": ("SUkqAAgAAA=A", 20, "the stack is no base64 ("),
    "no letters": ("é" * 9000, 20, "the stack is no base64 ("),
    "too small": (encode_stack(GREY[:, :40]), 20, "a side must be at least 64"),
    "magnification": (encode_stack(GREY), 60, "has not seen 60x, only 20x"),
    "negative": (encode_stack(GREY), -20, "has not seen -20x, only 20x"),
}


@pytest.mark.parametrize(
    ("stack", "magnification", "sentence"), BAD_ROWS.values(), ids=BAD_ROWS.keys()
)
def test_a_bad_row_stops_the_request_and_names_itself(small_server, stack, magnification, sentence):
    body = rows(encode_stack(GREY))
    body["dataframe_records"] += rows(stack, magnification=magnification)["dataframe_records"]
    response = post(small_server, body)
    refused(response, "row 1: ")
    refused(response, sentence)
    assert len(response.json()["message"]) < 400


def test_bad_rows_are_reported_beside_the_others_answers_when_asked_for(small_server, stainer):
    records = rows(encode_stack(GREY))["dataframe_records"]
    for stack, magnification, _ in BAD_ROWS.values():
        records += rows(stack, magnification=magnification)["dataframe_records"]
    records += rows(encode_stack(GREY[:, ::-1].copy()))["dataframe_records"]
    first, *bad, last = answers(
        post(small_server, {"dataframe_records": records, "params": {"on_error": "report"}})
    )
    for answer, stack in ((first, GREY), (last, GREY[:, ::-1].copy())):
        assert list(answer) == [*TARGETS, "warnings", "error"]
        assert answer["error"] == ""
        np.testing.assert_array_equal(image(answer["A1"]), stainer.stain(stack, 20).images["A1"])
    for answer, (_, _, sentence) in zip(bad, BAD_ROWS.values(), strict=True):
        assert sentence in answer["error"]
        assert answer | {"error": ""} == {
            "A1": None,
            "A2": None,
            "A3": None,
            "warnings": "",
            "error": "",
        }


def test_a_request_of_bad_rows_alone_is_reported_too(small_server):
    answer = answers(post(small_server, rows(b"no TIFF", on_error="report", targets="A2")))
    assert [list(row) for row in answer] == [["A2", "warnings", "error"]]
    assert answer[0]["A2"] is None


# Requests that make no sense.


FORM = 'its form is {"dataframe_records": [{"stack": "<TIFF in base64>", "magnification": 20}]}'


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("", "the body is no JSON"),
        ("[" * 200_000, "the request has more than 20000 parts"),
        ("[" * 19_000, "the body is no JSON (it is nested too deeply)"),
        ('{"dataframe_records": ' + "1" * 5000 + "}", "the body is no JSON"),
        ("{}", "the request holds no rows: it must hold dataframe_records or dataframe_split"),
        ("[1, 2]", f"the request is a list: {FORM}"),
        (
            {"dataframe_records": 1, "dataframe_split": 2},
            "holds dataframe_records, dataframe_split",
        ),
        ({"dataframe_records": [], "parmas": {}}, "holds dataframe_records, parmas: it must hold"),
        ({"dataframe_records": {}}, f"dataframe_records is an object: {FORM}"),
        ({"dataframe_records": []}, "the request holds no row"),
        ({"dataframe_records": [[]] * 1001}, "the request holds 1001 rows: send at most 1000"),
        (
            {"dataframe_split": {"columns": [0] * 9000, "data": [0] * 9000}},
            "the request holds 9000 rows",
        ),
        ({"dataframe_split": {"data": []}}, "dataframe_split holds no columns or no data"),
        ({"dataframe_split": {"columns": ["stack"], "data": []}}, "the request holds no row"),
        ({"dataframe_records": [{"stak": 9, "magnification": 20}]}, "row 0: the row has no stack"),
        ({"inputs": {"stack": ["AAAA"], "magnification": [20]}}, "the request holds inputs: it"),
        ({"instances": [{"stack": "AAAA", "magnification": 20}]}, "the request holds instances"),
        ({"messages": [{"role": "user", "content": "paint"}]}, "the request holds messages"),
        (rows(b"") | {"params": 3}, "params is a number: it must be an object"),
    ],
    ids=lambda body: str(body)[:60],
)
def test_a_request_that_makes_no_sense_is_the_callers_fault(small_server, body, sentence):
    refused(post(small_server, body), sentence)


def test_further_columns_are_ignored_in_both_forms(small_server):
    [record] = rows(encode_stack(GREY), targets="A2")["dataframe_records"]
    split = {"columns": ["well", *record], "data": [["B03", *record.values()]]}
    for body in (
        {"dataframe_records": [record | {"well": "B03", "notes": [{"by": "x" * 5000}]}]},
        {"dataframe_split": split},
    ):
        assert len(answers(post(small_server, body | {"params": {"targets": "A2"}}))) == 1


@pytest.mark.parametrize("break_lines", ["\n", "\r\n"])
def test_base64_may_have_line_breaks_and_escaped_slashes(small_server, break_lines):
    """As `base64` without -w0 and PHP write it."""
    text = base64.encodebytes(encode_stack(GREY)).decode().replace("\n", break_lines)
    assert "/" in text
    body = json.dumps({"dataframe_records": [{"stack": text, "magnification": 20.0}]})
    assert len(answers(post(small_server, body.replace("/", "\\/")))) == 1


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/csv", "stack,magnification\nAAAA,20\n"),
        ("application/vnd.apache.parquet", "no parquet"),
        ("image/tiff", encode_stack(GREY)),
        ("application/json; charset=latin-1", "{}"),
        ("application/jsonlines", "{}"),
        ("x" * 50_000, "{}"),
        (None, "{}"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_another_kind_of_body_is_refused(small_server, kind, body):
    answer = requests.post(
        f"{small_server.url}/invocations", data=body, headers={"Content-Type": kind}, timeout=60
    )
    assert answer.status_code == 415
    message = answer.json()["message"]
    assert "send JSON in UTF-8, with the header Content-Type: application/json" in message
    assert len(message) < 300


@pytest.mark.parametrize("kind", ["Application/JSON", 'application/json;charset="UTF-8"'])
def test_the_kind_of_a_body_may_be_written_otherwise(small_server, kind):
    body = json.dumps(rows(encode_stack(GREY), targets="A2"))
    answer = requests.post(
        f"{small_server.url}/invocations", data=body, headers={"Content-Type": kind}, timeout=60
    )
    assert len(answers(answer)) == 1


# Memory and time.


@pytest.mark.slow
def test_a_field_beyond_the_memory_limit_is_painted_in_tiles_or_refused_and_the_others_are_not(
    small_model, stainer, tmp_path
):
    field, huge = np.tile(GREY, (1, 18, 18)), np.tile(GREY, (1, 50, 50))
    in_tiles = stainer.memory_needed_mb(field.shape[1:], targets=["A2"], tile_px=1088)
    whole = stainer.memory_needed_mb(field.shape[1:], targets=["A2"], tile_px=None)
    limit = f"{(in_tiles + whole) / 2:.0f}"
    with serve(small_model, tmp_path / "log", ADIPOCYTE_MEMORY_MB=limit) as server:
        [answer] = answers(post(server, rows(encode_stack(field), targets="A2")))
        np.testing.assert_array_equal(
            image(answer["A2"]), stainer.stain(field, 20, targets=["A2"], tile_px=1088).images["A2"]
        )
        refused(
            post(server, rows(encode_stack(field), targets="A2", tile_px=1152)),
            "row 0: a field of 1152 x 1152 pixels takes ",
        )
        compressed = tiff(huge, compression="zlib")
        refused(post(server, rows(compressed, targets="A2")), "ADIPOCYTE_MEMORY_MB")
        first, second = answers(
            post(server, rows(compressed, encode_stack(GREY), on_error="report", targets="A2"))
        )
        assert "are allowed" in first["error"]
        assert second["error"] == ""


def test_a_field_beyond_the_memory_limit_is_refused_before_it_is_decoded(
    compact_model, monkeypatch
):
    monkeypatch.setenv("ADIPOCYTE_MEMORY_MB", "200")
    model = mlflow.pyfunc.load_model(str(compact_model))
    table = pd.DataFrame(
        {"stack": [tiff(np.tile(GREY, (1, 40, 40)), compression="zlib")], "magnification": [20]}
    )
    tracemalloc.start()
    try:
        with pytest.raises(
            MlflowException,
            match=r"2560 x 2560 pixels takes .* MB of memory in tiles of 448, 200 are allowed",
        ):
            model.predict(table)
        assert tracemalloc.get_traced_memory()[1] < 30e6  # the stack alone has 92 MB
    finally:
        tracemalloc.stop()


def test_a_limit_that_no_field_fits_in_is_refused_as_such(compact_model, monkeypatch):
    monkeypatch.setenv("ADIPOCYTE_MEMORY_MB", "1")
    model = mlflow.pyfunc.load_model(str(compact_model))
    with pytest.raises(MlflowException, match="1 are allowed"):
        model.predict(pd.DataFrame({"stack": [encode_stack(GREY)], "magnification": [20]}))


def test_a_memory_limit_that_is_no_number_is_refused(compact_model, monkeypatch):
    monkeypatch.setenv("ADIPOCYTE_MEMORY_MB", "4 GB")
    with pytest.raises(
        Exception, match="ADIPOCYTE_MEMORY_MB must be a whole number of megabytes, got '4 GB'"
    ):
        mlflow.pyfunc.load_model(str(compact_model))


def test_one_field_is_painted_at_a_time(compact_model, monkeypatch):
    model = mlflow.pyfunc.load_model(str(compact_model))
    watched = Watched(monkeypatch)
    table = pd.DataFrame({"stack": [encode_stack(GREY)] * 2, "magnification": [20] * 2})
    with ThreadPoolExecutor(4) as clients:
        found = list(clients.map(lambda _: model.predict(table), range(4)))
    assert (watched.most, len(found)) == (1, 4)


def test_a_refusal_in_python_is_an_mlflow_exception(model):
    with pytest.raises(MlflowException, match="row 0: the stack has 6 of 7 pages"):
        model.predict(pd.DataFrame({"stack": [encode_stack(GREY[:6])], "magnification": [20]}))


# The client over the server.


@pytest.mark.parametrize(
    ("matching", "intensities"), [(None, None), (True, "matching"), (False, "none")]
)
def test_the_client_can_switch_matching_on_and_off_and_leave_it_to_the_model(
    small_server, stainer, matching, intensities
):
    answer = StainClient(small_server.url).stain(planes(), 20, histogram_matching=matching)
    expected = stainer.stain(planes(), 20, intensities=intensities)
    assert (set(answer.images), answer.warnings) == (set(TARGETS), "")
    np.testing.assert_array_equal(answer.images["A3"], expected.images["A3"])


def test_the_client_repeats_the_servers_sentence(small_server):
    with pytest.raises(ServiceError, match="the stack has 6 of 7 pages"):
        StainClient(small_server.url).stain(GREY[:6], 20)


def test_the_client_says_when_nobody_answers():
    with pytest.raises(UnreachableError, match="is mlflow models serve running there"):
        StainClient("http://127.0.0.1:9").stain(GREY, 20)
