"""How fluorescence lies against brightfield at each magnification and site of the well: as estimated, as given in a file, or not at all."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adipocyte.errors import ConfigError
from adipocyte.imaging.alignment import IDENTITY, Alignment
from adipocyte.plate.reader import FieldKey

Alignments = dict[int, dict[int, Alignment]]  # by magnification and field of view, which is the site of the well


def no_alignments(keys: Iterable[FieldKey]) -> Alignments:
    """Brightfield and fluorescence on top of each other at the sites of *keys*."""
    alignments: Alignments = {}
    for key in sorted(keys):
        alignments.setdefault(key.magnification, {})[key.fov] = IDENTITY
    return alignments


def read_alignments(path: Path, keys: Iterable[FieldKey]) -> Alignments:
    """The alignments in a file, as `preprocess` logs it (alignment.json). Raises ConfigError when it cannot be used for *keys*."""
    needed = "needed is the alignment.json of a preparation, with every magnification and field of view of this plate"
    try:
        alignments = parse_alignments(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no file of alignments ({error}): {needed}; or give -P align=estimate or -P align=none") from error
    for key in sorted(keys):
        if key.fov not in alignments.get(key.magnification, {}):
            raise ConfigError(f"{path} does not say how fluorescence lies at {key.magnification}x in field of view {key.fov}: {needed}")
    return alignments


def alignments_json(alignments: Alignments) -> dict[str, Any]:
    """*alignments* as JSON holds them: {"20": {"1": {"dy_px": …, "dx_px": …, "scale": …}}}."""
    return {
        str(magnification): {str(fov): asdict(alignment) for fov, alignment in sites.items()} for magnification, sites in alignments.items()
    }


def parse_alignments(content: dict[str, Any]) -> Alignments:
    """Undo `alignments_json`. Raises ValueError, TypeError or AttributeError when *content* is something else."""
    return {
        int(magnification): {int(fov): Alignment(**alignment) for fov, alignment in sites.items()}
        for magnification, sites in content.items()
    }
