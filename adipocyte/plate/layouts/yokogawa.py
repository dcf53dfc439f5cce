"""Yokogawa's layout (CV7000, CV8000): images by the records of `MeasurementData.mlf`.

`MeasurementDetail.mrf` has the pixels' size, and the measurement's settings (`.mes`) objectives,
lights and the names of channels.
"""

import re
from collections import defaultdict
from pathlib import Path, PureWindowsPath

from adipocyte.errors import PlateError
from adipocyte.plate.layouts.listed import UNRECORDED, Channel, Image, Listed, plate_called
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
from adipocyte.plate.names import parse_name

YOKOGAWA = "yokogawa"
RECORDS, DETAIL, SETTINGS = "MeasurementData.mlf", "MeasurementDetail.mrf", ".mes"

Elements = dict[str, Element]  # by the number of the channel


def has_records(plate: Path) -> bool:
    """Whether the plate's own folder holds records of images, and images. Raises OSError."""
    if not (plate / RECORDS).is_file():
        return False
    return any(path.suffix.lower() in (".tif", ".tiff") for path in plate.iterdir())


def list_yokogawa(plate: Path) -> Listed:
    """The images of the records in a plate's folder.

    Raises OSError; PlateError for metadata that are missing, damaged or no such records.
    """
    files = {
        path.name: path
        for path in sorted(plate.iterdir())
        if not path.is_dir() and not is_passed_over(path)
    }
    details, settings_name = _details(files)
    settings, lights = _settings(files, settings_name)
    images: dict[str, Image] = {}
    projections: dict[str, str] = {}  # of z-planes, by channel: "Maximum"
    n_errors = 0
    for element in read_elements(plate / RECORDS):
        kind = element.attributes.get("Type") if element.tag == "MeasurementRecord" else None
        n_errors += kind == "ERR"
        if kind == "IMG":
            image = _image(plate, element, settings, details)
            images[image.path.name] = image
            projections[image.channel] = element.attributes.get("ZImageProcessing", "")
    numbers = sorted({image.channel for image in images.values()}, key=int)
    read = (RECORDS, DETAIL, settings_name)
    others = [path for name, path in files.items() if name not in images and name not in read]
    return Listed(
        YOKOGAWA,
        tuple(image for name, image in images.items() if name in files),
        tuple(_channel(one, settings, lights, projections[one]) for one in numbers),
        {UNRECORDED: others},
        absent=tuple(image for name, image in images.items() if name not in files),
        problems=unrecorded([path for path in others if _is_named(path.name)], RECORDS),
        notes=(f"{n_errors} errors that the instrument recorded",) if n_errors else (),
    )


def _image(plate: Path, record: Element, settings: Elements, details: Elements) -> Image:
    """The image of a record. Only the name of its file counts, not where the record says it is."""
    name = PureWindowsPath(record.text).name
    if not name:
        raise damaged_record(RECORDS, "without a file's name")
    channel = str(_number(record, "Ch"))
    objective = _decimal(settings, channel, "Magnification")
    return Image(
        path=plate / name,
        folder=plate,
        plate=parse_name(name).plate if _is_named(name) else plate_called(plate),
        well=well_at(_number(record, "Row"), _number(record, "Column"), RECORDS),
        fov=_number(record, "FieldIndex"),
        channel=channel,
        time=_number(record, "TimePoint"),
        z_plane=_number(record, "ZIndex") if "ZIndex" in record.attributes else None,
        magnification=round(objective) if objective else None,
        um_per_px=_decimal(details, channel, "HorizontalPixelDimension"),
        z_um=decimal(record.attributes.get("Z", "")),
    )


def _number(record: Element, key: str) -> int:
    return whole_number(record.attributes, key, RECORDS)


def _is_named(name: str) -> bool:
    """Whether a file's name is of the form that these instruments give to images."""
    try:
        parse_name(name)
    except PlateError:
        return False
    return True


def _decimal(channels: Elements, number: str, key: str) -> float | None:
    """A positive number that is told of a channel; None where there is none."""
    told = decimal(channels[number].attributes.get(key, "")) if number in channels else None
    return told if told and told > 0 else None


def _details(files: dict[str, Path]) -> tuple[Elements, str]:
    """What the details say of each channel, and the name of the file of settings."""
    channels: Elements = {}
    settings = ""
    for element in read_elements(files[DETAIL]) if DETAIL in files else ():
        if element.tag == "MeasurementChannel":
            channels[element.attributes.get("Ch", "")] = element
        elif element.tag == "MeasurementDetail":
            settings = element.attributes.get("MeasurementSettingFileName", "")
    return channels, settings


def _settings(files: dict[str, Path], name: str) -> tuple[Elements, dict[str, list[str]]]:
    """What the settings say of each channel, and the types of its light sources.

    They lie in the file of that *name*, or in the only one of its kind.
    """
    paths = [path for path in files.values() if path.suffix.lower() == SETTINGS]
    path = files.get(name) or (paths[0] if len(paths) == 1 else None)
    channels: Elements = {}
    lights: dict[str, list[str]] = defaultdict(list)
    types: dict[str, str] = {}
    pending: list[str] = []  # the lights of the channel that ends next
    for element in read_elements(path) if path else ():
        if element.tag == "LightSource":
            types[element.attributes.get("Name", "")] = element.attributes.get("Type", "")
        elif element.tag == "LightSourceName":
            pending.append(element.text)
        elif element.tag == "Channel":
            number = element.attributes.get("Ch", "")
            channels[number] = element
            lights[number] += [types.get(light, "") for light in pending]
            pending.clear()
    return channels, lights


def _channel(
    number: str, settings: Elements, lights: dict[str, list[str]], projection: str
) -> Channel:
    """A channel. A lamp shines through the plate, unless its light is said to be another.

    A *projection* of z-planes is a channel of its own, and part of its name.
    """
    if number not in settings:
        return Channel(number, projection)
    told = settings[number].attributes
    kind = told.get("Kind", "")
    is_other = re.search("fluorescence|phase|contrast", kind, re.IGNORECASE)
    lamp = "transmitted light" if "Lamp" in lights[number] and not is_other else ""
    name = f"{told.get('Target', '')} {projection}".strip()
    return Channel(number, name, tuple(filter(None, (told.get("Fluorophore", ""), kind, lamp))))
