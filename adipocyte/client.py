"""Arrays to a served model and back: `StainClient("http://127.0.0.1:5000").stain(planes, magnification=20)`. It needs no torch."""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from adipocyte.errors import AdipocyteError, ImageError
from adipocyte.plate.tiff import decode_stack, encode_stack

_CHUNK_BYTES = 1 << 20
_PIECE_BYTES = (
    3 << 18
)  # base64 writes three bytes as four, so pieces of so many can be written one by one
_CONNECT_S = 10
_MOST_BYTES_PER_PX = 3 * 3  # of an answer: three images of 2 bytes, in base64, rounded up
_ROOM_BYTES = 1 << 20  # for headers, names and warnings in an answer


class ServiceError(AdipocyteError):
    """The served model refused the request, in the server's own sentence, or did not answer."""


@dataclass(frozen=True)
class Answer:
    """`images` by target, (Y, X) uint16 in counts; `warnings` about the input, "" when there are none."""

    images: dict[str, NDArray[np.uint16]]
    warnings: str


class _Request:
    """The body of a request, put together piece by piece while it is sent: a full field's is some 80 MB of base64.

    A body that has a length is sent with it (`Content-Length`), and one that can be gone through again can be tried again.
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


class StainClient:
    """A client of `mlflow models serve`.

    *url* is the server's address, "https://name:password@host" behind a proxy that asks for them; *timeout_s* the patience with one
    answer, in seconds. A connection that cannot be made is tried *attempts* times, with pauses of .5, 1, 2, … seconds; a request that has
    reached the server is never sent again.
    """

    def __init__(self, url: str, timeout_s: float = 600, attempts: int = 5) -> None:
        self._url, self._timeout_s = url.rstrip("/"), timeout_s
        self._name = re.sub(
            r"//[^/@]*@", "//", self._url
        )  # without the password, for people to read
        retry = Retry(
            connect=attempts - 1,
            read=0,
            redirect=0,
            status=0,
            other=0,
            backoff_factor=0.5,
            allowed_methods=None,
        )
        self._session = requests.Session()
        self._session.mount("http://", HTTPAdapter(max_retries=retry))
        self._session.mount("https://", HTTPAdapter(max_retries=retry))

    def stain(
        self,
        planes: NDArray[np.uint16],
        magnification: int,
        *,
        histogram_matching: bool | None = None,
        targets: Sequence[str] = (),
        tile_px: int | None = None,
        tta: bool = False,
    ) -> Answer:
        """Paint one field: (Z, Y, X) counts in, (Y, X) counts out for each of *targets* (none named: all that the model paints).

        *histogram_matching* true gives each image the distribution of the training wells, false leaves it as the networks painted it;
        None: intensities are set in the way that the model keeps. *tile_px* is the side of the tiles the field is painted in, in pixels
        (None: as memory allows); *tta* averages the field painted in the eight ways it can lie.

        Raises ServiceError when the server refuses, is not there or answers with something else.
        """
        given = {
            "histogram_matching": histogram_matching,
            "targets": ",".join(targets),
            "tile_px": tile_px,
            "tta": tta,
        }
        params = {
            name: value
            for name, value in given.items()
            if value or (name == "histogram_matching" and value is not None)
        }
        answer = self._ask(
            _Request(planes, magnification, params),
            most_bytes=_MOST_BYTES_PER_PX * planes[0].size + _ROOM_BYTES,
        )
        try:
            [painted] = json.loads(answer)["predictions"]
            warnings = painted.pop("warnings")
            images = {
                target: decode_stack(base64.b64decode(painted.pop(target)), 1)[0]
                for target in list(painted)
            }
        except (ValueError, TypeError, LookupError, ImageError) as error:
            raise self._other(repr(error)) from error
        if sizes := {image.shape for image in images.values()} - {planes.shape[1:]}:
            raise self._other(f"images of {sizes.pop()} pixels for a stack of {planes.shape[1:]}")
        return Answer(images, warnings)

    def answers(self) -> bool:
        """Whether a server is there, with its model loaded."""
        try:
            return (
                self._session.get(
                    f"{self._url}/ping", timeout=_CONNECT_S, allow_redirects=False
                ).status_code
                == 200
            )
        except requests.RequestException:
            return False

    def _ask(self, request: _Request, most_bytes: int) -> bytearray:
        """Send a request and read its answer piece by piece, at most *most_bytes* of it. It is JSON, which can only be read whole."""
        answer = bytearray()
        try:
            with self._session.post(
                f"{self._url}/invocations",
                data=request,
                headers={"Content-Type": "application/json"},
                timeout=(_CONNECT_S, self._timeout_s),
                stream=True,
                allow_redirects=False,
            ) as response:
                for chunk in response.iter_content(_CHUNK_BYTES):
                    answer += chunk
                    if len(answer) > most_bytes:
                        raise self._other(f"more than {most_bytes} bytes")
        except requests.RequestException as error:
            sentence = str(error).replace(self._url, self._name)
            raise ServiceError(
                f"no answer from {self._name} ({sentence}): is mlflow models serve running there?"
            ) from error
        if response.status_code != 200:
            raise ServiceError(_sentence(response.status_code, answer))
        return answer

    def _other(self, found: str) -> ServiceError:
        return ServiceError(
            f"{self._name} answered something else than painted images ({found}): is it an adipocyte model?"
        )


def _sentence(status: int, answer: bytes) -> str:
    try:
        return json.loads(answer)["message"]
    except (ValueError, LookupError, TypeError):
        return f"the server answered {status}: {answer[:500].decode(errors='replace')}"
