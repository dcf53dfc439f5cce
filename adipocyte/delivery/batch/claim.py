"""`stained.json`: what painted the plate in a folder, and which command may write there."""

import json
import secrets
from typing import Any

from adipocyte.delivery.batch.output import Output
from adipocyte.errors import OutputError, PlateError
from adipocyte.plate.names import in_zarr_plate, is_image
from adipocyte.plate.stained import PLATE_ORIGIN
from adipocyte.system.files import json_bytes
from adipocyte.system.machine import PRECISIONS

ANOTHER_FOLDER = "name another folder with -P out=<folder>"


def begun_in(out: Output) -> dict[str, Any]:
    """The `stained.json` of the images in *out*; {} where there is no image to bind.

    Raises PlateError for images without a `stained.json`, and for one that says something else.
    """
    begun = read_own(out, PLATE_ORIGIN)
    images = sorted(name for name in out.files() if is_image(name) or in_zarr_plate(name))
    if not images:
        return {}
    if not begun:
        raise PlateError(
            f"{out.address} holds {images[0]} and no {PLATE_ORIGIN} that says what painted it",
            ANOTHER_FOLDER,
        )
    if begun.get("precision") not in PRECISIONS or not isinstance(begun.get("compiled"), bool):
        raise PlateError(
            f"{PLATE_ORIGIN} in {out.address} was written by another program", ANOTHER_FOLDER
        )
    return begun


def claim_for(out: Output, origin: dict[str, Any], begun: dict[str, Any]) -> str:
    """Write down that *out* holds images of *origin*. Returns a claim that no other command has.

    A command that claimed the folder before this one stops at its next write.

    Raises PlateError when it holds images of another origin, OutputError when another command
    claims it at this moment.
    """
    # What was begun before there were other formats are TIFFs.
    settings = {"format": "tiff"} | {name: begun[name] for name in begun if name != "claim"}
    if begun and settings["format"] != origin["format"]:
        raise PlateError(
            f"{out.address} holds images as {settings['format']}, not {origin['format']}",
            f"finish it with -P format={settings['format']}, or {ANOTHER_FOLDER}",
        )
    if begun and settings.get("brightfield") != origin.get("brightfield"):
        is_in = "brightfield" in settings
        raise PlateError(
            f"{out.address} holds images {'with' if is_in else 'without'} brightfield",
            f"finish it with -P brightfield={str(is_in).lower()}, or {ANOTHER_FOLDER}",
        )
    if begun and settings != _as_written(origin, settings):
        raise PlateError(
            f"{out.address} holds images of another plate, model, intensities, tiles or arithmetic "
            f"(see its {PLATE_ORIGIN})",
            ANOTHER_FOLDER,
        )
    seen, claim = claim_in(out), secrets.token_hex(8)
    data = json_bytes(origin | {"claim": claim})
    if out.create(PLATE_ORIGIN, data):
        return claim
    write_claimed(out, seen, PLATE_ORIGIN, data)
    return claim


def _as_written(origin: dict[str, Any], begun: dict[str, Any]) -> dict[str, Any]:
    """*origin* as the version that wrote *begun* would say it.

    An older version said less of a bundle, and gave it the number of its own format. The checksums
    of its files name it all the same, so a plate that was begun before an update goes on.
    """
    said, theirs = json.loads(json.dumps(origin)), begun.get("bundle")
    if isinstance(theirs, dict) and "checksums" in theirs and "format" in theirs:
        ours = said["bundle"] | {"format": theirs["format"]}
        said["bundle"] = {name: value for name, value in ours.items() if name in theirs}
    return said


def claim_in(out: Output) -> str | None:
    """The claim that is written in *out*, None where there is none.

    Raises PlateError when `stained.json` there holds something else.
    """
    return read_own(out, PLATE_ORIGIN).get("claim")


def write_claimed(out: Output, claim: str | None, name: str, data: bytes) -> None:
    """Write a file of the command whose *claim* is written in *out*.

    Raises OutputError when another command has claimed it meanwhile.
    """
    if claim_in(out) != claim:
        raise OutputError(
            f"another command has begun to stain into {out.address} meanwhile",
            f"wait for it and run the same command again, or {ANOTHER_FOLDER}",
        )
    out.write(name, data)


def read_own(out: Output, name: str) -> dict[str, Any]:
    """The content of `stained.json` or `manifest.json` in *out*, {} when there is none.

    Raises PlateError when the file holds something else.
    """
    try:
        content = out.read_json(name)
    except ValueError as error:
        raise PlateError(
            f"{name} in {out.address} is damaged ({error})", f"remove it, or {ANOTHER_FOLDER}"
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise PlateError(f"{name} in {out.address} was written by another program", ANOTHER_FOLDER)
    return content
