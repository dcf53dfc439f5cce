"""The images in the folders of a plate, and what else lies beside them.

Instruments, desktops, disks and network stores leave files of their own beside images; they are
passed over and counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adipocyte.errors import PlateError
from adipocyte.plate.names import ImageName, parse_name, resembles
from adipocyte.plate.planes import image_name
from adipocyte.plate.problems import Problem

_HIDDEN = (".", "~$")  # also AppleDouble companions, "._name", and locks of office programs
# Trash, snapshots, indices and archives' rests: .Trash-1000, $RECYCLE.BIN, @eaDir, #recycle,
# ~snapshot.
_ODD = (*_HIDDEN, "$", "@", "#", "~")
_ODD_FOLDERS = ("lost+found", "system volume information", "__macosx", "thumbnails", "thumbs")
_MOST_NAMED = 3


@dataclass(frozen=True)
class Listing:
    """What one folder holds: its `images` in order; `similar`, whose names are nearly an image's;
    and `others`, which were passed over. Folders in it are not looked at.

    `further` are those of the others that are images of channels beyond the challenge's.
    """

    images: dict[Path, ImageName]
    further: dict[Path, ImageName]
    similar: tuple[Path, ...]
    others: tuple[Path, ...]


def list_folders(plate: Path) -> list[Path]:
    """A plate's own folder and those in it that may hold images. Raises OSError."""
    inner = (path for path in plate.iterdir() if path.is_dir() and not is_odd(path.name))
    return [plate, *sorted(inner)]


def list_images(folder: Path) -> Listing:
    """The images of a folder. Raises OSError when it cannot be listed."""
    images: dict[Path, ImageName] = {}
    further: dict[Path, ImageName] = {}
    similar, others = [], []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            continue
        name = None if is_passed_over(path) else _parsed(path)
        if name is not None and name.is_known:
            images[path] = name
        elif name is not None:
            further[path] = name
            others.append(path)
        elif not is_passed_over(path) and resembles(path.name):
            similar.append(path)
        else:
            others.append(path)
    return Listing(images, further, tuple(similar), tuple(others))


def named(paths: Sequence[Path]) -> str:
    """The names of some of *paths*: "a.txt, b.txt, c.txt and 4 more"; "" for none."""
    return few([path.name for path in paths], _MOST_NAMED)


def few(names: Sequence[object], most: int = 5) -> str:
    """The first of many names, at most so many, and how many there are more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def similar_problem(folder: Path, similar: Sequence[Path]) -> Problem:
    """What to say of files whose names are nearly an image's."""
    return Problem(
        f"{folder.name}/",
        f"{len(similar)} files are named nearly like an image, but not quite: {named(similar)}",
        "rename them (docs/data.md has the form), or move them out of the plate",
    )


def same_image(paths: list[Path]) -> tuple[str, str]:
    """What to say of several files of one field that are the same channel: found, and a remedy."""
    names = [name for path in paths if (name := _parsed(path))]  # a plane of an array has none
    z_planes = [name.z_plane or 0 for name in names]
    return doubled(paths, z_planes, names[0].target if names else None)


def doubled(paths: Sequence[Path], z_planes: Sequence[int], target: str | None) -> tuple[str, str]:
    """What to say of several *paths* for one image, a *target* or brightfield: found, a remedy."""
    found = f"{image_name(paths[0])} and {image_name(paths[1])} are the same image"
    if target and len({*z_planes}) > 1:
        middle = sorted({*z_planes})[len({*z_planes}) // 2]
        stain = f"{target} has {len({*z_planes})} z-planes, one is due"
        return stain, f"take one with -P stain_z={middle}, or keep one"
    return found, "keep one"


def is_odd(name: str) -> bool:
    """Whether a file or folder is no part of a plate by its *name*: hidden, trash, a snapshot."""
    return name.startswith(_ODD) or name.lower() in _ODD_FOLDERS


def is_passed_over(path: Path) -> bool:
    """Whether a file is hidden, or a link to nothing or in a circle."""
    return path.name.startswith(_HIDDEN) or (path.is_symlink() and not path.exists())


def _parsed(path: Path) -> ImageName | None:
    """The name of an image; None for exports and the like."""
    try:
        return parse_name(path.name)
    except PlateError:
        return None
