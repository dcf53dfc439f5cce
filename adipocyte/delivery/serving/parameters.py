"""What a request to the served model may ask for beside its rows."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from mlflow.types import ParamSchema, ParamSpec

from adipocyte.config import listed
from adipocyte.domain import Intensities
from adipocyte.errors import ConfigError


@dataclass(frozen=True)
class Parameters:
    """The parameters of a request, with their defaults. MLflow's signature is made of these fields.

    Raises ConfigError when `on_error` has another value than "stop" and "report".
    """

    histogram_matching: bool | None = None
    targets: str = ""
    tile_px: int = 0
    tta: bool = False
    on_error: str = "stop"

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "report"):
            raise ConfigError(
                f"on_error must be stop or report, got {self.on_error!r}",
                "send one of the two, or leave it out",
            )

    @classmethod
    def of(cls, params: Mapping[str, Any] | None) -> "Parameters":
        """Read what MLflow hands over: a parameter that is missing or null has its default."""
        return cls(**{name: value for name, value in (params or {}).items() if value is not None})

    @property
    def reports_errors(self) -> bool:
        """Whether a row that cannot be painted is reported beside the others' answers."""
        return self.on_error == "report"

    @property
    def intensities(self) -> Intensities | None:
        """How the intensities are set; None: as the bundle keeps it."""
        if self.histogram_matching is None:
            return None
        return Intensities.MATCHING if self.histogram_matching else Intensities.NONE

    @property
    def painting(self) -> dict[str, Any]:
        """What is painted and how, in keywords of `Stainer.stain`."""
        return {
            "targets": listed(self.targets) or None,
            "tile_px": self.tile_px or None,
            "tta": self.tta,
        }


_MLFLOW_TYPES = {bool: "boolean", bool | None: "boolean", int: "long", str: "string"}
_TYPES, _FIELDS = get_type_hints(Parameters), dataclasses.fields(Parameters)
NAMES = tuple(field.name for field in _FIELDS)
PARAMETERS = ParamSchema(
    [ParamSpec(field.name, _MLFLOW_TYPES[_TYPES[field.name]], field.default) for field in _FIELDS]
)
