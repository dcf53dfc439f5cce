"""What a layout tells of a plate: its images and channels, whatever their files are called."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adipocyte.domain import ROWS
from adipocyte.plate.listing import is_odd
from adipocyte.plate.problems import Problem

DEPTH = 4  # folders below the plate's own: date, number, TimePoint_1, ZStep_1
LeftAlone = Mapping[str, Sequence[Path]]  # by what these are: "files without a record"
NOT_NAMED, UNRECORDED = "files not named as an image is", "files without a record"
WELL = rf"(?:{'|'.join(ROWS)})[0-9]{{1,2}}"


@dataclass(frozen=True, kw_only=True)
class Image:
    """One image. Numbers count from 1; `z_plane` is None for a stack or a projection.

    `folder` is one that holds images of one plate. `channel` is as the layout numbers or calls it.
    `magnification`, `um_per_px` and `z_um`, the place of the plane in µm, are None where nothing
    tells them.
    """

    path: Path
    folder: Path
    plate: str
    well: str
    fov: int
    channel: str
    time: int = 1
    z_plane: int | None = None
    magnification: int | None = None
    um_per_px: float | None = None
    z_um: float | None = None


@dataclass(frozen=True)
class Channel:
    """A channel by its `number` and the instrument's own `name`; `hints` tell more of its light."""

    number: str
    name: str = ""
    hints: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.number} {self.name}".strip()


@dataclass(frozen=True)
class Listed:
    """What a plate's folder holds in its `layout`.

    `absent` are images whose files are not where the instrument's records have them. `others` are
    what was passed over. `roles` are those of the channels, None where the layout sets none.
    """

    layout: str
    images: tuple[Image, ...]
    channels: tuple[Channel, ...]
    others: LeftAlone
    absent: tuple[Image, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    roles: dict[str, str] | None = None


def well_named(text: str) -> str:
    """A well as it is written here: "b3" → "B03"."""
    row = text.rstrip("0123456789")
    return f"{row.upper()}{int(text[len(row) :]):02d}"


def plate_called(plate: Path, told: str = "") -> str:
    """The name of a plate as it is *told*, else its folder's, without what no file's name may have.

    Stained images are named so.
    """
    name = "".join(letter if letter.isprintable() else "_" for letter in told.strip())
    return re.sub(r'[/\\:*?"<>|]', "_", name)[:100].lstrip(".") or plate.resolve().name or "plate"


def magnification_in(text: str) -> int | None:
    """The magnification in an objective's name: "40X Plan Apo" → 40."""
    found = re.search(r"\b([0-9]{1,3})\s?x\b", text, re.IGNORECASE | re.ASCII)
    return int(found[1]) if found else None


def walk(plate: Path) -> Iterator[tuple[Path, list[Path]]]:
    """A plate's folder and those below it, each with its files, in order; each folder once.

    Trash, snapshots and the like are left out. Raises OSError.
    """
    yield from _walk(plate, DEPTH, set())


def _walk(folder: Path, depth: int, seen: set[str]) -> Iterator[tuple[Path, list[Path]]]:
    seen.add(os.path.realpath(folder))
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            is_folder = path.is_dir() if entry.is_symlink() else entry.is_dir()  # or a circle
            if not is_folder:
                files.append(path)
            elif not is_odd(entry.name):
                folders.append(path)
    yield folder, sorted(files)
    for inner in sorted(folders) if depth else ():
        if os.path.realpath(inner) not in seen:
            yield from _walk(inner, depth - 1, seen)
