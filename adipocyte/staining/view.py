"""How the networks of a bundle see a field: in its own pixels, or in those of another objective."""

from dataclasses import dataclass

from adipocyte.domain import SMALLEST_PX, UM_PER_PX, nearest_objective
from adipocyte.errors import ImageError
from adipocyte.imaging.resizing import shape_at
from adipocyte.staining.bundle import BundleManifest


@dataclass(frozen=True)
class View:
    """A field as networks see it: at a `magnification` that they know, with `shape_px`, (Y, X).

    `is_own` says that it is the field's own objective, else the nearest one.
    """

    magnification: int
    shape_px: tuple[int, int]
    is_own: bool


def view_of(
    bundle: BundleManifest,
    shape_px: tuple[int, int],
    magnification: int,
    um_per_px: float | None = None,
    *,
    resample: bool = False,
) -> View:
    """How the networks of a *bundle* see a field of *shape_px*, (Y, X).

    Its pixels are of *um_per_px*; None: as the bundle has seen them, or as is usual. With
    *resample*, or where the bundle takes any objective, a field of one that they have not seen is
    brought to the nearest that they have. Raises ImageError for such a field otherwise, and for one
    that is too small.
    """
    if bundle.has_seen(magnification, um_per_px):
        view = View(magnification, shape_px, is_own=True)
    elif resample or bundle.any_objective:
        view = _nearest(bundle, shape_px, magnification, um_per_px)
    else:
        raise _unseen(bundle, magnification, um_per_px)
    height, width = view.shape_px
    if min(*shape_px, height, width) < SMALLEST_PX:
        as_seen = "" if view.is_own else f" as the model sees it, at {view.magnification}x"
        raise ImageError(
            f"the stack is {height} x {width} pixels{as_seen}",
            f"a side must be at least {SMALLEST_PX}",
        )
    return view


def _nearest(
    bundle: BundleManifest, shape_px: tuple[int, int], magnification: int, um_per_px: float | None
) -> View:
    """A field in pixels of the nearest objective."""
    size = um_per_px or UM_PER_PX.get(magnification)
    if size is None:
        raise ImageError(
            f"nothing tells how large the pixels are at {magnification}x",
            "give it in µm (um_per_px)",
        )
    nearest = nearest_objective(size, bundle.objectives)
    zoom = size / bundle.objectives[nearest]
    return View(nearest, shape_at(shape_px, zoom), is_own=False)


def _unseen(bundle: BundleManifest, magnification: int, um_per_px: float | None) -> ImageError:
    known = bundle.objectives
    seen = ", ".join(f"{one}x" for one in known)
    found = f"the model has not seen {magnification}x, only {seen}"
    if um_per_px and magnification in known:
        found = (
            f"the model has not seen {magnification}x with pixels of {um_per_px:g} µm, "
            f"only of {known[magnification]:g} µm"
        )
    return ImageError(
        found,
        f"send one of those, train on a plate with {magnification}x, or let such fields be "
        "resampled to the nearest (resample=true)",
    )
