"""The planes of a TIFF: its pages in z order, or what lies behind its one page.

MetaMorph, ImageJ, tifffile and NIH Image may keep a stack as one page, with the further planes
behind it in the file. Such planes become pages here, with offsets of their own, so that whatever
judges pages judges them too.
"""

import copy
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import chain

from tifffile import TiffPage

from adipocyte.errors import ImageError
from adipocyte.plate.tiff_axes import Told, told_by

_Z_AXES = {"depth", "time", "channel", "image", "plane", "axis"}  # what planes in z are called
_BITS = (8, 16)  # of pixels that can be found by counting bytes
_MASK = 4  # of a page's subfile type


def full_pages(pages: list[TiffPage], name: str) -> list[TiffPage]:
    """The pages without reduced copies of others, such as thumbnails.

    Raises ImageError, on *name*, when the first is one, when one is as large as the first, and for
    masks.
    """
    for page in pages:
        if page.subfiletype & _MASK:
            raise ImageError(
                f"{name} has a page that masks another", "save its z-planes alone, without masks"
            )
    if pages and pages[0].is_reduced:
        raise ImageError(
            f"{name} begins with a reduced copy of an image, by its own word",
            "save the image itself, at full resolution",
        )
    for page in pages:
        if page.is_reduced and page.shape[:2] == pages[0].shape[:2]:
            raise ImageError(
                f"{name} has a page of full size that it calls a reduced copy",
                "save its z-planes again, or without the copy",
            )
    return [page for page in pages if not page.is_reduced]


def planes_of(pages: list[TiffPage], n_pages: int, most: int, name: str) -> list[TiffPage]:
    """A page for each plane of a file of *n_pages*, of which *pages* are no reduced copies.

    They are in z order, and no more than one beyond *most*.

    Raises ImageError, on *name*, when they lie along several axes or along one that cannot be z,
    when the file tells of others than it has, and when planes lie behind a page in another form
    than plain counts.
    """
    told = told_by(pages, n_pages, name)
    if told is None:
        return pages
    _check_axes(told, name)
    n_planes = told.n_planes
    if n_planes == len(pages):
        return [pages[at] for at in told.order] if told.order else pages
    if n_planes > 1 and len(pages) == 1 and told.is_behind:
        return _behind(pages[0], min(n_planes, most + 1), told.source, name)
    if n_planes > len(pages) or (n_planes > 1 and told.is_exact):
        pages_found = f"{len(pages)} page{'s' if len(pages) > 1 else ''}"
        raise ImageError(
            f"{name} has {pages_found}, but its {told.source} tells of {n_planes} planes",
            "if it should have more pages, it is cut short: copy it again; else save it again "
            "as a plain TIFF",
        )
    return pages


def check_room(
    planes: list[TiffPage], pages: list[TiffPage], known: list[int], size: int, name: str
) -> None:
    """Refuse a file of *size* bytes where a plane may be missing, or is none.

    There is room for one more plane behind one of the *planes*, and no page tells of what lies
    there: it might be a kind of stack that is not known here. Or planes without a page of their own
    lie over what else is in the file. *pages* are all, *known* the offsets of their directories and
    tags.
    """
    below = [offset for page in pages for offset in page.subifds or ()]
    copies = [page for page in pages if page.is_reduced]
    others = sorted({*known, *below, *_offsets(copies), size})
    starts = sorted({*others, *_offsets(planes)})
    are_behind = all(page is not planes[0] for page in pages)
    for plane in filter(_is_plain, planes):
        begin, end = plane.dataoffsets[0], plane.dataoffsets[0] + plane.nbytes
        if are_behind and others[bisect_right(others, begin)] < end:
            raise ImageError(
                f"{name} is cut short",
                f"its {len(planes)} planes lie over its tags; copy it again, whole",
            )
        room = starts[bisect_left(starts, min(end, size))] - end
        if room >= plane.nbytes:
            raise ImageError(
                f"{name} has {room} bytes behind a page of {plane.nbytes} that nothing tells of",
                "they may be planes in a form that is not known; save its z-planes as a plain "
                "TIFF or OME-TIFF",
            )


def _offsets(pages: list[TiffPage]) -> Iterable[int]:
    return chain.from_iterable(page.dataoffsets for page in pages)


def _check_axes(told: Told, name: str) -> None:
    """Refuse planes along several axes, or along one that is not z: their order only tells z."""
    names = [axis for axis, _ in told.axes]
    if len(names) > 1 or not _Z_AXES.issuperset(names):
        found = " and ".join(f"{n} along {axis}" for axis, n in told.axes)
        raise ImageError(
            f"{name} has pages {found}",
            "it must have the z-planes of one channel; export each channel by itself",
        )


def _behind(page: TiffPage, n_planes: int, source: str, name: str) -> list[TiffPage]:
    """*n_planes* pages, of which only the first has a directory, one behind the other."""
    if not _is_plain(page):
        raise ImageError(
            f"{name} has one page, and {n_planes} planes by its {source}",
            "they can only be read where they are uncompressed and follow each other; save each "
            "plane as a page of its own",
        )
    planes = []
    for i in range(n_planes):
        plane = copy.copy(page)
        plane.dataoffsets = (page.dataoffsets[0] + i * page.nbytes,)
        plane.databytecounts = (page.nbytes,)
        plane.rowsperstrip = page.imagelength
        for cached in ("chunks", "chunked"):
            vars(plane).pop(cached, None)
        planes.append(plane)
    return planes


def _is_plain(page: TiffPage) -> bool:
    """Whether a page's pixels are its bytes from the first offset on, with nothing between."""
    ends = [at + n for at, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    n_bytes = sum(page.databytecounts)
    return (
        page.is_final
        and not page.is_tiled
        and page.bitspersample in _BITS
        and list(page.dataoffsets[1:]) == ends[:-1]
        and (n_bytes == page.nbytes or (len(ends) == 1 and n_bytes % page.nbytes == 0))
    )
