"""The challenge's layout: a folder for each magnification, images under the challenge's names."""

from pathlib import Path

from adipocyte.domain import BRIGHTFIELD, TARGETS
from adipocyte.plate.layouts.listed import NOT_NAMED, Channel, Image, Listed
from adipocyte.plate.listing import list_folders, list_images, similar_problem
from adipocyte.plate.names import BRIGHTFIELD_CHANNEL, ImageName, parse_magnification

CHALLENGE = "challenge"
ROLES = {str(i): target for i, target in enumerate(TARGETS, start=1)}
ROLES |= {str(BRIGHTFIELD_CHANNEL): BRIGHTFIELD}


def has_folders(plate: Path) -> bool:
    """Whether a folder of the plate has a magnification's name and holds images. Raises OSError."""
    folders = [folder for folder in list_folders(plate)[1:] if parse_magnification(folder.name)]
    return any(list_images(folder).images for folder in folders)


def list_challenge(plate: Path) -> Listed:
    """The images in a plate's folder and in those in it. Raises OSError."""
    images: list[Image] = []
    others: list[Path] = []
    problems = []
    for folder in list_folders(plate):
        magnification = parse_magnification(folder.name) if folder != plate else None
        found = list_images(folder)
        if found.similar and magnification:
            problems.append(similar_problem(folder, found.similar))
        named = (found.images | found.further).items()
        images += [_image(path, name, magnification) for path, name in named]
        others += [path for path in found.others if path not in found.further]
    numbers = sorted({int(image.channel) for image in images})
    channels = tuple(Channel(str(number)) for number in numbers)
    return Listed(
        CHALLENGE,
        tuple(images),
        channels,
        {NOT_NAMED: others},
        problems=tuple(problems),
        roles=ROLES,
    )


def _image(path: Path, name: ImageName, magnification: int | None) -> Image:
    return Image(
        path=path,
        folder=path.parent,
        plate=name.plate,
        well=name.well,
        fov=name.fov,
        channel=str(name.channel),
        time=name.time,
        z_plane=name.z_plane,
        magnification=magnification,
    )
