"""What a request to the served model may ask for beside its rows."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_type_hints

from mlflow.types import ParamSchema, ParamSpec

from adipocyte.config import listed
from adipocyte.domain import MOST_UM_PER_PX, Intensities
from adipocyte.errors import ConfigError
from adipocyte.imaging.intervals import LEVEL

_MOST_CHARACTERS = 200  # of a text, and of what a refusal repeats


@dataclass(frozen=True)
class Parameters:
    """The parameters of a request, with their defaults. MLflow's signature is made of these fields.

    Raises ConfigError when `on_error` has another value than "stop" and "report", or `um_per_px` is
    no size that pixels can have.
    """

    histogram_matching: bool | None = None
    targets: str = ""
    tile_px: int = 0
    tta: bool = False
    measure: bool = False
    uncertainty: bool = False
    um_per_px: float = 0.0
    resample: bool = False
    on_error: str = "stop"

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "report"):
            raise ConfigError(
                f"on_error must be stop or report, got {self.on_error!r}",
                "send one of the two, or leave it out",
            )

        if not 0 <= self.um_per_px <= MOST_UM_PER_PX:
            raise ConfigError(
                f"um_per_px is {self.um_per_px:g}",
                f"it must be the side of a pixel in µm, up to {MOST_UM_PER_PX:g}, or be left out",
            )

    @classmethod
    def of(cls, params: Mapping[str, Any] | None) -> "Parameters":
        """Read a request's: a parameter that is missing or null has its default.

        Raises ConfigError for an unknown name and for a value of another type.
        """
        asked = params or {}
        if unknown := [name for name in asked if name not in NAMES]:
            raise ConfigError(
                f"there is no parameter {unknown[:1]!r:.{_MOST_CHARACTERS}}",
                f"there are {', '.join(NAMES)}; mind the spelling",
            )
        given = {name: value for name, value in asked.items() if value is not None}
        for name, value in given.items():
            _check(name, value)
        return cls(**given)

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
        """What is painted and how, in keywords of `Stainer.stain`, but for the size of pixels."""
        return {
            "resample": self.resample,
            "targets": listed(self.targets) or None,
            "intensities": self.intensities,
            "tile_px": self.tile_px or None,
            "tta": self.tta,
            "level": LEVEL if self.uncertainty else None,
        }


def _check(name: str, value: Any) -> None:
    kind = _KINDS[_HINTS[name]]
    is_long = isinstance(value, str) and len(value) > _MOST_CHARACTERS
    is_whole = kind.type is float and type(value) is int  # as JSON writes 1.0
    if not (type(value) is kind.type or is_whole) or is_long:
        raise ConfigError(f"{name} is {value!r:.{_MOST_CHARACTERS}}", f"it must be {kind.words}")


class _Kind(NamedTuple):
    mlflow: str
    type: type
    words: str


_KINDS = {
    bool: _Kind("boolean", bool, "true or false"),
    bool | None: _Kind("boolean", bool, "true, false or null"),
    int: _Kind("long", int, "a whole number"),
    float: _Kind("double", float, "a number"),
    str: _Kind("string", str, f"a text of at most {_MOST_CHARACTERS} characters"),
}
_HINTS, _FIELDS = get_type_hints(Parameters), dataclasses.fields(Parameters)
NAMES = tuple(field.name for field in _FIELDS)
PARAMETERS = ParamSchema(
    [ParamSpec(field.name, _KINDS[_HINTS[field.name]].mlflow, field.default) for field in _FIELDS]
)
