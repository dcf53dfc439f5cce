"""Every answer gives painted images or is refused in words.

None makes the client take more memory than a multiple of its bytes. To try more than a hundred:
ADIPOCYTE_FUZZ_EXAMPLES=5000 pytest tests/test_client_fuzz.py --timeout 3600
"""

import json
import os
import random
import time
from base64 import b64encode
from typing import Any

import numpy as np

from adipocyte.client import ServiceError, StainClient
from adipocyte.plate.tiff import encode_image
from tests.support.plates import planes
from tests.support.tiff_fuzz import FACTOR, MAKERS, SPARE_MB, forget_memory, memory_mb
from tests.test_client import answering

N_EXAMPLES = int(os.environ.get("ADIPOCYTE_FUZZ_EXAMPLES", "100"))
GREY = planes(0, (64, 64))
GOOD = encode_image(GREY[0])
NAMES = ["A1", "A2", "A3", "A9", "../../x", "", "warnings", "error", "A1\0"]
PATIENCE_S = 20
GOOD_OBJECTS = {
    "counts": {"Nuclei": 1, "Cells": 1, "LipidDroplets": 2},
    "droplets_per_cell": [2],
    "lipid_um2_per_cell": [1.5],
    "droplets_by_diameter": [1, 1],
    "edges_um": [0, 1, None],
}


def image(choice: random.Random) -> Any:
    """What stands in an image's place: a good one, a hostile one, or none."""
    kind = choice.randrange(8)
    data = GOOD if kind < 5 else choice.choice(MAKERS)(choice)
    if kind == 7:
        return choice.choice([None, 17, [], {}, "", "no base64", "A" * choice.randrange(10**5)])
    return b64encode(data).decode()


def measured(choice: random.Random) -> dict[str, Any]:
    """What stands in the place of measurements: good ones, hostile ones, or none."""
    values: list[Any] = [None, 1, -2.5, 1e999, 10**30, "x", [], {}, [1], [[]] * 999, True]
    objects = {
        name: choice.choice(values) if choice.random() < 0.2 else good
        for name, good in GOOD_OBJECTS.items()
    }
    features = {choice.choice(["a", "../a", "\x1b"]): choice.choice(values[:4])}
    texts = [json.dumps(said) for said in (features, objects)]
    if choice.random() < 0.2:
        texts[choice.randrange(2)] = choice.choice(["[" * 9000, "", "null", "[]," * 5000])
    return dict(zip(("features", "objects"), texts, strict=True))


def answer(choice: random.Random, is_measured: bool) -> bytes:
    """The body of an answer."""
    names = NAMES if choice.random() < 0.3 else NAMES[:3]
    row: Any = {name: image(choice) for name in choice.sample(names, choice.randrange(4))}
    row |= {"warnings": "" if choice.random() < 0.7 else choice.choice(["x" * 9000, {}, None])}
    if is_measured:
        row |= measured(choice)
    if choice.random() < 0.1:
        row = choice.choice([[], "row", None, {"error": "\x1b[2J" * 99, "warnings": ""}])
    n_rows = 1 if choice.random() < 0.9 else choice.randrange(9000)
    body = json.dumps({"predictions": [row] * (n_rows if n_rows < 9 or row in ([], None) else 9)})
    if choice.random() < 0.1:
        unit = choice.choice(["[", '{"a":', '"', "[],", "9", "\\"])
        body = body[: choice.randrange(len(body))] + unit * choice.randrange(10**5)
    return body.encode()


def test_every_answer_gives_images_or_is_refused_in_words():
    bodies: list[bytes] = []

    def reply(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(bodies[-1])))
        handler.end_headers()
        handler.wfile.write(bodies[-1])

    seen, slowest_s, most_mb = {"images": 0, "refused": 0}, 0.0, 0.0
    with answering(reply) as (url, _):
        for example in range(N_EXAMPLES):
            is_measured = example % 2 == 1
            bodies.append(answer(random.Random(example), is_measured))
            forget_memory()
            before_mb, start = memory_mb(), time.perf_counter()
            try:
                images = StainClient(url).stain(GREY, 20, measure=is_measured).images
                assert all(found.shape == (64, 64) for found in images.values()), example
                assert {found.dtype for found in images.values()} == {np.dtype("uint16")}
                seen["images"] += 1
            except ServiceError as error:
                sentence = str(error)
                assert 0 < len(sentence) < 5000, example
                assert sentence.isprintable(), example
                seen["refused"] += 1
            took_s = time.perf_counter() - start
            assert took_s < PATIENCE_S, example
            took_mb = memory_mb() - before_mb - FACTOR * len(bodies[-1]) / 1e6
            assert took_mb < SPARE_MB, (example, took_mb)
            slowest_s, most_mb = max(slowest_s, took_s), max(most_mb, took_mb)
    print(seen, f"slowest {slowest_s:.2f} s, beside four times the answer {most_mb:.0f} MB")
    assert min(seen.values()) > N_EXAMPLES / 20
