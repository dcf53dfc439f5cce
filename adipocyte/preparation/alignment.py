"""How fluorescence lies against brightfield at each site of the well: estimated or read."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import zarr
from numpy.typing import NDArray
from tqdm import tqdm

from adipocyte.domain import FieldKey
from adipocyte.errors import ConfigError
from adipocyte.imaging.alignment import IDENTITY
from adipocyte.imaging.registration import Field, Registration, register
from adipocyte.store.alignments import Alignments, Registrations, parse_alignments
from adipocyte.store.paths import field_path
from adipocyte.system.files import read_json
from adipocyte.system.processes import each


@dataclass(frozen=True)
class _Magnification:
    """One magnification to register at its `sites` by the fields `keys` in the store `folder`.

    A field's channels are the planes, then the `targets`.
    """

    folder: Path
    magnification: int
    sites: tuple[int, ...]
    keys: tuple[FieldKey, ...]
    targets: tuple[str, ...]

    def load(self, key: FieldKey) -> Field:
        """The planes (Z, Y, X) and targets (Y, X) of a field, in counts, in their own frames."""
        array = zarr.open_array(field_path(self.folder, key) / "0", mode="r")
        stack = cast(NDArray[np.uint16], array[:])  # zarr declares GPU arrays and scalars as well
        n_z_planes = len(stack) - len(self.targets)
        return stack[:n_z_planes], dict(zip(self.targets, stack[n_z_planes:], strict=True))


def estimate_alignments(
    folder: Path,
    keys: Iterable[FieldKey],
    trained: Collection[FieldKey],
    targets: tuple[str, ...],
    workers: int,
) -> Registrations:
    """Measure how fluorescence lies at every site of *keys*, from the fields *trained* alone.

    The fields lie in *folder*, the store in the making.
    """
    sites: dict[int, set[int]] = defaultdict(set)
    for key in keys:
        sites[key.magnification].add(key.fov)
    tasks = []
    for one in sorted(sites):
        keys_here = sorted(key for key in trained if key.magnification == one)
        fovs = tuple(sorted(sites[one]))
        tasks.append(_Magnification(folder, one, fovs, tuple(keys_here), targets))
    results = each(_register, tasks, min(workers, 1))  # one by one: each may take a gigabyte
    return dict(sorted(tqdm(results, desc="align", unit="magnification", total=len(tasks))))


def _register(task: _Magnification) -> tuple[int, dict[int, Registration]]:
    loaders = {
        fov: [partial(task.load, key) for key in task.keys if key.fov == fov] for fov in task.sites
    }
    return task.magnification, register(loaders)


def alignment_sentences(registrations: Registrations) -> list[str]:
    """Sentences about each magnification: which sites are aligned, and why others are not."""
    sentences = []
    for magnification, sites in registrations.items():
        moved = [one.alignment for one in sites.values() if not one.alignment.is_identity]
        if moved:
            farthest_px = max(max(abs(one.dy_px), abs(one.dx_px)) for one in moved)
            sentences.append(
                f"{magnification}x: stains aligned at {len(moved)} of {len(sites)} sites, "
                f"by up to {farthest_px:.1f} pixels"
            )
        reasons = Counter(one.verdict for one in sites.values() if one.alignment.is_identity)
        sentences += [
            f"{magnification}x: {n} of {len(sites)} sites {verdict}"
            for verdict, n in reasons.items()
        ]
    return sentences


def no_alignments(keys: Iterable[FieldKey]) -> Alignments:
    """The identity at every site of *keys*."""
    alignments: Alignments = defaultdict(dict)
    for key in sorted(keys):
        alignments[key.magnification][key.fov] = IDENTITY
    return dict(alignments)


def read_alignments(path: Path, keys: Iterable[FieldKey]) -> Alignments:
    """The alignments in a file, as `preprocess` logs it (alignment.json).

    Raises ConfigError when it cannot be used for *keys*.
    """
    remedy = (
        "give the alignment.json of a preparation, with every magnification and field of view "
        "of this plate, or -P align=estimate or -P align=none"
    )
    try:
        alignments = parse_alignments(read_json(path))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no file of alignments ({error})", remedy) from error
    for key in sorted(keys):
        if key.fov not in alignments.get(key.magnification, {}):
            raise ConfigError(
                f"{path} does not say how fluorescence lies at {key.magnification}x in field of "
                f"view {key.fov}",
                remedy,
            )
    return alignments
