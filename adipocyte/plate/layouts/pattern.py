"""A layout of your own: names that a pattern such as `{plate}_{well}_s{fov}_w{channel}.tif` tells.

Between the groups stands literal text; `*` is any. The magnification is that of a folder's name.
"""

import re
from pathlib import Path

from adipocyte.domain import BRIGHTFIELD
from adipocyte.errors import ConfigError, PlateError
from adipocyte.plate.layouts.listed import (
    NOT_NAMED,
    WELL,
    Channel,
    Image,
    Listed,
    plate_called,
    walk,
)
from adipocyte.plate.layouts.listed import well_named as named_well
from adipocyte.plate.listing import is_passed_over, named
from adipocyte.plate.names import parse_magnification

EXAMPLE = "{plate}_{well}_s{fov}_w{channel}_z{z}.tif"
_GROUPS = {
    "plate": r"[^/]+?",
    "well": WELL,
    "fov": r"[0-9]{1,4}",
    "channel": r"[^/]+?",
    "z": r"[0-9]{1,3}",
    "time": r"[0-9]{1,4}",
}
_MAX_CHARACTERS = 500


def list_pattern(plate: Path, pattern: str) -> Listed:
    """The images of a plate's folder, and of those below it, whose names a *pattern* tells.

    Raises OSError; ConfigError for what is no pattern, PlateError when it matches no file.
    """
    compiled = _compiled(pattern)
    images: list[Image] = []
    others: list[Path] = []
    for folder, files in walk(plate):
        magnifications = map(parse_magnification, folder.relative_to(plate).parts)
        magnification = next(filter(None, magnifications), None)
        for path in files:
            where = path.relative_to(plate).as_posix()
            found = None if is_passed_over(path) else compiled.fullmatch(where)
            if found is None:
                others.append(path)
            else:
                images.append(_image(plate, path, found.groupdict(), magnification))
    if not images:
        has = f"it has {named(others)}" if others else "it has no file"
        raise PlateError(
            f"no file of {plate} is named like {pattern}",
            f"{has}. A pattern has the groups {', '.join(_shown(_GROUPS))}, literal text between "
            "them, and * for any",
        )
    channels = tuple(map(Channel, sorted({image.channel for image in images}, key=_order)))
    roles = None if "channel" in compiled.groupindex else {"1": BRIGHTFIELD}
    return Listed(pattern, tuple(images), channels, {NOT_NAMED: others}, roles=roles)


def _compiled(pattern: str) -> re.Pattern[str]:
    """Raises ConfigError unless *pattern* has a well, each group once, and no other groups."""
    parts = re.split(r"(\{[^{}]*\}|\*)", pattern)
    groups = [part[1:-1] for part in parts if part.startswith("{") and part.endswith("}")]
    unknown = [group for group in groups if group not in _GROUPS]
    is_doubled = len({*groups}) < len(groups)
    if "well" not in groups or unknown or is_doubled or len(pattern) > _MAX_CHARACTERS:
        raise ConfigError(
            f"layout={pattern[:100]!r} is neither a layout's name nor a pattern",
            "-P layout=auto, challenge, yokogawa, imagexpress, phenix or ome-zarr; or a pattern "
            f"like {EXAMPLE}, with {{well}} and any of {', '.join(_shown(_GROUPS))}, each once",
        )
    body = "".join(_expression(part) for part in parts)
    return re.compile(rf"(?:.*/)?{body}", re.IGNORECASE | re.ASCII)


def _expression(part: str) -> str:
    if part == "*":
        return "[^/]*?"
    if part.startswith("{") and part.endswith("}"):
        return f"(?P<{part[1:-1]}>{_GROUPS[part[1:-1]]})"
    return re.escape(part)


def _shown(groups: dict[str, str]) -> list[str]:
    return [f"{{{group}}}" for group in groups]


def _image(plate: Path, path: Path, told: dict[str, str], magnification: int | None) -> Image:
    channel = told.get("channel", "1")
    return Image(
        path=path,
        folder=plate,
        plate=told.get("plate") or plate_called(plate),
        well=named_well(told["well"]),
        fov=int(told.get("fov", 1)),
        channel=str(int(channel)) if channel.isdecimal() else channel,
        time=int(told.get("time", 1)),
        z_plane=int(told["z"]) if "z" in told else None,
        magnification=magnification,
    )


def _order(channel: str) -> tuple[int, str]:
    return (int(channel) if channel.isdecimal() else 10**6, channel)
