"""Arrays to a served model and back, without torch.

`StainClient("http://127.0.0.1:5001").stain(planes, magnification=20)` paints one field.
"""

import base64
import ipaddress
import json
import math
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import requests
from numpy.typing import NDArray
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from adipocyte.domain import TARGETS, bound_names
from adipocyte.errors import ConfigError, ImageError, ServiceError, UnreachableError
from adipocyte.imaging.trust import Trust, read_trust
from adipocyte.plate.tiff import decode_stack, encode_stack
from adipocyte.system.failures import without_passwords
from adipocyte.system.files import parse_json
from adipocyte.system.forms import NUMBER, require_form

_CHUNK_BYTES = 1 << 20
_PIECE_BYTES = 3 << 18  # a multiple of 3, because base64 writes three bytes as four
_CONNECT_S = 10
_MOST_BYTES_PER_PX = 3 * 3  # of an answer: three images of 2 bytes, in base64, rounded up
_ROOM_BYTES = 1 << 20  # for headers, names and warnings in an answer
_MOST_REFUSAL_BYTES = 64_000
_MOST_SAID = 4000  # characters of a server's words that are repeated
# Of JSON: each may become an object of a hundred bytes. One row has five, some in warnings, and if
# it is measured two hundred, and two for each cell, which has 300 pixels or more.
_MOST_MARKS, _MARKS_PER_PX = 10_000, 0.01
_FEATURE = re.compile(r"\w{1,100}", re.ASCII)
KINDS = ("Nuclei", "Cells", "LipidDroplets")
# How a model that was registered before it could measure refuses to. Nothing but its words tells.
_CANNOT_MEASURE = "there is no parameter ['measure']"


@dataclass(frozen=True)
class Objects:
    """The objects in a field that do not touch its frame.

    `counts` of each of KINDS, None where it cannot be found without a stain that was not asked for.
    For each cell, (N,): `droplets_per_cell`, and `lipid_um2_per_cell`, their area in µm².
    `droplets_by_diameter`, (M,): the number of droplets in each class of diameter; `edges_um`,
    (M + 1,): where these classes begin and end, in µm; the last ends at infinity.
    """

    counts: dict[str, int | None]
    droplets_per_cell: NDArray[np.int64]
    lipid_um2_per_cell: NDArray[np.float64]
    droplets_by_diameter: NDArray[np.int64]
    edges_um: NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """The images by target, (Y, X) uint16 in counts, and the warnings about the input, or "".

    Of a field that was measured: the 99 `features` of CellProfiler by name, nan where there is
    nothing to measure, and the `objects`. `intervals` by target are the lowest and the highest
    count to be expected, images as above, if they were asked for; then `trust` says whether to
    believe the field. A server that is older than that says nothing of it: None.
    """

    images: dict[str, NDArray[np.uint16]]
    warnings: str
    features: dict[str, float] = field(default_factory=dict)
    objects: Objects | None = None
    intervals: dict[str, tuple[NDArray[np.uint16], NDArray[np.uint16]]] = field(
        default_factory=dict
    )
    trust: Trust | None = None


class _Request:
    """The body of a request, made piece by piece while it is sent.

    The body of a full field is about 80 MB of base64. `requests` sends the length of a body that
    has one (`Content-Length`), and can iterate over it again to try again.
    """

    def __init__(
        self, planes: NDArray[np.uint16], magnification: int, params: dict[str, Any]
    ) -> None:
        self._head = b'{"dataframe_records": [{"magnification": %d, "stack": "' % magnification
        self._stack = memoryview(encode_stack(planes))
        self._tail = b'"}], "params": %s}' % json.dumps(params).encode()

    def __len__(self) -> int:
        return len(self._head) + 4 * -(-len(self._stack) // 3) + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        for start in range(0, len(self._stack), _PIECE_BYTES):
            yield base64.b64encode(self._stack[start : start + _PIECE_BYTES])
        yield self._tail


class _Connections(HTTPAdapter):
    """The connections of one request. Each ends after *lasts_s* seconds, whatever it waits for.

    A time-out of `requests` begins anew with every byte that arrives. `is_late` says whether a
    connection has been ended.
    """

    def __init__(self, lasts_s: float, retry: Retry) -> None:
        self._lasts_s, self.is_late = lasts_s, False
        self._opened: list[tuple[socket.socket, threading.Timer]] = []
        super().__init__(max_retries=retry)

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        watch = self._watch

        class Connection(type(pool).ConnectionCls):
            def _new_conn(self) -> socket.socket:
                opened = super()._new_conn()
                watch(opened.dup())  # a second handle, because TLS takes the first one over
                return opened

        pool.ConnectionCls = Connection
        return pool

    def close(self) -> None:
        for opened, timer in self._opened:
            timer.cancel()
            timer.join()
            opened.close()
        super().close()

    def _watch(self, opened: socket.socket) -> None:
        timer = threading.Timer(self._lasts_s, self._end, [opened])
        timer.daemon = True
        self._opened.append((opened, timer))
        timer.start()

    def _end(self, opened: socket.socket) -> None:
        self.is_late = True
        with suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)


class StainClient:
    """A client of `mlflow models serve`.

    *url* is the server's address, "https://name:password@host" behind a proxy that asks for them;
    *timeout_s* is how long one connection may last, in seconds, from sending the request to the
    last byte of the answer. A connection that cannot be made is tried *attempts* times, with pauses
    of .5, 1, 2, … seconds; a request that has reached the server is never sent again. A server on
    this machine is asked directly, others through the proxy of the environment, if there is one.

    Raises ConfigError when *url* is no address of a server.
    """

    def __init__(self, url: str, timeout_s: float = 600, attempts: int = 5) -> None:
        self._url, self._timeout_s = url.rstrip("/"), timeout_s
        self._name = without_passwords(self._url)  # messages must not hold the password
        self._proxies = _no_proxy_to(_host_of(self._url))
        self._retry = Retry(
            connect=attempts - 1,
            read=0,
            redirect=0,
            status=0,
            other=0,
            backoff_factor=0.5,
            allowed_methods=None,
        )

    def stain(
        self,
        planes: NDArray[np.uint16],
        magnification: int,
        *,
        histogram_matching: bool | None = None,
        targets: Sequence[str] = (),
        tile_px: int | None = None,
        tta: bool = False,
        measure: bool = False,
        uncertainty: bool = False,
        um_per_px: float | None = None,
        resample: bool = False,
    ) -> Answer:
        """Paint one field: (Z, Y, X) counts in, (Y, X) counts out for each of *targets*.

        Without *targets* the model paints all that it can. *histogram_matching* true gives each
        image the distribution of the training wells, false leaves it as the networks paint it, and
        None sets the intensities in the way that the model keeps. *tile_px* is the side of the
        tiles that the field is painted in, in pixels (None: as memory allows); *tta* averages what
        is painted of the field in all eight flips and rotations. *measure* also measures what is
        painted, which takes half a minute for a full field. *uncertainty* also gives intervals that
        hold 90 % of a well's true counts (docs/uncertainty.md). *um_per_px* is the side of a pixel
        in µm, where it is not as the model has seen it; *resample* also paints fields of objectives
        that the model has not seen, in pixels of the nearest that it has.

        Raises UnreachableError when no server answers, ServiceError when it refuses or answers
        with anything but painted images.
        """
        wishes = {
            "targets": ",".join(targets),
            "tile_px": tile_px,
            "tta": tta,
            "measure": measure,
            "uncertainty": uncertainty,
            "um_per_px": um_per_px,
            "resample": resample,
        }
        params = {name: value for name, value in wishes.items() if value}
        if histogram_matching is not None:
            params["histogram_matching"] = histogram_matching
        n_px = planes[0].size
        body = self._ask(
            _Request(planes, magnification, params),
            _MOST_BYTES_PER_PX * n_px * (3 if uncertainty else 1) + _ROOM_BYTES,
        )
        try:
            answer = _painted(body, _MOST_MARKS + round(_MARKS_PER_PX * n_px), measure, uncertainty)
        except ImageError as error:
            raise self._other(error.found) from error
        except (ValueError, TypeError, LookupError) as error:
            raise self._other(repr(error)) from error
        images = [*answer.images.values(), *chain(*answer.intervals.values())]
        if sizes := {image.shape for image in images} - {planes.shape[1:]}:
            raise self._other(f"images of {sizes.pop()} pixels for a stack of {planes.shape[1:]}")
        if missing := [target for target in targets if target not in answer.images]:
            raise self._other(f"no {missing[0]}")
        return answer

    def answers(self) -> bool:
        """Whether a server is there, with its model loaded."""
        connections = _Connections(_CONNECT_S, self._retry)
        try:
            with (
                _session(connections) as session,
                session.get(
                    f"{self._url}/ping",
                    timeout=_CONNECT_S,
                    stream=True,
                    allow_redirects=False,
                    proxies=self._proxies,
                ) as response,
            ):
                return response.status_code == 200
        except requests.RequestException:
            return False

    def _ask(self, request: _Request, most_bytes: int) -> bytearray:
        """Send a request and read its answer, which may have *most_bytes* at most.

        The answer is JSON, which can only be parsed whole.
        """
        connections = _Connections(self._timeout_s, self._retry)
        try:
            with (
                _session(connections) as session,
                session.post(
                    f"{self._url}/invocations",
                    data=request,
                    headers={"Content-Type": "application/json"},
                    timeout=(_CONNECT_S, self._timeout_s),
                    stream=True,
                    allow_redirects=False,
                    proxies=self._proxies,
                ) as response,
            ):
                refused = response.status_code != 200
                answer = _read(response, _MOST_REFUSAL_BYTES if refused else most_bytes)
        except requests.exceptions.ProxyError as error:
            raise self._behind_proxy() from error
        except requests.RequestException as error:
            raise self._unreachable(str(error), connections.is_late) from error
        if connections.is_late:  # the answer may have been cut where it looks whole
            raise self._unreachable("", connections.is_late)
        if refused:
            raise self._refusal(_sentence(response.status_code, answer, self._proxy()))
        if len(answer) > most_bytes:
            raise self._other(f"more than {most_bytes} bytes")
        return answer

    def _refusal(self, said: str) -> ServiceError:
        if not said.startswith(_CANNOT_MEASURE):
            return ServiceError(said)
        return ServiceError(
            f"the model that {self._name} serves cannot measure, because an older version of "
            "adipocyte registered it",
            "register it again (mlflow run . -e register) and start the server again, or save the "
            "images and type mlflow run . -e measure",
        )

    def _unreachable(self, reason: str, is_late: bool) -> UnreachableError:
        if is_late:
            reason = f"it was not complete after {self._timeout_s:g} s"
        # The library may repeat the address, and the password in it.
        said = _plain(reason.replace(self._url, self._name))
        return UnreachableError(
            f"no answer from {self._name} ({said})", "is mlflow models serve running there?"
        )

    def _behind_proxy(self) -> UnreachableError:
        # Not the library's own words, which may hold the proxy's password.
        return UnreachableError(
            f"no answer from {self._name}, because the proxy {self._proxy()} did not reach it",
            f"ask it directly, export no_proxy={_host_of(self._url)}, or mend http_proxy and "
            "https_proxy",
        )

    def _proxy(self) -> str:
        """The address of the environment's proxy that requests go through, or ""."""
        no_proxy = self._proxies.get("no_proxy")
        proxies = requests.utils.get_environ_proxies(self._url, no_proxy)
        return without_passwords(requests.utils.select_proxy(self._url, proxies) or "")

    def _other(self, found: str) -> ServiceError:
        return ServiceError(
            f"{self._name} answered something else than painted images ({_plain(found)})",
            "is it an adipocyte model?",
        )


def _host_of(url: str) -> str:
    host = None
    with suppress(ValueError):  # of brackets and ports
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.port != 0:
            host = parts.hostname
    if not host:
        raise ConfigError(
            f"{without_passwords(url)!r} is no address of a server",
            "give one such as http://127.0.0.1:5001",
        )
    return host


def _no_proxy_to(host: str) -> dict[str, str]:
    """What `requests` takes for `proxies`: none for this machine, which no proxy can reach."""
    try:
        is_here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = host == "localhost" or host.endswith(".localhost")
    return {"no_proxy": host} if is_here else {}


def _session(connections: _Connections) -> requests.Session:
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, connections)
    return session


def _read(response: requests.Response, most_bytes: int) -> bytearray:
    """An answer, or its beginning of a little more than *most_bytes*."""
    answer = bytearray()
    for chunk in response.iter_content(min(_CHUNK_BYTES, most_bytes)):
        answer += chunk
        if len(answer) > most_bytes:
            break
    return answer


def _painted(body: bytearray, most_marks: int, is_measured: bool, has_intervals: bool) -> Answer:
    """What the JSON of an answer holds, with features and objects if it *is_measured*.

    Raises ServiceError with the server's words when it could not paint the field; ImageError,
    ValueError, TypeError or LookupError for anything else than one row of images.
    """
    if sum(body.count(mark) for mark in b"[{,:") > most_marks:
        raise ValueError("more parts than an answer has")
    [row] = parse_json(body)["predictions"]
    if not isinstance(row, dict) or not all(isinstance(said, str) for said in row.values()):
        raise TypeError("a value that is no text")
    warnings, error = row.pop("warnings"), row.pop("error", "")
    if error:
        raise ServiceError(_plain(error))
    features = _features(row.pop("features")) if is_measured else {}
    objects = _objects(row.pop("objects")) if is_measured else None
    said = row.pop("trust", "") if has_intervals else ""
    trust = _trust(said) if said else None
    targets = [target for target in TARGETS if target in row]
    bounds = {target: bound_names(target) for target in targets} if has_intervals else {}
    if unknown := sorted(row.keys() - {*targets, *chain(*bounds.values())}):
        raise ValueError(f"an image named {unknown[0][:100]!r}")
    if not targets:
        raise ValueError("no image")
    images = {target: _image(row, target) for target in targets}
    intervals = {
        target: (_image(row, low), _image(row, high)) for target, (low, high) in bounds.items()
    }
    return Answer(images, _plain(warnings), features, objects, intervals, trust)


def _image(row: dict[str, str], name: str) -> NDArray[np.uint16]:
    """An image, taken out of its *row*, because text and image of a full field have 28 MB each."""
    return decode_stack(base64.b64decode(row.pop(name)), 1)[0]


def _trust(text: str) -> Trust:
    """Raises ValueError."""
    found = read_trust(parse_json(text.encode()))
    if unknown := found.errors.keys() - TARGETS:
        raise ValueError(f"an error of {min(unknown)[:100]!r}")
    return replace(found, reason=_plain(found.reason))


def _features(text: str) -> dict[str, float]:
    """The features by name, nan for null. Raises ValueError."""
    features = parse_json(text.encode())
    require_form(features, {...: NUMBER | None}, "features")
    if wrong := [name for name in features if not _FEATURE.fullmatch(name)]:
        raise ValueError(f"a feature named {wrong[0][:100]!r}")
    return {name: math.nan if value is None else float(value) for name, value in features.items()}


def _objects(text: str) -> Objects:
    """Raises ValueError for another form than an answer's, or for sizes that do not agree."""
    said = parse_json(text.encode())
    form = {
        "counts": dict.fromkeys(KINDS, int | None),
        "droplets_per_cell": [int],
        "lipid_um2_per_cell": [NUMBER],
        "droplets_by_diameter": [int],
        "edges_um": [NUMBER | None],
    }
    require_form(said, form, "objects")
    objects = Objects(
        {kind: said["counts"][kind] for kind in KINDS},
        np.array(said["droplets_per_cell"], np.int64),
        np.array(said["lipid_um2_per_cell"], np.float64),
        np.array(said["droplets_by_diameter"], np.int64),
        np.array([math.inf if edge is None else edge for edge in said["edges_um"]], np.float64),
    )
    edges_um = objects.edges_um
    if (
        len(objects.droplets_per_cell) != len(objects.lipid_um2_per_cell)
        or not 0 < len(objects.droplets_by_diameter) == len(edges_um) - 1
        or not (edges_um[:-1] < edges_um[1:]).all()
        or edges_um[-1] != math.inf
        or not np.isfinite(objects.lipid_um2_per_cell).all()
    ):
        raise ValueError("objects whose numbers do not agree")
    return objects


def _sentence(status: int, answer: bytearray, proxy: str) -> str:
    """The server's own words for a refusal. Other words may be those of the *proxy*, if any."""
    try:
        return _plain(_text(parse_json(answer)["message"]))
    except (ValueError, LookupError, TypeError):
        who = f"the server, or the proxy {proxy}," if proxy else "the server"
        return f"{who} answered {status}: {_plain(answer[:500].decode(errors='replace'))}"


def _text(said: object) -> str:
    if not isinstance(said, str):
        raise TypeError("no text")
    return said


def _plain(said: str) -> str:
    """Somebody else's words, without what a terminal would obey, cut after _MOST_SAID."""
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else ascii(letter)[1:-1]
        for letter in said[:_MOST_SAID]
    )
