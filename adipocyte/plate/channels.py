"""What each channel of a plate shows: brightfield, a target, or nothing that is asked for."""

import re
import shlex
from collections import Counter
from collections.abc import Sequence

from adipocyte.domain import BRIGHTFIELD, TARGETS
from adipocyte.errors import ConfigError, PlateError
from adipocyte.plate.layouts.listed import Channel, Listed

Roles = dict[str, str]  # of channels, by number: brightfield or a target

_KINDS = (BRIGHTFIELD, *TARGETS)
# Words of names and lamps; letters beside the shortest would make another word.
_TELLS = {
    BRIGHTFIELD: re.compile(
        r"bright[ _-]?field|transmitted|(?<![a-z])(trans|tl|bf)(?![a-z])", re.IGNORECASE
    ),
    "A1": re.compile(r"dapi|hoechst", re.IGNORECASE),
    "A2": re.compile(r"bodipy|lipid[ _-]?tox|nile[ _-]?red", re.IGNORECASE),
    "A3": re.compile(r"cell[ _-]?tracker|cell[ _-]?mask", re.IGNORECASE),
}
_NUMBER = re.compile(r"[CW]?0*([0-9]{1,3})", re.IGNORECASE | re.ASCII)  # "4", "C04", "w4"


def roles_of(listed: Listed, setting: str, targets: Sequence[str]) -> Roles:
    """The roles of a plate's channels: by the *setting* `channels`, else by what the plate tells.

    Stains that are not among *targets* may be named, though the plate lacks them.

    Raises ConfigError when the setting names no channel of the plate, or no brightfield; PlateError
    when it is empty and it cannot be told which channel is brightfield or, where *targets* are
    asked for, what each of the others shows.
    """
    if not listed.channels:
        return {}
    if setting.strip():
        return _given(listed.channels, setting, targets)
    if listed.roles is not None:
        return listed.roles
    return _told(listed.channels, targets)


def _given(channels: Sequence[Channel], setting: str, targets: Sequence[str]) -> Roles:
    roles: Roles = {}
    for part in filter(None, map(str.strip, setting.split(","))):
        word, _, name = map(str.strip, part.partition("="))
        kind = {kind.lower(): kind for kind in _KINDS}.get(word.lower())
        if kind is None or not name:
            raise ConfigError(
                f"channels has {part[:50]!r}", f"{', '.join(_KINDS)} are due; {_advice(channels)}"
            )
        found = _named(channels, name)
        if not found and kind not in (BRIGHTFIELD, *targets):
            continue
        if len(found) != 1:
            raise ConfigError(
                f"{len(found) or 'no'} channel{'s are' if found else ' is'} {name[:50]!r}",
                _advice(channels),
            )
        if kind in roles.values() or found[0].number in roles:
            raise ConfigError(
                f"channels has {part[:50]!r} beside another of the same kind or channel",
                f"each may stand once; {_advice(channels)}",
            )
        roles[found[0].number] = kind
    if BRIGHTFIELD not in roles.values():
        raise ConfigError("channels names no brightfield", _advice(channels))
    return roles


def _named(channels: Sequence[Channel], name: str) -> list[Channel]:
    """The channels of the instrument's own *name*, else the one of that number."""
    by_name = [one for one in channels if one.name and one.name.lower() == name.lower()]
    number = _NUMBER.fullmatch(name)
    numbers = {name.lower(), number[1] if number else name.lower()}
    return by_name or [one for one in channels if one.number.lower() in numbers]


def _told(channels: Sequence[Channel], targets: Sequence[str]) -> Roles:
    """Roles by names and lamps."""
    roles = {one.number: kind for one in channels if (kind := _kind_of(one))}
    counts = Counter(roles.values())
    doubled = [kind for kind in (BRIGHTFIELD, *targets) if counts[kind] > 1]
    if doubled:
        raise PlateError(
            f"{counts[doubled[0]]} channels are {doubled[0]}, by their names", _advice(channels)
        )
    if not counts[BRIGHTFIELD]:
        raise PlateError("no channel is brightfield, by names and lamps", _advice(channels))
    untold = [str(one) for one in channels if one.number not in roles]
    if targets and untold:
        raise PlateError(
            f"what the channels {', '.join(untold)} show cannot be told by their names",
            f"{_advice(channels)}. A channel that is not named there is left alone",
        )
    return roles


def _kind_of(channel: Channel) -> str | None:
    """What a channel shows by its names and lamps; None where none or several kinds are told."""
    words = " ".join((channel.number, channel.name, *channel.hints))
    kinds = [kind for kind, tells in _TELLS.items() if tells.search(words)]
    return kinds[0] if len(kinds) == 1 else None


def _advice(channels: Sequence[Channel]) -> str:
    """The plate's channels, and an example of the setting."""
    known = {kind: one.number for one in channels if (kind := _kind_of(one))}
    free = [one.number for one in channels if one.number not in known.values()]
    if BRIGHTFIELD not in known:
        known[BRIGHTFIELD] = free.pop() if free else channels[-1].number
    others = (kind for kind in TARGETS if kind not in known)
    known |= dict(zip(others, free, strict=False))
    example = ", ".join(f"{kind}={known[kind]}" for kind in _KINDS if kind in known)
    shown = ", ".join(map(str, channels))
    setting = shlex.quote(f"channels={example}")
    return (
        f"the plate has the channel{'s' if len(channels) > 1 else ''} {shown}; say by number or "
        f"name what they are, for instance -P {setting}"
    )
