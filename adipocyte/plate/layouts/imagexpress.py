"""The layout of ImageXpress and MetaXpress: `TimePoint_1/ZStep_3/9987_B02_s1_w1.TIF`.

Exports and folders of the database are read alike; there a GUID follows the channel. `.HTD` has the
names of channels, and MetaSeries' XML in the images objective and pixel size.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from adipocyte.errors import ImageError, PlateError
from adipocyte.plate.layouts.listed import (
    NOT_NAMED,
    WELL,
    Channel,
    Image,
    Listed,
    magnification_in,
    walk,
    well_named,
)
from adipocyte.plate.layouts.records import parse_elements
from adipocyte.plate.listing import is_passed_over
from adipocyte.plate.tiff import read_description
from adipocyte.system.files import open_regular

IMAGEXPRESS = "imagexpress"
_GUID = r"[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}"
# The first that may be a well is it, because a site ("s1") and a channel ("w1") may be, too.
_NAME = re.compile(
    rf"(?P<plate>.+?)_(?P<well>{WELL})(_s(?P<fov>[0-9]{{1,4}}))?(_w(?P<channel>[0-9]{{1,2}}))?"
    rf"(?P<thumb>_thumb)?({_GUID})?\.tiff?",
    re.IGNORECASE | re.ASCII,
)
_NUMBERED = re.compile(r"(TimePoint|ZStep)_([0-9]{1,4})", re.IGNORECASE | re.ASCII)
_WAVE = re.compile(r'"WaveName([0-9]{1,2})"\s*,\s*"([^"]*)"', re.IGNORECASE)
_MAX_HTD_BYTES = 1_000_000
_TRIES = 3  # images that are looked into for what they say of their objective


@dataclass(frozen=True)
class _Optics:
    """What an image says of how it was taken."""

    magnification: int | None = None
    um_per_px: float | None = None
    name: str = ""


def has_marks(plate: Path) -> bool:
    """Whether the plate has folders or a description as these instruments make them, and images."""
    is_marked = has_images = False
    try:
        for folder, files in walk(plate):
            is_marked |= _NUMBERED.fullmatch(folder.name) is not None or any(map(_is_htd, files))
            has_images = has_images or any(_NAME.fullmatch(path.name) for path in files)
            if is_marked and has_images:
                return True
    except OSError:  # a folder that no other layout looks into
        pass
    return False


def list_imagexpress(plate: Path) -> Listed:
    """The images in a plate's folder and those below it. Raises OSError."""
    images: list[Image] = []
    others: list[Path] = []
    thumbs: list[Path] = []
    waves: dict[str, set[str]] = {}
    for folder, files in walk(plate):
        for path in files:
            name = None if is_passed_over(path) else _NAME.fullmatch(path.name)
            if _is_htd(path) and not is_passed_over(path):
                for number, wave in _waves(path):
                    waves.setdefault(number, set()).add(wave)
            elif name is None:
                others.append(path)
            elif name["thumb"]:
                thumbs.append(path)
            else:
                images.append(_image(plate, folder, path, name))
    kept, projections = _without_projections(images)
    optics = _optics(kept)
    images = [_seen(image, optics) for image in kept]
    return Listed(
        IMAGEXPRESS,
        tuple(images),
        tuple(_channels(images, waves, optics)),
        {NOT_NAMED: others, "thumbnails": thumbs, "projections of z-planes": projections},
    )


def _image(plate: Path, folder: Path, path: Path, name: re.Match[str]) -> Image:
    parts = folder.relative_to(plate).parts
    numbered = [found for part in parts if (found := _NUMBERED.fullmatch(part))]
    numbers = {found[1].lower(): int(found[2]) for found in numbered}
    return Image(
        path=path,
        folder=plate,
        plate=name["plate"],
        well=well_named(name["well"]),
        fov=int(name["fov"] or 1),
        channel=str(int(name["channel"] or 1)),
        time=numbers.get("timepoint", 1),
        z_plane=numbers.get("zstep"),
    )


def _is_htd(path: Path) -> bool:
    return path.suffix.lower() == ".htd"


def _waves(path: Path) -> list[tuple[str, str]]:
    """The names of the channels, by number, in an .HTD. Raises OSError."""
    with open_regular(path) as file:
        text = file.read(_MAX_HTD_BYTES).decode("latin-1")
    return [(str(int(number)), name.strip()) for number, name in _WAVE.findall(text)]


def _without_projections(images: list[Image]) -> tuple[list[Image], list[Path]]:
    """The images without those that lie beside their own z-planes, in no folder for z."""
    stepped = {_of_stack(image) for image in images if image.z_plane is not None}
    is_projection = [image.z_plane is None and _of_stack(image) in stepped for image in images]
    pairs = list(zip(images, is_projection, strict=True))
    return [one for one, flat in pairs if not flat], [one.path for one, flat in pairs if flat]


def _of_stack(image: Image) -> tuple[str, str, int, int, str]:
    return image.plate, image.well, image.fov, image.time, image.channel


def _optics(images: list[Image]) -> dict[tuple[Path, str], _Optics]:
    """What one image of each channel in each folder says, of which the others are taken to be."""
    alike: dict[tuple[Path, str], list[Path]] = {}
    for image in images:
        alike.setdefault((image.path.parent, image.channel), []).append(image.path)
    return {key: _told_by(paths[:_TRIES]) for key, paths in alike.items()}


def _told_by(paths: list[Path]) -> _Optics:
    """What the first of *paths* that can be read says in MetaSeries' XML, as far as it is whole."""
    for path in paths:
        try:
            description = read_description(path)
        except ImageError:
            continue  # the scan tells why
        told = dict(_properties(description, str(path)))
        side = told.get("spatial-calibration-x", "")
        is_calibrated = told.get("spatial-calibration-state") != "off"
        in_um = is_calibrated and told.get("spatial-calibration-units") == "um"
        is_number = bool(re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,9})?", side))
        return _Optics(
            magnification_in(told.get("_MagSetting_", "")),
            float(side) if in_um and is_number else None,
            told.get("_IllumSetting_", ""),
        )
    return _Optics()


def _properties(description: str, name: str) -> Iterator[tuple[str, str]]:
    if not description.lstrip().startswith("<MetaData"):
        return
    try:
        for element in parse_elements([description.encode(errors="replace")], name):
            if element.tag == "prop":
                yield element.attributes.get("id", ""), element.attributes.get("value", "")
    except PlateError:
        return  # it is told as what nobody knows: magnification and names can be given


def _seen(image: Image, optics: dict[tuple[Path, str], _Optics]) -> Image:
    told = optics[image.path.parent, image.channel]
    return replace(image, magnification=told.magnification, um_per_px=told.um_per_px)


def _channels(
    images: list[Image], waves: dict[str, set[str]], optics: dict[tuple[Path, str], _Optics]
) -> Iterator[Channel]:
    """The channels of the images, named by the .HTD, or else by what the images say."""
    for number in sorted({image.channel for image in images}, key=int):
        own = {one.name for (_, channel), one in optics.items() if channel == number and one.name}
        names = sorted(waves.get(number) or own)
        yield Channel(number, " or ".join(names), tuple(sorted(own)))
