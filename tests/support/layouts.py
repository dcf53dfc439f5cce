"""The same fields as other instruments and programs lay them out."""

from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import tifffile

from adipocyte.domain import ROWS, TARGETS, FieldKey, row_and_column
from adipocyte.plate.fields import RawField

Fields = dict[FieldKey, RawField]

PATTERN = "{plate}_{well}_p{fov}_{channel}_z{z}.tif"
CHANNELS = {"A1": "DAPI", "A2": "BODIPY 493", "A3": "CellTracker Deep Red", "brightfield": "TL-20"}
_NUMBERS = {name: number for number, name in enumerate(CHANNELS, start=1)}
_BTS = 'xmlns:bts="http://www.yokogawa.co.jp/BTS/BTSSchema/1.0"'
_METASERIES = (
    '<MetaData>\n<prop id="Description" type="string" value="Plate Name: 99&#13;&#10;"/>\n'
    '<PlaneInfo>\n<prop id="spatial-calibration-x" type="float" value="0.325"/>\n'
    '<prop id="spatial-calibration-units" type="string" value="um"/>\n'
    '<prop id="_MagSetting_" type="string" value="{}X Plan Apo"/>\n'
    '<prop id="_IllumSetting_" type="string" value="{}"/>\n</PlaneInfo>\n</MetaData>'
)


def images_of(field: RawField) -> list[tuple[str, int, np.ndarray]]:
    """Kind, number of the plane and pixels of each image of a field."""
    planes = [("brightfield", z, plane) for z, plane in enumerate(field.planes, start=1)]
    return planes + [(target, 1, field.targets[target]) for target in TARGETS if field.targets]


def write_imagexpress(folder: Path, fields: Fields) -> Path:
    """As MetaXpress exports it: z-planes in folders, stains and thumbnails beside those."""
    (folder / "TimePoint_1").mkdir(parents=True)
    waves = "\n".join(
        f'"WaveName{number}", "{CHANNELS[kind]}"' for kind, number in _NUMBERS.items()
    )
    (folder / "99.HTD").write_text(f'"HTSInfoFile", Version 1.0\n{waves}\n"EndFile"\n')
    for key, field in fields.items():
        for kind, z, pixels in images_of(field):
            name = f"99_{key.well}_s{key.fov}_w{_NUMBERS[kind]}"
            told = _METASERIES.format(key.magnification, CHANNELS[kind])
            inner = f"TimePoint_1/ZStep_{z}" if kind == "brightfield" else "TimePoint_1"
            path = folder / inner / f"{name}.TIF"
            path.parent.mkdir(exist_ok=True)
            options = {"photometric": "minisblack", "metadata": None}
            tifffile.imwrite(path, pixels, description=told, **options)
            path.with_name(f"{name}_thumb.TIF").write_bytes(b"small")
    return folder


def write_yokogawa(folder: Path, fields: Fields) -> Path:
    """As a CV8000 writes it: records, details and settings beside the images."""
    folder.mkdir(parents=True)
    records = []
    for key, field in fields.items():
        row, column = row_and_column(key.well)
        for kind, z, pixels in images_of(field):
            number = _NUMBERS[kind]
            name = f"99_{key.well}_T0001F{key.fov:03d}L01A{number:02d}Z{z:02d}C{number:02d}.tif"
            place = f'bts:Row="{ROWS.index(row) + 1}" bts:Column="{column}" bts:TimePoint="1"'
            which = f'bts:FieldIndex="{key.fov}" bts:ZIndex="{z}" bts:Ch="{number}"'
            records.append(
                f'<bts:MeasurementRecord bts:Type="IMG" {place} {which}>{name}'
                "</bts:MeasurementRecord>"
            )
            tifffile.imwrite(folder / name, pixels, photometric="minisblack")
    xml = "\n".join([f"<bts:MeasurementData {_BTS}>", *records, "</bts:MeasurementData>"])
    (folder / "MeasurementData.mlf").write_text(xml, encoding="utf-8-sig")
    magnification = next(iter(fields)).magnification
    details = "".join(
        f'<bts:MeasurementChannel bts:Ch="{number}" bts:HorizontalPixelDimension="0.325"/>'
        for number in _NUMBERS.values()
    )
    (folder / "MeasurementDetail.mrf").write_text(
        f'<bts:MeasurementDetail {_BTS} bts:MeasurementSettingFileName="a.mes">{details}'
        "</bts:MeasurementDetail>"
    )
    (folder / "a.mes").write_text(_settings(magnification))
    (folder / "DC_DCAM#1_CAM3.tif").write_bytes(b"the camera's own")
    return folder


def _settings(magnification: int) -> str:
    """Settings in which a lamp tells brightfield, not its name."""
    channels = ""
    for kind, number in _NUMBERS.items():
        light, way = ("Lamp", "") if kind == "brightfield" else ("405nm", "ConfocalFluorescence")
        name = quoteattr("" if kind == "brightfield" else CHANNELS[kind])
        channels += (
            f'<bts:Channel bts:Ch="{number}" bts:Target={name} bts:Kind="{way}" '
            f'bts:Magnification="{magnification}"><bts:LightSourceName>{light}'
            "</bts:LightSourceName></bts:Channel>"
        )
    return (
        f"<bts:MeasurementSetting {_BTS}><bts:LightSourceList>"
        '<bts:LightSource bts:Name="405nm" bts:Type="Laser"/>'
        '<bts:LightSource bts:Name="Lamp" bts:Type="Lamp"/></bts:LightSourceList>'
        f"<bts:ChannelList>{channels}</bts:ChannelList></bts:MeasurementSetting>"
    )


def write_own(folder: Path, fields: Fields) -> Path:
    """Under names of one's own, PATTERN."""
    for key, field in fields.items():
        images = folder / f"{key.magnification}x"
        images.mkdir(parents=True, exist_ok=True)
        for kind, z, pixels in images_of(field):
            name = f"99_{key.well}_p{key.fov}_{CHANNELS[kind]}_z{z}.tif"
            tifffile.imwrite(images / name, pixels, photometric="minisblack")
    return folder


WRITERS: dict[str, Callable[[Path, Fields], Path]] = {
    "imagexpress": write_imagexpress,
    "yokogawa": write_yokogawa,
    PATTERN: write_own,
}
