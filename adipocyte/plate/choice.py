"""Which images of a listing are meant: those of one plate, in channels with a role."""

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low

from adipocyte.domain import (
    ALIKE,
    BRIGHTFIELD,
    MOST_MAGNIFICATION,
    MOST_UM_PER_PX,
    UM_PER_PX,
    are_alike,
)
from adipocyte.errors import PlateError
from adipocyte.plate.channels import Roles, roles_of
from adipocyte.plate.layouts.challenge import CHALLENGE, ROLES
from adipocyte.plate.layouts.listed import Channel, Image, LeftAlone, Listed
from adipocyte.plate.listing import is_passed_over
from adipocyte.plate.times import has_several, numbered

_MOST_NAMED = 5
_HIDDEN = "files that are hidden, or links to nothing"
_GIVE = "give it with -P magnification=20, say"


@dataclass(frozen=True)
class Understood:
    """How a plate was understood: its layout, its `channels` with their roles, notes in words.

    `um_per_px` is what the plate tells, by magnification, and before its images are opened what its
    layout tells.
    """

    layout: str
    channels: tuple[Channel, ...]
    roles: Roles
    um_per_px: dict[int, float]
    notes: tuple[str, ...]

    @property
    def is_usual(self) -> bool:
        """Whether names are the challenge's, and channels mean what they mean there."""
        return self.layout == CHALLENGE and self.roles == ROLES


@dataclass(frozen=True)
class Choice:
    """The images that are meant. `others` were passed over, `absent` have no file.

    `magnification` is None in images in a folder of the challenge's layout that does not tell it.
    """

    images: tuple[Image, ...]
    absent: tuple[Image, ...]
    others: LeftAlone
    understood: Understood


def choose(
    listed: Listed,
    targets: Sequence[str],
    *,
    plate_name: str,
    channels: str,
    magnification: int,
    um_per_px: float,
) -> Choice:
    """Take what is meant of a listing.

    Raises PlateError for several plates or objectives, an objective that is not told, and channels
    that cannot be told apart; ConfigError for *channels* that the plate lacks.
    """
    roles = roles_of(listed, channels, targets)
    images = [image for image in listed.images if image.channel in roles]
    _check_one_plate(images, plate_name)
    images = [image for image in images if plate_name in ("", image.plate)]
    absent = [image for image in listed.absent if image.channel in roles]
    absent = [image for image in absent if plate_name in ("", image.plate)]
    notes = list(listed.notes)
    if magnification:
        notes += _overruled(images, magnification, listed.layout)
        images = [_at(image, magnification, listed.layout) for image in images]
        absent = [_at(image, magnification, listed.layout) for image in absent]
    if um_per_px:
        notes += _other_sizes(images, um_per_px)
        images = [replace(image, um_per_px=um_per_px) for image in images]
    everything = (*images, *absent)
    several = has_several((_shown(image), image.time) for image in everything)
    times = numbered({image.time for image in everything}, several=several)
    images, absent = _at_numbered_times(images, times), _at_numbered_times(absent, times)
    used = [image for image in images if roles[image.channel] in (BRIGHTFIELD, *targets)]
    if listed.layout != CHALLENGE:
        _check_objectives(used, roles)
    check_one_objective((image.magnification for image in used), um_per_px)
    sizes = _sizes((one.magnification, one.um_per_px, one.path) for one in used)
    understood = Understood(listed.layout, listed.channels, roles, sizes, tuple(notes))
    return Choice(tuple(images), tuple(absent), _left_alone(listed, roles), understood)


def check_one_objective(magnifications: Iterable[int | None], um_per_px: float) -> None:
    """Raise PlateError where a size of pixels is given, not 0, for several *magnifications*."""
    found = {one for one in magnifications if one}
    if um_per_px and len(found) > 1:
        raise PlateError(
            f"the folder has images at {_times(found)}, which have not one size of pixels",
            "leave um_per_px out, or give each objective a folder of its own",
        )


def _left_alone(listed: Listed, roles: Roles) -> LeftAlone:
    """What belongs to no field, by what it is."""
    found: dict[str, list[Path]] = defaultdict(list)
    for what, paths in listed.others.items():
        for path in paths:
            found[_HIDDEN if is_passed_over(path) else what].append(path)
    names = {one.number: str(one) for one in listed.channels}
    for image in listed.images:
        if image.channel not in roles:
            found[f"images of channel {names[image.channel]}"].append(image.path)
    return {what: sorted(paths) for what, paths in found.items()}


def _check_one_plate(images: Sequence[Image], plate_name: str) -> None:
    """Raise PlateError when a folder holds several plates and none is named, or another one is."""
    by_folder: dict[Path, Counter[str]] = defaultdict(Counter)
    for image in images:
        by_folder[image.folder][image.plate] += 1
    for folder, counts in by_folder.items():
        if len(counts) > 1 and not plate_name:
            raise PlateError(f"{folder} holds images of {len(counts)} plates", _take_one(counts))
    counts = sum(by_folder.values(), Counter[str]())
    if counts and plate_name and plate_name not in counts:
        raise PlateError(f"no image is of a plate named {plate_name!r}", _take_one(counts))


def _take_one(counts: Counter[str]) -> str:
    """The plates that there are, by their numbers of images, and how to take one."""
    plates = ", ".join(f"{plate} ({n} images)" for plate, n in sorted(counts.items())[:_MOST_NAMED])
    setting = shlex.quote(f"plate_name={min(counts)}")
    return f"there are {plates}: take one with -P {setting}, or give each a folder of its own"


def _at(image: Image, magnification: int, layout: str) -> Image:
    """An image at the magnification that was given.

    In the challenge's layout folders that tell theirs keep it.
    """
    is_kept = layout == CHALLENGE and image.magnification
    return image if is_kept else replace(image, magnification=magnification)


def _overruled(images: Sequence[Image], given: int, layout: str) -> list[str]:
    """A note where a plate tells another magnification than the one that was *given*."""
    told = {image.magnification for image in images if image.magnification} - {given}
    if layout == CHALLENGE or not told:
        return []
    return [f"taken as {given}x as you say; the plate says {_times(told)}"]


def _at_numbered_times(images: Sequence[Image], times: Mapping[int, int]) -> list[Image]:
    return [
        image if image.time == times[image.time] else replace(image, time=times[image.time])
        for image in images
    ]


def _shown(image: Image) -> tuple[object, ...]:
    """What an image shows, whenever it was taken."""
    return image.magnification, image.well, image.fov, image.channel, image.z_plane


def _check_objectives(images: Sequence[Image], roles: Roles) -> None:
    """Raise PlateError unless all images tell a magnification that can be, for all channels."""
    by_role: dict[str, set[int]] = defaultdict(set)
    for image in images:
        if image.magnification is None:
            raise PlateError(
                f"the magnification of {image.path} cannot be told",
                _GIVE,
            )
        if not 0 < image.magnification <= MOST_MAGNIFICATION:
            raise PlateError(
                f"{image.path} was taken at {image.magnification}x, by its plate", _GIVE
            )
        by_role[roles[image.channel]].add(image.magnification)
    for role, found in by_role.items():
        if found - by_role[BRIGHTFIELD]:
            raise PlateError(
                f"{role} was taken at {_times(found)}, brightfield at "
                f"{_times(by_role[BRIGHTFIELD]) or 'none'}",
                "name channels of one objective with -P channels=",
            )


def _times(magnifications: Iterable[int]) -> str:
    return " and ".join(f"{one}x" for one in sorted(magnifications))


def _other_sizes(images: Sequence[Image], given: float) -> list[str]:
    """A note where a plate tells pixels of another size than the one that was *given*, in µm."""
    told = {image.um_per_px for image in images if image.um_per_px}
    others = sorted(size for size in told if not are_alike(size, given))
    if not others:
        return []
    return [f"pixels taken as {given:g} µm as you say; the plate says {others[0]:g}"]


def sized(understood: Understood, images: Iterable[tuple[int, float | None, Path]]) -> Understood:
    """What was understood of a plate, with the size of pixels where its layout does not tell it.

    *images* are the magnification of each image, the µm per pixel that its own file tells, and the
    file. Raises PlateError where one objective has several sizes, or one that nobody knows.
    """
    images, told = list(images), understood.um_per_px
    um_per_px = _sizes(one for one in images if one[0] not in told) | told
    for magnification in sorted({magnification for magnification, _, _ in images}):
        if not 0 < um_per_px.get(magnification, 1) <= MOST_UM_PER_PX:
            raise PlateError(
                f"pixels are of {um_per_px[magnification]:g} µm at {magnification}x, by the plate",
                f"give the right size with -P um_per_px=, up to {MOST_UM_PER_PX:g}",
            )
        if magnification not in {*um_per_px, *UM_PER_PX}:
            raise PlateError(
                f"the plate does not tell how large the pixels are at {magnification}x",
                "give it in µm with -P um_per_px=0.5, say",
            )
    notes = (*understood.notes, *_overruled_sizes(images, told), *_unlike_pixels(um_per_px))
    return replace(understood, um_per_px=um_per_px, notes=notes)


def _overruled_sizes(
    images: Iterable[tuple[int, float | None, Path]], told: Mapping[int, float]
) -> list[str]:
    """Notes where images tell pixels of other sizes than the layout *told*, or a user."""
    others = {
        (one, size)
        for one, size, _ in images
        if size and one in told and not are_alike(size, told[one])
    }
    return [
        f"pixels taken as {told[one]:g} µm at {one}x; files of images say {size:g}"
        for one, size in sorted(others)
    ]


def _sizes(images: Iterable[tuple[int | None, float | None, Path]]) -> dict[int, float]:
    """The pixels' size by magnification, the middle one of those that are told.

    Raises PlateError where sizes are not those of one objective.
    """
    sizes: dict[int, list[tuple[float, Path]]] = defaultdict(list)
    for magnification, size, path in images:
        if magnification and size:
            sizes[magnification].append((size, path))
    for magnification, told in sizes.items():
        (least, first), (most, second) = min(told), max(told)
        if most > ALIKE**2 * least:
            raise PlateError(
                f"images at {magnification}x have pixels of {least:g} µm ({first}) and of "
                f"{most:g} µm ({second})",
                "keep those of one size in the plate, and give the others a folder of their own",
            )
    return {one: median_low(size for size, _ in told) for one, told in sizes.items()}


def _unlike_pixels(um_per_px: dict[int, float]) -> list[str]:
    """Notes on pixels of other sizes than are usual at the magnifications of a plate."""
    return [
        f"pixels of {size:g} µm at {magnification}x, where {UM_PER_PX[magnification]:g} is usual "
        "(binned or resized?): a model that has not seen such sizes refuses them"
        for magnification, size in sorted(um_per_px.items())
        if magnification in UM_PER_PX and not are_alike(size, UM_PER_PX[magnification])
    ]
