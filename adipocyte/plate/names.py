"""The challenge's file-name grammar, both ways.

`AssayPlate_Greiner_#655090_B03_T0001F002L01A04Z05C04.tif` is plate, well, time point, field of
view, line, action, z-plane and channel. Channel C04 is brightfield (Z1…Z7); C01, C02 and C03 are
the targets A1, A2 and A3. The organisers' evaluation folders give every target the action A01; both
forms are read, because the channel alone decides. A stack of all z-planes in one file is named
after any of its planes, or after none (`…A04C04.tif`).

Small letters (`b03`, `.Tif`), numbers with fewer zeros (`Z5`) and `.ome.tif` are read alike,
because they can be meant only one way. Wells go up to AF48, as on plates of 1536.
"""

import re
from dataclasses import dataclass

from adipocyte.domain import MOST_MAGNIFICATION, ROWS, TARGETS, FieldKey
from adipocyte.errors import PlateError

_PLACE = (
    r"T(?P<time>[0-9]{1,4})F(?P<fov>[0-9]{1,4})L(?P<line>[0-9]{1,2})"
    r"A(?P<action>[0-9]{1,2})(Z(?P<z_plane>[0-9]{1,3}))?C(?P<channel>[0-9]{1,2})"
)
_NAME = re.compile(
    rf"(?P<plate>.+)_(?P<row>{'|'.join(ROWS)})(?P<column>[0-9]{{1,2}})_{_PLACE}(\.ome)?\.tiff?",
    re.IGNORECASE | re.ASCII,
)
_NEARLY = re.compile(rf"{_PLACE}.*\.tiff?", re.IGNORECASE | re.ASCII)
_FOLDER = re.compile(r"([1-9][0-9]{0,2})x(_images)?", re.IGNORECASE | re.ASCII)
BRIGHTFIELD_CHANNEL = 4
DEFAULT_PLATE = "AssayPlate_Greiner_#655090"
EXAMPLE = f"{DEFAULT_PLATE}_B03_T0001F001L01A04Z01C04.tif"


@dataclass(frozen=True, kw_only=True)
class ImageName:
    """One image of a plate by its name. Numbers count from 1; `z_plane` is None for a stack."""

    plate: str = DEFAULT_PLATE
    well: str
    fov: int
    action: int
    z_plane: int | None
    channel: int
    time: int = 1
    line: int = 1

    def __str__(self) -> str:
        place = f"{self.plate}_{self.well}_T{self.time:04d}F{self.fov:03d}L{self.line:02d}"
        z_plane = "" if self.z_plane is None else f"Z{self.z_plane:02d}"
        return f"{place}A{self.action:02d}{z_plane}C{self.channel:02d}.tif"

    @property
    def is_known(self) -> bool:
        """Whether it is of brightfield or of a target; other channels are nobody's."""
        return _is_known(self.channel)

    @property
    def target(self) -> str | None:
        """The target of the image's channel: "A1", "A2" or "A3"; None for all other channels."""
        return TARGETS[self.channel - 1] if 1 <= self.channel <= len(TARGETS) else None


def _is_known(channel: int) -> bool:
    return 1 <= channel <= BRIGHTFIELD_CHANNEL


def parse_name(text: str) -> ImageName:
    """Read a file's name (no folder). Raises PlateError when it does not follow the grammar."""
    found = _NAME.fullmatch(text)
    if found is None:
        raise PlateError(
            f"{text!r} is not a name of the challenge's form",
            f"name it like {EXAMPLE}",
        )
    return ImageName(
        plate=found["plate"],
        well=f"{found['row'].upper()}{int(found['column']):02d}",
        fov=int(found["fov"]),
        action=int(found["action"]),
        z_plane=int(found["z_plane"]) if found["z_plane"] else None,
        channel=int(found["channel"]),
        time=int(found["time"]),
        line=int(found["line"]),
    )


def resembles(text: str) -> bool:
    """Whether a file's name, which is no image's, looks like one: another well, or " - Copy"."""
    found = _NEARLY.search(text)
    return found is not None and _is_known(int(found["channel"]))


def brightfield_name(key: FieldKey, z_plane: int, plate: str = DEFAULT_PLATE) -> ImageName:
    """The name of one focal plane of a field."""
    return ImageName(
        plate=plate,
        well=key.well,
        fov=key.fov,
        action=4,
        z_plane=z_plane,
        channel=BRIGHTFIELD_CHANNEL,
        time=key.time,
    )


def target_name(key: FieldKey, target: str, plate: str = DEFAULT_PLATE) -> ImageName:
    """The name of one stain of a field; *target* is "A1", "A2" or "A3"."""
    number = int(target[1])
    return ImageName(
        plate=plate,
        well=key.well,
        fov=key.fov,
        action=number,
        z_plane=1,
        channel=number,
        time=key.time,
    )


def parse_magnification(folder: str) -> int | None:
    """The magnification that a folder's name states ("20x_images" → 20), or None."""
    found = _FOLDER.fullmatch(folder)
    magnification = int(found[1]) if found else 0
    return magnification if 0 < magnification <= MOST_MAGNIFICATION else None


def magnification_folder(magnification: int) -> str:
    """The folder's name for a magnification: 20 → "20x_images"."""
    return f"{magnification}x_images"


def zarr_folder(magnification: int) -> str:
    """The folder of an OME-Zarr plate for a magnification: 20 → "20x.zarr"."""
    return f"{magnification}x.zarr"


def in_zarr_plate(path: str) -> bool:
    """Whether *path*, of a file or folder in a plate, is an OME-Zarr plate or lies in one."""
    stem, _, suffix = path.partition("/")[0].rpartition(".")
    return suffix == "zarr" and parse_magnification(stem) is not None


def is_image(path: str) -> bool:
    """Whether *path*, of a file in a plate, is an image's: "20x_images/…_T0001F001…C01.tif"."""
    folder, _, name = path.rpartition("/")
    return parse_magnification(folder) is not None and _NAME.fullmatch(name) is not None
