"""Alignments and registrations of fluorescence against brightfield, as JSON holds them."""

from dataclasses import asdict
from typing import Any

from adipocyte.imaging.alignment import Alignment
from adipocyte.imaging.registration import Registration

# By magnification and field of view, which is the site in the well.
Alignments = dict[int, dict[int, Alignment]]
Registrations = dict[int, dict[int, Registration]]


def sites_json(sites: Alignments | Registrations) -> dict[str, Any]:
    """Alignments or registrations as JSON: {"20": {"1": {"dy_px": …, "dx_px": …, "scale": …}}}."""
    return {
        str(magnification): {str(fov): asdict(one) for fov, one in by_fov.items()}
        for magnification, by_fov in sites.items()
    }


def parse_alignments(content: dict[str, Any]) -> Alignments:
    """Undo `sites_json` of alignments.

    Raises ValueError, TypeError or AttributeError when *content* is something else.
    """
    return {
        int(magnification): {int(fov): Alignment(**one) for fov, one in sites.items()}
        for magnification, sites in content.items()
    }


def parse_registrations(content: dict[str, Any]) -> Registrations:
    """Undo `sites_json` of registrations. Raises as `parse_alignments` does, and KeyError."""
    return {
        int(magnification): {int(fov): _registration(one) for fov, one in sites.items()}
        for magnification, sites in content.items()
    }


def _registration(content: dict[str, Any]) -> Registration:
    parsed: dict[str, Any] = dict(content)
    for name in ("alignment", "measured"):
        parsed[name] = Alignment(**content[name])
    return Registration(**parsed)
