"""How fluorescence lies against brightfield at each magnification and site of the well: as estimated, as given in a file, or not at all."""

from dataclasses import asdict
from typing import Any

from adipocyte.imaging.alignment import Alignment
from adipocyte.imaging.registration import Registration

Registrations = dict[int, dict[int, Registration]]  # by magnification and field of view
Alignments = dict[
    int, dict[int, Alignment]
]  # by magnification and field of view, which is the site of the well


def sites_json(sites: Alignments | Registrations) -> dict[str, Any]:
    """Alignments or registrations as JSON holds them: {"20": {"1": {"dy_px": …, "dx_px": …, "scale": …}}}."""
    return {
        str(magnification): {str(fov): asdict(one) for fov, one in by_fov.items()}
        for magnification, by_fov in sites.items()
    }


def parse_alignments(content: dict[str, Any]) -> Alignments:
    """Undo `sites_json` of alignments. Raises ValueError, TypeError or AttributeError when *content* is something else."""
    return {
        int(magnification): {int(fov): Alignment(**one) for fov, one in sites.items()}
        for magnification, sites in content.items()
    }


def parse_registrations(content: dict[str, Any]) -> Registrations:
    """Undo `sites_json` of registrations. Raises as `parse_alignments` does."""
    return {
        int(magnification): {
            int(fov): Registration(
                **one | {name: Alignment(**one[name]) for name in ("alignment", "measured")}
            )
            for fov, one in sites.items()
        }
        for magnification, sites in content.items()
    }
