"""Arrays to a served model and back, without torch.

`StainClient("http://127.0.0.1:5001").stain(planes, magnification=20)` paints one field.
"""

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

from adipocyte.errors import ImageError, ServiceError, UnreachableError
from adipocyte.plate.tiff import decode_stack, encode_stack

_CHUNK_BYTES = 1 << 20
_PIECE_BYTES = 3 << 18  # a multiple of 3, because base64 writes three bytes as four
_CONNECT_S = 10
_MOST_BYTES_PER_PX = 3 * 3  # of an answer: three images of 2 bytes, in base64, rounded up
_ROOM_BYTES = 1 << 20  # for headers, names and warnings in an answer


@dataclass(frozen=True)
class Answer:
    """The images by target, (Y, X) uint16 in counts, and the warnings about the input, or ""."""

    images: dict[str, NDArray[np.uint16]]
    warnings: str


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


class StainClient:
    """A client of `mlflow models serve`.

    *url* is the server's address, "https://name:password@host" behind a proxy that asks for them;
    *timeout_s* is how long to wait for one answer, in seconds. A connection that cannot be made is
    tried *attempts* times, with pauses of .5, 1, 2, … seconds; a request that has reached the
    server is never sent again.
    """

    def __init__(self, url: str, timeout_s: float = 600, attempts: int = 5) -> None:
        self._url, self._timeout_s = url.rstrip("/"), timeout_s
        self._name = re.sub(r"//[^/@]*@", "//", self._url)  # messages must not hold the password
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
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

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
        """Paint one field: (Z, Y, X) counts in, (Y, X) counts out for each of *targets*.

        Without *targets* the model paints all that it can. *histogram_matching* true gives each
        image the distribution of the training wells, false leaves it as the networks paint it, and
        None sets the intensities in the way that the model keeps. *tile_px* is the side of the
        tiles that the field is painted in, in pixels (None: as memory allows); *tta* averages what
        is painted of the field in all eight flips and rotations.

        Raises UnreachableError when no server answers, ServiceError when it refuses or answers
        with anything but painted images.
        """
        wishes = {"targets": ",".join(targets), "tile_px": tile_px, "tta": tta}
        params = {name: value for name, value in wishes.items() if value}
        if histogram_matching is not None:
            params["histogram_matching"] = histogram_matching
        most_bytes = _MOST_BYTES_PER_PX * planes[0].size + _ROOM_BYTES
        answer = self._ask(_Request(planes, magnification, params), most_bytes)
        try:
            [painted] = json.loads(answer)["predictions"]
            warnings = painted.pop("warnings")
            images = {
                target: decode_stack(base64.b64decode(painted.pop(target)), 1)[0]
                for target in list(painted)
            }
        except ImageError as error:
            raise self._other(error.found) from error
        except (ValueError, TypeError, LookupError) as error:
            raise self._other(repr(error)) from error
        if sizes := {image.shape for image in images.values()} - {planes.shape[1:]}:
            raise self._other(f"images of {sizes.pop()} pixels for a stack of {planes.shape[1:]}")
        return Answer(images, warnings)

    def answers(self) -> bool:
        """Whether a server is there, with its model loaded."""
        address = f"{self._url}/ping"
        try:
            answer = self._session.get(address, timeout=_CONNECT_S, allow_redirects=False)
        except requests.RequestException:
            return False
        return answer.status_code == 200

    def _ask(self, request: _Request, most_bytes: int) -> bytearray:
        """Send a request and read its answer, which may have *most_bytes* at most.

        The answer is JSON, which can only be parsed whole.
        """
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
            # The library may repeat the address, and the password in it.
            reason = str(error).replace(self._url, self._name)
            raise UnreachableError(
                f"no answer from {self._name} ({reason})", "is mlflow models serve running there?"
            ) from error
        if response.status_code != 200:
            raise ServiceError(_sentence(response.status_code, answer))
        return answer

    def _other(self, found: str) -> ServiceError:
        return ServiceError(
            f"{self._name} answered something else than painted images ({found})",
            "is it an adipocyte model?",
        )


def _sentence(status: int, answer: bytearray) -> str:
    """The server's own words for a refusal."""
    try:
        return json.loads(answer)["message"]
    except (ValueError, LookupError, TypeError):
        return f"the server answered {status}: {answer[:500].decode(errors='replace')}"
