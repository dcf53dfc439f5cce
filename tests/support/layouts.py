"""The same fields as other instruments and programs lay them out."""

from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import tifffile
import zarr

from adipocyte.delivery.batch import zarr_plate
from adipocyte.domain import N_Z_PLANES, ROWS, TARGETS, UM_PER_PX, FieldKey, row_and_column
from adipocyte.plate.fields import FieldFiles, RawField
from adipocyte.plate.names import DEFAULT_PLATE
from adipocyte.staining.stainer import Stained

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


_HARMONY = "http://www.perkinelmer.com/PEHH/HarmonyV"


def _channel_facts(kind: str, magnification: int) -> str:
    """What Harmony says of a channel."""
    light = "Brightfield" if kind == "brightfield" else "Fluorescence"
    name = "TL-20" if kind == "brightfield" else CHANNELS[kind]
    return (
        f"<ChannelName>{name}</ChannelName><ImageType>Signal</ImageType>"
        f"<ChannelType>{light}</ChannelType>"
        '<ImageResolutionX Unit="m">3.25E-07</ImageResolutionX>'
        f'<ObjectiveMagnification Unit="">{magnification}</ObjectiveMagnification>'
    )


def write_phenix(folder: Path, fields: Fields, version: int = 6) -> Path:
    """As Harmony exports it, in the form of version 5 or of a later one."""
    (folder / "Images").mkdir(parents=True)
    magnification = next(iter(fields)).magnification
    facts = {kind: _channel_facts(kind, magnification) for kind in CHANNELS}
    records = []
    for key, field in fields.items():
        row, column = row_and_column(key.well)
        place = f"<Row>{ROWS.index(row) + 1}</Row><Col>{column}</Col><FieldID>{key.fov}</FieldID>"
        where = f"r{ROWS.index(row) + 1:02d}c{column:02d}f{key.fov:02d}"
        for kind, z, pixels in images_of(field):
            name = f"{where}p{z:02d}-ch{_NUMBERS[kind]}sk1fk1fl1.tiff"
            records.append(
                f'<Image Version="1"><id>1</id><State>Ok</State><URL>{name}</URL>{place}'
                f"<PlaneID>{z}</PlaneID><TimepointID>0</TimepointID>"
                f"<ChannelID>{_NUMBERS[kind]}</ChannelID>{facts[kind] if version == 5 else ''}"
                f'<PositionZ Unit="m">{2e-6 * z:E}</PositionZ></Image>'
            )
            tifffile.imwrite(folder / "Images" / name, pixels, photometric="minisblack")
    entries = "".join(
        f'<Entry ChannelID="{_NUMBERS[kind]}">{told}</Entry>' for kind, told in facts.items()
    )
    flat = "".join(
        f'<Entry ChannelID="{number}"><FlatfieldProfile>{{Channel: {number}}}</FlatfieldProfile>'
        "</Entry>"
        for number in _NUMBERS.values()
    )
    maps = f"<Map>{flat}</Map>" + (f"<Map>{entries}</Map>" if version > 5 else "")
    (folder / "Images" / ("Index.idx.xml" if version == 5 else "Index.xml")).write_text(
        f'<EvaluationInputData xmlns="{_HARMONY}{version}" Version="1"><Plates><Plate>'
        '<PlateID>7</PlateID><Name>99</Name><Well id="0203" /></Plate></Plates><Wells><Well>'
        '<id>0203</id><Row>2</Row><Col>3</Col><Image id="0203K1F1P1R1" /></Well></Wells>'
        f"<Maps>{maps}</Maps><Images>{''.join(records)}</Images></EvaluationInputData>"
    )
    return folder


def write_ome_zarr(folder: Path, fields: Fields) -> Path:
    """As converters write it: NGFF 0.4, axes tczyx; the stains are in the first z-plane."""
    name = f"{next(iter(fields)).magnification}x.zarr"
    plate = zarr.create_group(folder / name, zarr_format=2)
    paths = {key.well: "/".join(map(str, row_and_column(key.well))) for key in fields}
    plate.attrs["plate"] = {"name": "99", "wells": [{"path": path} for path in paths.values()]}
    for well, path in paths.items():
        fovs = [{"path": str(key.fov)} for key in fields if key.well == well]
        plate.require_group(path).attrs["well"] = {"images": fovs}
    for key, field in fields.items():
        image = plate.require_group(f"{paths[key.well]}/{key.fov}")
        stack = np.zeros((1, len(CHANNELS), *field.planes.shape), np.uint16)
        for kind, z, pixels in images_of(field):
            stack[0, _NUMBERS[kind] - 1, z - 1] = pixels
        chunks = (1, 1, 1, *(max(5, side // 2) for side in stack.shape[-2:]))
        image.create_array("0", data=stack, chunks=chunks, chunk_key_encoding=_SLASH)
        units = {axis: {"unit": "micrometer"} for axis in "zyx"}
        scale = {"type": "scale", "scale": [1, 1, 2.0, 0.325, 0.325]}
        image.attrs["multiscales"] = [
            {
                "version": "0.4",
                "axes": [{"name": axis} | units.get(axis, {}) for axis in "tczyx"],
                "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
            }
        ]
        image.attrs["omero"] = {"channels": [{"label": label} for label in CHANNELS.values()]}
    return folder


def write_stained(folder: Path, fields: dict[FieldKey, Stained]) -> Path:
    """As `stain -P format=ome-zarr` writes what it painted."""
    files = {
        key: FieldFiles(
            key=key,
            plate=DEFAULT_PLATE,
            planes=(),
            targets={},
            n_z_planes=N_Z_PLANES,
            shape=next(iter(stained.images.values())).shape,
            um_per_px=UM_PER_PX[key.magnification],
        )
        for key, stained in fields.items()
    }
    made: dict[str, bytes] = {}
    for key, stained in fields.items():
        no_planes = np.empty((0, *files[key].shape), np.uint16)
        made |= zarr_plate.files(files[key], stained, no_planes, brightfield=False)
    made |= zarr_plate.described(files.values(), TARGETS)
    for name, data in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


_SLASH = {"name": "v2", "separator": "/"}
WRITERS: dict[str, Callable[[Path, Fields], Path]] = {
    "imagexpress": write_imagexpress,
    "yokogawa": write_yokogawa,
    "phenix": write_phenix,
    "ome-zarr": write_ome_zarr,
    PATTERN: write_own,
}
# A pattern must be given, and which z-plane of stains that have one at each z.
SETTINGS = {PATTERN: {"layout": PATTERN}, "ome-zarr": {"stain_z": 1}}
