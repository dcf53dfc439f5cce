"""What a request to the served model may ask for beside its rows."""

from collections.abc import Mapping
from typing import Any

from mlflow.types import ParamSchema, ParamSpec

from adipocyte.config import listed
from adipocyte.domain import Intensities
from adipocyte.errors import ConfigError

PARAMETERS = ParamSchema(
    [
        ParamSpec("histogram_matching", "boolean", None),
        ParamSpec("targets", "string", ""),
        ParamSpec("tile_px", "long", 0),
        ParamSpec("tta", "boolean", False),
        ParamSpec("on_error", "string", "stop"),
    ]
)
NAMES = tuple(parameter.name for parameter in PARAMETERS)
_WAYS = {
    None: None,
    True: Intensities.MATCHING,
    False: Intensities.NONE,
}  # of histogram_matching; None: the way that the bundle keeps


def reports_errors(params: Mapping[str, Any] | None) -> bool:
    """Whether a row that cannot be painted is to be reported, not to stop the request. Raises ConfigError for any other `on_error`."""
    on_error = _given(params)["on_error"]
    if on_error not in ("stop", "report"):
        raise ConfigError(f"on_error must be stop or report, got {on_error!r}")
    return on_error == "report"


def way(params: Mapping[str, Any] | None) -> str | None:
    """The way of intensities that a request's *params* ask for; None: the one that the bundle keeps."""
    return _WAYS[_given(params)["histogram_matching"]]


def painting(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is to be painted and how, in keywords of `Stainer.stain`. A parameter that is missing or null has its default."""
    given = _given(params)
    return {
        "targets": listed(given["targets"]) or None,
        "tile_px": given["tile_px"] or None,
        "tta": given["tta"],
    }


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    defaults = {parameter.name: parameter.default for parameter in PARAMETERS}
    return defaults | {name: value for name, value in (params or {}).items() if value is not None}
