"""Arrays to a served model and back: `StainClient("http://127.0.0.1:5000").stain(planes, magnification=20)`."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import requests
import tifffile
from numpy.typing import NDArray

from adipocyte.errors import AdipocyteError
from adipocyte.plate.tiff import encode_stack


class ServiceError(AdipocyteError):
    """The served model refused the request, in the server's own sentence, or did not answer."""


@dataclass(frozen=True)
class Answer:
    """`images` by target, (Y, X) uint16 in counts; `warnings` about the input, "" when there are none."""

    images: dict[str, NDArray[np.uint16]]
    warnings: str


class StainClient:
    """A client of `mlflow models serve`. *url* is the server's address; *timeout_s* the patience with one answer, in seconds."""

    def __init__(self, url: str, timeout_s: float = 600) -> None:
        self._url, self._timeout_s = url.rstrip("/") + "/invocations", timeout_s

    def stain(self, planes: NDArray[np.uint16], magnification: int, *, histogram_matching: bool | None = None) -> Answer:
        """Paint one field: (Z, Y, X) counts in, (Y, X) counts out for each target.

        *histogram_matching* true gives each image the distribution of the training wells, false leaves it as the networks painted it;
        None: intensities are set in the way that the model keeps.

        Raises ServiceError when the server refuses or is not there.
        """
        row = {"stack": base64.b64encode(encode_stack(planes)).decode(), "magnification": magnification}
        request = {"dataframe_records": [row], "params": {"histogram_matching": histogram_matching}}
        try:
            response = requests.post(self._url, json=request, timeout=self._timeout_s)
        except requests.RequestException as error:
            raise ServiceError(f"no answer from {self._url} ({error}): is mlflow models serve running there?") from error
        if not response.ok:
            raise ServiceError(_sentence(response))
        painted = response.json()["predictions"][0]
        warnings = painted.pop("warnings")
        return Answer({target: tifffile.imread(io.BytesIO(base64.b64decode(data))) for target, data in painted.items()}, warnings)


def _sentence(response: requests.Response) -> str:
    try:
        return response.json()["message"]
    except (ValueError, KeyError):
        return f"the server answered {response.status_code}: {response.text[:500]}"
