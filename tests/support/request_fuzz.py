"""Sends nonsense to a served model: python request_fuzz.py <model> <examples>.

test_request_fuzz.py runs it in a process of its own, because a codec may crash. Requests go to the
application of `mlflow models serve`. It ends with an error when one is answered by anything but
images or a 4xx with a sentence, takes longer than PATIENCE_S, takes more memory than FACTOR times
its bytes and SPARE_MB, or opens a file or a connection. It prints what it saw as JSON.
"""

import asyncio
import base64
import collections
import contextlib
import faulthandler
import gc
import importlib
import io
import json
import os
import random
import resource
import signal
import struct
import sys
import time
from collections.abc import Generator

import mlflow
import numpy as np
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.pyfunc import scoring_server

from adipocyte.delivery.serving.parameters import NAMES
from tests.support.tiff_fuzz import FACTOR, MAKERS, SPARE_MB, forget_memory, memory_mb

LIMIT_MB = 900  # of address space, beside a request's bytes
PATIENCE_S = 20
JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
GREY = np.random.default_rng(0).integers(500, 4000, (7, 64, 64), dtype=np.uint16)
NETWORK = (
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
    "os.system",
    "urllib.Request",
    "os.posix_spawn",
    "os.fork",
)
# Where code is imported from, at first use.
INSTALLED = tuple(map(os.path.realpath, (sys.prefix, sys.base_prefix, os.getcwd())))


def tiff(stack: np.ndarray, **options: object) -> bytes:
    """A TIFF of a (Z, Y, X) stack."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stack, photometric="minisblack", **options)
    return buffer.getvalue()


OPTIONS = [
    {},
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": True},
    {"compression": "lzw"},
    {"compression": "lzw", "predictor": True, "rowsperstrip": 5},
    {"compression": "zstd"},
    {"compression": "packbits"},
    {"compression": "jpeg2000"},
    {"compression": "lzma"},
    {"tile": (16, 16)},
    {"tile": (32, 48), "compression": "zlib"},
    {"ome": True},
    {"imagej": True},
    {"bigtiff": True},
    {"byteorder": ">"},
    {"bigtiff": True, "byteorder": ">", "compression": "lzw"},
]
STACKS = [tiff(GREY, **options) for options in OPTIONS] + [
    tiff(GREY.astype(np.uint8), compression=codec) for codec in (None, "zlib", "jpeg")
]


def tag_places(data: bytes) -> tuple[str, list[int]]:
    """The byte order of a TIFF and where its pages' tags stand."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return file.byteorder, [tag.offset for page in file.pages for tag in page.tags.values()]


# By number, because hypothesis writes out what it samples from.
WHOLE = st.integers(0, len(STACKS) - 1).map(lambda number: STACKS[number])
PLACES = dict(zip(STACKS, map(tag_places, STACKS), strict=True))
BORDERS = [0, 1, 64, 9999, 10_000, 10_001, 65535, 2**16]
BORDERS += [2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]
NASTY = st.integers(0, 300) | st.sampled_from(BORDERS)


@st.composite
def retagged(draw: st.DrawFn) -> bytes:
    """A stack with other numbers in its page headers: code, type, count, value, offset of a tag."""
    data = draw(WHOLE)
    order, places = PLACES[data]
    changed = bytearray(data)
    for place in draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        kind = draw(st.sampled_from("HIQ"))
        start = place + draw(st.sampled_from([0, 2, 4, 8, 12]))
        number = struct.pack(order + kind, draw(NASTY) % 256 ** struct.calcsize(kind))
        changed[start : start + len(number)] = number
    return bytes(changed)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A stack with other bytes here and there, cut short, or with the end of another."""
    data = bytearray(draw(WHOLE))
    for position, byte in draw(
        st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), max_size=8)
    ):
        data[position % len(data)] = byte
    kept = draw(st.none() | st.integers(0, len(data)))
    end = draw(WHOLE)[kept:] if kept is not None and draw(st.booleans()) else b""
    return bytes(data[:kept]) + end


MAGIC = st.sampled_from(
    [b"", b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"II*\0\x08\0\0\0", b"IIRO", b"EP*\0"]
)
# As hostile as a plate's files. By number, because hypothesis writes out what it draws from.
CRAFTED = st.tuples(st.integers(0, 2**32), st.sampled_from(range(len(MAKERS)))).map(
    lambda drawn: MAKERS[drawn[1]](random.Random(drawn[0]))
)
STACK_BYTES = st.one_of(
    retagged(),
    retagged(),
    damaged(),
    CRAFTED,
    CRAFTED,
    WHOLE,
    st.builds(bytes.__add__, MAGIC, st.binary(max_size=300)),
)
STACK = STACK_BYTES.map(lambda data: base64.b64encode(data).decode())
NONSENSE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["/etc/passwd", "http://127.0.0.1:9/"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
ODD_MAGNIFICATION = (
    st.sampled_from([40, 0, -20, 20.5, "20", "twenty", True, 2**70, 1e300, float("nan")]) | NONSENSE
)
MAGNIFICATION = st.just(20) | ODD_MAGNIFICATION
PARAMS = st.fixed_dictionaries(
    {"targets": st.sampled_from(["A2", "A3"])},
    optional={
        "histogram_matching": st.none() | st.booleans(),
        "tile_px": st.sampled_from([None, 0, 928]),
        "measure": st.sampled_from([False, False, False, True]),
        "on_error": st.sampled_from(["stop", "report"]),
    },
)
ODD_PARAMS = st.dictionaries(
    st.sampled_from([*NAMES, "tile", ""]),
    NONSENSE | st.sampled_from(["A1,A2", "A9", 100, -1, 2**40, True]),
    max_size=3,
)


def form(rows: st.SearchStrategy, params: st.SearchStrategy) -> st.SearchStrategy:
    return st.builds(
        lambda rows, params: {"dataframe_records": rows, "params": params}, rows, params
    )


def row_lists(magnification: st.SearchStrategy) -> st.SearchStrategy:
    row = st.fixed_dictionaries({"stack": STACK, "magnification": magnification})
    return st.lists(row, min_size=1, max_size=2)


ROWS = row_lists(st.just(20))
GOOD_FORM = form(ROWS, PARAMS)
NEARLY_GOOD_FORM = form(ROWS | row_lists(MAGNIFICATION), PARAMS | ODD_PARAMS)
ODD_NAMES = st.sampled_from(["stack", "magnification", "stak", "index"])
ODD_ROWS = st.lists(st.dictionaries(ODD_NAMES, NONSENSE | STACK, max_size=3), max_size=3)
SPLIT_ROWS = st.fixed_dictionaries(
    {
        "columns": st.just(["stack", "magnification"]),
        "data": st.lists(st.tuples(STACK, MAGNIFICATION), max_size=2),
    }
)
COLUMNS = st.fixed_dictionaries(
    {
        "stack": st.lists(STACK, max_size=2) | NONSENSE,
        "magnification": st.lists(MAGNIFICATION, max_size=2),
    }
)
FORMS = ["dataframe_records", "dataframe_split", "inputs", "instances", "params", "messages"]
ODD_FORM = st.dictionaries(
    st.sampled_from(FORMS), ODD_ROWS | NONSENSE | SPLIT_ROWS | COLUMNS, min_size=1, max_size=2
)
ANY_FORM = GOOD_FORM | GOOD_FORM | GOOD_FORM | NEARLY_GOOD_FORM | ODD_FORM


def swollen(unit: str, n_units: int, place: str, *, is_cut: bool) -> bytes:
    """A small good request with a *unit* of JSON over and over in some *place*."""
    units = ",".join(unit.replace("#", str(number)) for number in range(n_units))
    inner = {"nested": unit * n_units, "listed": f"[{units}]", "text": json.dumps(units)}
    body = place.replace("@", inner["nested" if unit in NESTED else "listed"])
    return body[: -len(place) // 2 if is_cut else None].replace("%", inner["text"]).encode()


NESTED = ["[", '{"a":', '"', "\\", '\\"', '"\\']
UNITS = [
    "[]",
    "{}",
    "0",
    "null",
    '"a"',
    '{"a":[]}',
    '{"c#":1}',
    '{"stack":"AAAA","magnification":20}',
]
UNITS += ["[[]]", "1e999", "1" * 30, '{"magnification":{"a":[1,[2]]}}', '{"":""}']
ROW = '{"stack":"AAAA","magnification":20}'
SWELLING = [
    '{"dataframe_records":@}',
    '{"dataframe_split":{"columns":@,"data":@}}',
    '{"dataframe_split":{"columns":["stack","magnification"],"data":@}}',
    f'{{"dataframe_records":[{ROW}],"x":@}}',
    f'{{"dataframe_records":[{ROW}],"params":@}}',
    f'{{"dataframe_records":[{ROW}],"params":{{"targets":@}}}}',
    '{"dataframe_records":[{"stack":@,"magnification":20}]}',
    '{"dataframe_records":[{"stack":"AAAA","magnification":@}]}',
    '{"dataframe_records":[{"stack":%,"magnification":%,"well":%}]}',
    '{"dataframe_records":[{%:1,"stack":"AAAA","magnification":20}],"params":{"targets":%}}',
    "@",
    "%",
]
SWOLLEN = st.builds(
    swollen,
    st.sampled_from(NESTED + UNITS),
    st.integers(0, 40) | st.sampled_from([999, 1001, 5000, 19_999, 20_001, 300_000]),
    st.sampled_from(SWELLING),
    is_cut=st.booleans(),
)
KINDS = st.sampled_from([JSON, "Application/JSON; charset=UTF-8", CSV, PARQUET, "image/tiff", ""])
BODIES = st.one_of(
    st.tuples(SWOLLEN, st.just(JSON)),
    st.tuples(ANY_FORM.map(json.dumps).map(str.encode), st.just(JSON)),
    st.tuples(ANY_FORM.map(json.dumps).map(str.encode), st.just(JSON)),
    st.tuples(
        st.binary(max_size=200) | NONSENSE.map(json.dumps).map(str.encode),
        KINDS,
    ),
    st.tuples(STACK.map(lambda stack: f"stack,magnification\n{stack},20\n".encode()), st.just(CSV)),
)


def ome(xml: str) -> bytes:
    """A good stack with an OME-XML that says something about files."""
    name = "xmlns='http://www.openmicroscopy.org/Schemas/OME/2016-06'"
    return tiff(GREY, description=f"<?xml version='1.0'?><OME {name}>{xml}</OME>", metadata=None)


def tempting_stacks(path: str) -> list[bytes]:
    """Stacks whose metadata names the file *path*, or another, to be opened."""
    pixels = (
        "<Pixels ID='Pixels:0' DimensionOrder='XYZCT' Type='uint16' "
        "SizeX='64' SizeY='64' SizeZ='7' SizeC='1' SizeT='1'>"
    )
    series = "".join(
        f"<TiffData IFD='0' FirstZ='{z}'><UUID FileName='secret.tif'>urn:uuid:{z}</UUID></TiffData>"
        for z in range(7)
    )
    entity = (
        "<!DOCTYPE OME [<!ENTITY secret SYSTEM 'file:///etc/passwd'>]>"
        "<OME xmlns='http://www.openmicroscopy.org/OME'>&secret;</OME>"
    )
    return [
        ome(f"<BinaryOnly MetadataFile='{path}' UUID='urn:uuid:1'/>"),
        ome(f"<Image ID='Image:0'>{pixels}{series}</Pixels></Image>"),
        tiff(GREY, description=entity, metadata=None),
        tiff(GREY, description=f"ImageJ=1.11a\nimages=7\nfile={path}", metadata=None),
    ]


def temptations(folder: str) -> list[tuple[bytes, str]]:
    """Requests that name files and addresses in every place. Files of these names are there."""
    path = os.path.join(folder, "secret.tif")
    with open(path, "wb") as file:
        file.write(tiff(GREY))
    with open(os.path.join(folder, "secret.json"), "w") as file:
        json.dump({"dataframe_records": []}, file)
    address = "http://127.0.0.1:9/secret.tif"
    names = [path, f"file://{path}", address, "secret.tif", "../../etc/passwd"]
    hidden = [*map(str.encode, names), *tempting_stacks(path)]
    texts = [*names, *(base64.b64encode(data).decode() for data in hidden)]
    rows = [[{"stack": text, "magnification": 20}] for text in texts]
    rows += [[{"stack": texts[-4], "magnification": name}] for name in names]
    params = {"targets": "A2", "on_error": "report"}
    bodies: list[dict] = [{"dataframe_records": row, "params": params} for row in rows]
    for name in names:
        bodies += [{form: name} for form in FORMS[:4]]
        bodies.append({"inputs": {"stack": name, "magnification": 20}})
        bodies.append({"dataframe_records": rows[-1], "params": {"targets": name}})
        bodies[-1] |= rows[-1][0]
    requests = [(json.dumps(body).encode(), JSON) for body in [*bodies, *names]]
    for name in [*names, folder + "/secret.json"]:
        requests += [(name.encode(), kind) for kind in (JSON, CSV, PARQUET)]
    return requests


def address_space() -> int:
    """Bytes of address space that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


class Watch:
    """What an `armed` process opens while `on`, files and connections, by audit hook."""

    def __init__(self) -> None:
        self.armed, self.on, self.opened = False, False, []
        sys.addaudithook(self._see)

    def _see(self, event: str, details: tuple) -> None:
        if not (self.armed and self.on):
            return
        if event in NETWORK or (event == "open" and not self._is_code(details[0])):
            self.opened.append((event, str(details[:1])[:200]))

    @staticmethod
    def _is_code(path: object) -> bool:
        return (
            isinstance(path, str)
            and os.path.realpath(path).startswith(INSTALLED)
            and not path.endswith((".tif", ".json"))
        )


@contextlib.contextmanager
def limited(watch: Watch, n_bytes: int) -> Generator[None]:
    """Little time and memory while the block lasts, and *watch* on."""
    limit = address_space() + LIMIT_MB * 10**6 + FACTOR * n_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
    watch.on = True
    try:
        yield
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class Asker:
    """Asks a model's server, checks each answer and counts them by status."""

    def __init__(self, folder: str) -> None:
        self.watch, self.seen = Watch(), collections.Counter()
        self.slowest_s = {"refused": 0.0, "answered": 0.0}
        self.slowest_body = {"refused": "", "answered": ""}
        self.most_mb = 0.0
        self._loop = asyncio.new_event_loop()
        self._app = scoring_server.init(mlflow.pyfunc.load_model(folder))

    def __call__(self, body: bytes, kind: str) -> None:
        forget_memory()
        gc.freeze()  # else collecting garbage goes through all that hypothesis keeps, for a second
        before_mb, start = memory_mb(), time.perf_counter()
        with limited(self.watch, len(body)):
            status, content = self._loop.run_until_complete(self._answer(body, kind))
        ending, took_s = "answered" if status == 200 else "refused", time.perf_counter() - start
        gc.unfreeze()
        if took_s > self.slowest_s[ending]:
            self.slowest_s[ending] = took_s
            self.slowest_body[ending] = f"{len(body)} bytes of {kind}: {body[:80]!r}"
        answer = json.loads(content)
        assert status == 200 or 400 <= status < 500, (status, content[:500], body[:200])
        if status != 200:
            sentence = answer["message"]
            assert 10 < len(sentence) < 700, sentence
            assert not any(word in sentence for word in ("unexpected error", "alloc")), sentence
        assert not self.watch.opened, (self.watch.opened, body[:200])
        took_mb = memory_mb() - before_mb - FACTOR * len(body) / 1e6
        assert took_mb < SPARE_MB, (took_mb, len(body), body[:200])
        self.most_mb = max(self.most_mb, took_mb)
        self.seen[status] += 1

    async def _answer(self, body: bytes, kind: str) -> tuple[int, bytes]:
        """A POST to /invocations, as a web server hands it to an application."""
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/invocations",
            "query_string": b"",
            "headers": [(b"content-type", kind.encode())],
        }
        chunks = [body[start : start + 65536] for start in range(0, len(body), 65536)]
        messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
        messages.append({"type": "http.request", "body": b"", "more_body": False})
        parts, forever = [], asyncio.Event()

        async def receive() -> dict:
            if messages:
                return messages.pop(0)
            await forever.wait()
            raise AssertionError

        async def send(message: dict) -> None:
            parts.append(message)

        await self._app(scope, receive, send)
        return parts[0]["status"], b"".join(part.get("body", b"") for part in parts)


def warm_up(ask: Asker) -> None:
    """Load what is loaded at first use."""
    for stack in STACKS * 2:
        row = {"stack": base64.b64encode(stack).decode(), "magnification": 20}
        body = {"dataframe_records": [row], "params": {"on_error": "report", "tta": True}}
        ask(json.dumps(body).encode(), JSON)
    importlib.import_module("adipocyte.delivery.serving.measuring")
    for kind in (CSV, PARQUET):
        ask(b"nothing", kind)


def fuzz(ask: Asker, n_examples: int) -> None:
    """Ask random questions."""
    checks = [
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
        HealthCheck.large_base_example,
    ]

    @settings(
        max_examples=n_examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=checks,
    )
    @given(request=BODIES)
    def run(request: tuple[bytes, str]) -> None:
        ask(*request)

    run()


def out_of_time(*_: object) -> None:
    raise TimeoutError(f"a request took more than {PATIENCE_S} s")


def main() -> None:
    """Ask a model the temptations, and then as many random questions as are wanted."""
    faulthandler.enable()
    os.environ["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"] = "60"  # as in every server's process
    signal.signal(signal.SIGALRM, out_of_time)
    ask, n_examples, scratch = Asker(sys.argv[1]), int(sys.argv[2]), os.environ["TMPDIR"]
    warm_up(ask)
    ask.watch.armed = True
    tempting = temptations(scratch)
    for request in tempting:
        ask(*request)
    start = time.perf_counter()
    fuzz(ask, n_examples)
    fuzz_s = time.perf_counter() - start
    ask.watch.on = True
    with open(os.path.join(scratch, "secret.tif"), "rb"):
        assert ask.watch.opened, "the watch sees nothing"
    report = {
        "requests": ask.seen.total(),
        "by_status": {str(status): n for status, n in sorted(ask.seen.items())},
        "tempted": len(tempting),
        "slowest_s": {ending: round(s, 2) for ending, s in ask.slowest_s.items()},
        "slowest_body": ask.slowest_body,
        "most_mb_beside_4_times_the_body": round(ask.most_mb),
        "fuzz_s": round(fuzz_s, 1),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
