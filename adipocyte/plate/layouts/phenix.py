"""The layout of Opera Phenix and Operetta: images by the records of `Index.xml`.

Harmony V5 says with each image what its channel is. Later versions say it once, in `<Maps>`, which
come before the images.
"""

import re
from collections.abc import Iterator, Set
from pathlib import Path, PureWindowsPath

from adipocyte.errors import PlateError
from adipocyte.plate.layouts.listed import UNRECORDED, Channel, Image, Listed, plate_called, walk
from adipocyte.plate.layouts.records import (
    Element,
    damaged_record,
    decimal,
    read_elements,
    unrecorded,
    well_at,
    whole_number,
)
from adipocyte.plate.listing import is_passed_over

PHENIX = "phenix"
INDICES = ("Index.idx.xml", "Index.xml")  # in the measurement's folder or beside the images
_IMAGES = "Images"
_NAME = re.compile(r"r[0-9]{2}c[0-9]{2}f[0-9]+p[0-9]+-ch[0-9]+.*\.tiff?", re.IGNORECASE)
_UM = {"m": 1e6, "mm": 1e3, "µm": 1.0, "um": 1.0}

Facts = dict[str, Element]  # the elements inside a record, by tag


def has_index(plate: Path) -> bool:
    """Whether the folder is a measurement's, or its images', and holds images. Raises OSError."""
    index = _index(plate)
    if index is None:
        return False
    folders = [folder for folder in (plate, plate / _IMAGES) if folder.is_dir()]
    return any(_NAME.fullmatch(path.name) for folder in folders for path in folder.iterdir())


def list_phenix(plate: Path) -> Listed:
    """The images of the records in a measurement's folder.

    Raises OSError; PlateError for an index that is missing, damaged or has no such records.
    """
    index = _index(plate)
    if index is None:
        raise PlateError(
            f"{plate} holds neither {' nor '.join(INDICES)}, nor does its folder {_IMAGES}",
            "give the measurement's folder, as Harmony exported it, with -P plate=<folder>",
        )
    walked = [path for _, files in walk(plate) for path in files]
    files = {path for path in walked if not is_passed_over(path)}
    images: dict[Path, Image] = {}
    channels: dict[str, Channel] = {}
    for name, facts in _records(index):
        path = _path(index, _text(facts, "URL"), files)
        image = _image(path, plate_called(plate, name), facts, index.name)
        images[image.path] = image
        hints = tuple(filter(None, [_text(facts, "ChannelType")]))
        channels[image.channel] = Channel(image.channel, _text(facts, "ChannelName"), hints)
    others = [path for path in walked if path not in images and path != index]
    strays = [path for path in others if path in files and _NAME.fullmatch(path.name)]
    return Listed(
        PHENIX,
        tuple(image for path, image in images.items() if path in files),
        tuple(channels[number] for number in sorted(channels, key=int)),
        {UNRECORDED: others},
        absent=tuple(image for path, image in images.items() if path not in files),
        problems=unrecorded(strays, index.name),
    )


def _index(plate: Path) -> Path | None:
    paths = [folder / name for folder in (plate, plate / _IMAGES) for name in INDICES]
    return next((path for path in paths if path.is_file()), None)


def _records(index: Path) -> Iterator[tuple[str, Facts]]:
    """What is said of each image and of its channel, with the plate's name."""
    plate = ""
    inner: Facts = {}
    channels: dict[str, Facts] = {}
    for element in read_elements(index):
        if element.tag in ("PlateID", "Name"):
            plate = element.text or plate
        if element.tag == "Entry":  # a channel has several: of its light, of its illumination
            channels.setdefault(element.attributes.get("ChannelID", ""), {}).update(inner)
        if element.tag == "Image" and "URL" in inner:  # those of a well have only an id
            yield plate, channels.get(_text(inner, "ChannelID"), {}) | inner
        if element.tag in ("Entry", "Image", "Well"):
            inner = {}
        else:
            inner[element.tag] = element


def _path(index: Path, url: str, files: Set[Path]) -> Path:
    """Where the file of a record lies: where its URL says, or where such files usually are.

    Whatever the URL says, it is below the index's folder.
    """
    said = PureWindowsPath(url)
    if not said.name:
        raise damaged_record(index.name, "without a file's name")
    places = [index.parent / said.name, index.parent / _IMAGES / said.name]
    if not said.anchor and ".." not in said.parts:
        places.insert(0, index.parent.joinpath(*said.parts))
    return next((path for path in places if path in files), places[0])


def _image(path: Path, plate: str, facts: Facts, index: str) -> Image:
    numbers = {tag: fact.text for tag, fact in facts.items()}
    row, column, fov, channel, time, z_plane = (
        whole_number(numbers, tag, index)
        for tag in ("Row", "Col", "FieldID", "ChannelID", "TimepointID", "PlaneID")
    )
    objective = decimal(_text(facts, "ObjectiveMagnification"))
    size = _um(facts, "ImageResolutionX")
    return Image(
        path=path,
        folder=path.parent,
        plate=plate,
        well=well_at(row, column, index),
        fov=fov,
        channel=str(channel),
        time=time,
        z_plane=z_plane,
        magnification=round(objective) if objective else None,
        um_per_px=size if size and size > 0 else None,
        z_um=_um(facts, "PositionZ"),
    )


def _text(facts: Facts, tag: str) -> str:
    return facts[tag].text if tag in facts else ""


def _um(facts: Facts, tag: str) -> float | None:
    """A length or a place in µm, None where none is told."""
    length = decimal(_text(facts, tag))
    unit = _UM.get(facts[tag].attributes.get("Unit", "m")) if tag in facts else None
    return None if length is None or unit is None else length * unit
