"""An answer with the lowest and the highest counts to be expected, from bundle to client."""

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from adipocyte.client import _painted
from adipocyte.delivery.serving.painter import Painter
from adipocyte.delivery.serving.request import RequestError, Row
from adipocyte.domain import TARGETS
from adipocyte.imaging.intervals import LEVEL
from adipocyte.plate.tiff import decode_stack, encode_stack
from adipocyte.staining.bundle import write_foretellers, write_intervals
from adipocyte.staining.stainer import Stainer
from tests.support.bundles import some_foreteller, some_widths
from tests.support.plates import planes

pytestmark = pytest.mark.slow  # paints with four networks, many times

STACK = planes(0, (96, 80))


@pytest.fixture(scope="module")
def stainer(compact_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Stainer:
    folder = shutil.copytree(compact_bundle, tmp_path_factory.mktemp("sure") / "bundle")
    write_intervals(folder, {f"20/{target}": some_widths() for target in TARGETS})
    write_foretellers(folder, [some_foreteller(farthest=1e6)])
    return Stainer(folder)


def answers(stainer: Stainer, **params) -> Iterator[dict]:
    return Painter(stainer).begin([Row(encode_stack(STACK), 20)], params).answers()


def test_the_answer_holds_the_intervals_of_what_is_painted(stainer):
    [answer] = answers(stainer, uncertainty=True, targets="A2,A1")
    bounds = ["A2_low", "A2_high", "A1_low", "A1_high"]
    assert list(answer) == ["A2", "A1", *bounds, "warnings", "trust"]
    stained = stainer.stain(STACK, 20, level=LEVEL)
    for target in ("A1", "A2"):
        names = (target, f"{target}_low", f"{target}_high")
        images = [decode_stack(answer[name], 1)[0] for name in names]
        expected = (stained.images[target], *stained.intervals[target])
        np.testing.assert_array_equal(images, expected)
    trust = json.loads(answer["trust"])
    assert trust == asdict(stained.trust)
    assert trust["verdict"] == "with care"
    assert (
        trust["reason"]
        == "the error of A1 is expected to be 1.5 times the usual one, 30% of its median"
    )
    assert trust["errors"] == pytest.approx(dict.fromkeys(TARGETS, 0.3))
    [plain] = answers(stainer, targets="A1")
    assert list(plain) == ["A1", "warnings"]


def test_the_client_takes_them_out_of_the_answer(stainer):
    [answer] = answers(stainer, uncertainty=True)
    row = {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in answer.items()
    }
    body = bytearray(json.dumps({"predictions": [row]}).encode())
    found = _painted(body, 10_000, False, True)
    stained = stainer.stain(STACK, 20, level=LEVEL)
    assert list(found.images) == list(found.intervals) == list(TARGETS)
    assert found.trust == stained.trust
    for target in TARGETS:
        np.testing.assert_array_equal(found.images[target], stained.images[target])
        np.testing.assert_array_equal(found.intervals[target], stained.intervals[target])
    with pytest.raises(ValueError, match="an image named 'A1_high'"):
        _painted(body, 10_000, False, False)
    del row["trust"]  # an older server
    older = _painted(bytearray(json.dumps({"predictions": [row]}).encode()), 10_000, False, True)
    assert older.trust is None
    del row["A2_low"]
    with pytest.raises(KeyError, match="A2_low"):
        _painted(bytearray(json.dumps({"predictions": [row]}).encode()), 10_000, False, True)


@pytest.mark.parametrize(
    ("params", "said"),
    [({"histogram_matching": True}, "no intervals of images with the intensities matching")],
)
def test_images_in_another_way_than_the_models_have_none(stainer, params, said):
    with pytest.raises(RequestError, match=said):
        next(answers(stainer, uncertainty=True, **params))


def test_a_model_that_knows_none_refuses(compact_bundle):
    with pytest.raises(RequestError, match=r"no intervals of A1 at 20x.* register it again"):
        next(answers(Stainer(compact_bundle), uncertainty=True))
