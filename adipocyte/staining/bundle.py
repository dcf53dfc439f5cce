"""A bundle: networks, histograms, calibrations, intervals and `bundle.json`; no pickles."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save, save_file

from adipocyte.domain import (
    BRIGHTFIELD,
    MAGNIFICATIONS,
    MOST_MAGNIFICATION,
    MOST_UM_PER_PX,
    MOST_Z_PLANES,
    SEGMENTER,
    TARGETS,
    UM_PER_PX,
    Intensities,
    Normalisation,
    are_alike,
    pixels_joined,
    table_key,
)
from adipocyte.errors import BundleError, ConfigError, ImageError, NewerBundleError
from adipocyte.imaging import foreteller
from adipocyte.imaging.foreteller import Foreteller
from adipocyte.imaging.histograms import N_COUNTS, counts_histogram
from adipocyte.imaging.intervals import Widths
from adipocyte.imaging.limits import Limits
from adipocyte.imaging.normalisation import Scaling, field_scaling
from adipocyte.networks.files import NETWORK_FILES, copy_network
from adipocyte.networks.quantisation import Ranges
from adipocyte.plate.stained import GRADES
from adipocyte.system.files import (
    digest_of,
    json_bytes,
    open_regular,
    read_json,
    replacing,
    write_json,
    write_whole,
)
from adipocyte.system.forms import NUMBER, require_form
from adipocyte.system.tensors import disk_errors

BUNDLE_FORMAT = 6
_ANY_OBJECTIVE = 7  # that of bundles with objectives that older code does not know
_CAUTIOUS = 8  # that of bundles that take any objective, or say a caution
_JOINING = 9  # that of bundles with a network that sees no finer pixels than it is to
# Fields that older code does not know, with the first format that has them, and their form.
_SINCE = {"um_per_px": _ANY_OBJECTIVE, "any_objective": _CAUTIOUS, "caution": _CAUTIOUS}
_LATER = {"um_per_px": {...: NUMBER}, "any_objective": bool, "caution": str}
_LONGEST_CAUTION = 1000
_PLATE_ALONE = 5  # the format in which a bundle did not say how it normalises
_SEPARATE = 4  # the one before, in which each network painted one target, and A1's saw a mask
BUNDLE_MANIFEST, _HISTOGRAMS = "bundle.json", "histograms.safetensors"
_INTERVALS = "intervals.safetensors"  # optional: older bundles have none
_FORETELLERS = "foretellers.json"  # likewise
_AGAIN = "register the model again with mlflow run . -e register"
_FORM = {
    "targets": [str],
    "networks": {...: {"paints": [str], "sees_mask": bool}},
    "n_z_planes": int,
    "any_planes": bool,
    "scalings": {...: {...: (NUMBER, NUMBER)}},
    "limits": {...: {...: (NUMBER | None, NUMBER | None)}},
    "runs": {...: str},
    "store_digest": str,
    "commit": str,
    "version": str,
    "licences": {...: str},
    "started_from": {...: str},
    "intensities": str,
    "normalisation": str,
    "storage": str,
    "calibrations": str,
    "checksums": {...: str},
}
_NO_PIXELS = np.zeros(N_COUNTS, dtype=np.int64)
_MAGNIFICATION = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*", re.ASCII)


@dataclass(frozen=True)
class NetworkEntry:
    """What a network of a bundle is for.

    `paints` names the target of each output, "" for one that another network paints. `sees_mask`
    says that its last input is the segmenter's mask. `ranges` say what its convolutions see (see
    `networks.quantisation`); older bundles, and networks that see a mask, have none. Pixels finer
    than `finest_um_per_px`, in µm, are joined before it sees them (see `domain.pixels_joined`), and
    what it paints is brought back; by 0 it sees those of the field.
    """

    paints: tuple[str, ...]
    sees_mask: bool
    ranges: Ranges = field(default_factory=dict)
    finest_um_per_px: float = 0.0

    @property
    def name(self) -> str:
        """What the bundle calls it: "A2", "A1-A2-A3"."""
        return "-".join(filter(None, self.paints))


@dataclass(frozen=True, kw_only=True)
class BundleManifest:
    """What a bundle holds and where it came from.

    `networks` maps the names of generators, which are their folders, to what they paint; the
    segmenter is beside them if one sees its mask. They see `n_z_planes`; with `any_planes` they
    learnt from any number, and a stack of 1 to MOST_Z_PLANES is brought to so many (see
    `imaging.planes`). `scalings` maps magnification ("20") and channel
    ("brightfield", "A1", …) to [mean, std] in counts, `limits` maps magnification and measurement
    of quality (see `imaging.quality`) to the [low, high] of the training wells. `runs` maps each
    target, and "segmenter" if there is one, to the run that trained it; `store_digest` names the
    data, `commit` and `version` the code. `licences` maps "code" and each of `runs` to the terms of
    it or of the weights that it started from; `started_from` maps those targets whose training
    started from a trained network to the address of that. `intensities` is the way (see
    `domain.Intensities`) in which painted images get their intensities unless a caller names
    another. `normalisation` is a way of `domain.Normalisation`; by "field" a stack is normalised by
    its own counts. `storage` is the precision of the weights on disk (see
    `networks.files.copy_network`). `checksums` maps each file of the bundle to its SHA-256;
    `calibrations` names one of them, "" before `calibrate_bundle`. `um_per_px` is the size of the
    pixels that the networks have seen, by magnification, where it is not the usual one. With
    `any_objective` they have seen fields of several objectives in these pixels, and a field of any
    other is brought to them. `caution` is said with every painting, "" where there is none.

    Raises BundleError when `intensities` or `normalisation` is no known way, a target is not one of
    the three, or is not painted by exactly one network.
    """

    targets: tuple[str, ...]
    networks: dict[str, NetworkEntry]
    n_z_planes: int
    scalings: dict[str, dict[str, tuple[float, float]]]
    limits: dict[str, Limits]
    runs: dict[str, str]
    store_digest: str
    commit: str
    version: str
    licences: dict[str, str]
    intensities: str
    normalisation: str = Normalisation.PLATE
    started_from: dict[str, str] = field(default_factory=dict)
    any_planes: bool = False
    storage: str = "float32"
    calibrations: str = ""
    um_per_px: dict[str, float] = field(default_factory=dict)
    any_objective: bool = False
    caution: str = ""
    checksums: dict[str, str] = field(default_factory=dict)
    format: int = BUNDLE_FORMAT

    def __post_init__(self) -> None:
        if not set(self.targets) <= set(TARGETS):
            raise BundleError(
                f"the bundle paints {', '.join(self.targets)}, "
                f"of which only {', '.join(TARGETS)} are known",
                _AGAIN,
            )
        painted = [target for one in self.networks.values() for target in one.paints if target]
        if sorted(painted) != sorted(self.targets):
            raise BundleError(
                f"the bundle's networks paint {', '.join(painted)}, not {', '.join(self.targets)}",
                _AGAIN,
            )
        if self.intensities not in list(Intensities):
            raise BundleError(
                f"the bundle keeps the intensities {self.intensities!r}, "
                f"not one of {', '.join(Intensities)}",
                _AGAIN,
            )

        if self.normalisation not in list(Normalisation):
            raise BundleError(
                f"the bundle normalises by {self.normalisation!r}, "
                f"not one of {', '.join(Normalisation)}",
                _AGAIN,
            )

    @property
    def plane_numbers(self) -> range:
        """The numbers of planes that a stack may have."""
        if self.any_planes:
            return range(1, MOST_Z_PLANES + 1)
        return range(self.n_z_planes, self.n_z_planes + 1)

    @property
    def magnifications(self) -> tuple[int, ...]:
        return tuple(sorted(int(magnification) for magnification in self.scalings))

    @property
    def objectives(self) -> dict[int, float]:
        """The µm per pixel at each magnification that the networks have seen."""
        return {one: self.um_per_px.get(str(one)) or UM_PER_PX[one] for one in self.magnifications}

    def has_seen(self, magnification: int, um_per_px: float | None) -> bool:
        """Whether the networks have seen an objective; None: with pixels as they have seen them."""
        seen = self.objectives.get(magnification)
        return seen is not None and (um_per_px is None or are_alike(um_per_px, seen))

    def names(self, targets: Iterable[str]) -> list[str]:
        """The networks that painting *targets* takes, the segmenter first if one sees its mask."""
        wanted = set(targets)
        used = {name: one for name, one in self.networks.items() if wanted & set(one.paints)}
        return [SEGMENTER] * any(one.sees_mask for one in used.values()) + list(used)

    @property
    def paintings(self) -> tuple[str, ...]:
        """The keys of the histograms and calibrations: "20/A1", …"""
        return tuple(
            table_key(magnification, target)
            for magnification in self.magnifications
            for target in self.targets
        )

    @property
    def ways(self) -> tuple[Intensities, ...]:
        """The ways of setting intensities: before `calibrate_bundle` those without a table."""
        return tuple(way for way in Intensities if self.calibrations or not way.takes_calibrations)

    def way(self, intensities: str | None) -> Intensities:
        """The way that *intensities* names; None names the one that the bundle keeps.

        Raises ConfigError when there is no such way, or when it takes calibrations and the bundle
        has none.
        """
        name = self.intensities if intensities is None else intensities
        if name not in list(Intensities):
            raise ConfigError(
                f"intensities must be one of {', '.join(Intensities)}, got {name!r}",
                "name one of these, or none at all for the way that the model keeps",
            )
        if name not in self.ways:
            raise ConfigError(
                "the model has not been calibrated",
                "take the intensities none or matching, or register it anew",
            )
        return Intensities(name)

    def light_scaling(self, magnification: int, planes: NDArray[np.uint16]) -> Scaling:
        """Normalisation constants for the *planes* of a field, (Z, Y, X) in counts.

        Raises ImageError when they are measured on the planes themselves, and those are constant.
        """
        if self.normalisation != Normalisation.FIELD:
            return self.scaling(magnification, BRIGHTFIELD)
        try:
            return field_scaling(sum(map(counts_histogram, planes), start=_NO_PIXELS))
        except ConfigError as error:
            raise ImageError(
                "the planes are constant", "send an image of cells, as the camera wrote it"
            ) from error

    def n_joined(self, network: str, magnification: int) -> int:
        """How many pixels along a side are one to a *network*; 1 to the segmenter."""
        if network == SEGMENTER:
            return 1
        finest = self.networks[network].finest_um_per_px
        return pixels_joined(self.objectives[magnification], finest)

    def scaling(self, magnification: int, channel: str) -> Scaling:
        """Normalisation constants of "brightfield" or a target."""
        return Scaling(*self.scalings[str(magnification)][channel])


def write_bundle(
    folder: Path,
    manifest: BundleManifest,
    networks: Mapping[str, Path],
    histograms: Mapping[str, NDArray[np.int64]],
) -> None:
    """Gather a bundle in *folder*, which must not exist; `calibrate_bundle` adds the calibrations.

    *networks* maps the *manifest*'s networks to the folders that they are in; *histograms* maps
    "20/A1", … to (65536,) counts. Weights are kept in the *manifest*'s storage; its checksums are
    filled in.
    """
    folder.mkdir(parents=True)
    for name in manifest.names(manifest.targets):
        copy_network(networks[name], folder / name, manifest.storage)
    with replacing(folder / _HISTOGRAMS) as partial, disk_errors(partial):
        save_file(dict(histograms), partial)
    files = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    checksums = {name: digest_of(folder / name) for name in files}
    _write_manifest(folder, replace(manifest, checksums=checksums))


def calibrate_bundle(
    folder: Path, calibrations: Mapping[str, NDArray[np.uint16]], intensities: str
) -> None:
    """Give the bundle in *folder* its *calibrations* and the way of *intensities* that it keeps.

    *calibrations* maps "20/A1", … for every magnification and target to a table (65536,) (see
    `imaging.calibration`); or is empty. Intervals and foretellers that the bundle had are left out,
    because they were those of other images. The bundle stays whole when the process is killed.

    Raises BundleError when there is no bundle, a table is missing or *intensities* is no way of
    `domain.Intensities`.
    """
    manifest = read_manifest(folder)
    checksums = {
        name: digest
        for name, digest in manifest.checksums.items()
        if name not in (manifest.calibrations, _INTERVALS, _FORETELLERS)
    }
    changed = replace(manifest, intensities=intensities, calibrations="", checksums=checksums)
    if calibrations or Intensities(intensities).takes_calibrations:
        _require_all(manifest, calibrations)
    if calibrations:
        changed = _with_calibrations(folder, changed, calibrations)
    _write_manifest(folder, changed)
    if manifest.calibrations and manifest.calibrations != changed.calibrations:
        (folder / manifest.calibrations).unlink()  # last, because until now the manifest named it


def add_grades(folder: Path, grades: Any) -> None:
    """Put *grades* into the bundle in *folder*: JSON, of the form of `evaluation.grades`.

    They say what measurements of painted images are worth. Older bundles have none. The bundle
    stays whole when the process is killed. Raises BundleError when there is no bundle.
    """
    _add_file(folder, GRADES, json_bytes(grades))


def write_intervals(folder: Path, intervals: Mapping[str, Widths]) -> None:
    """Give the bundle in *folder* the *intervals* of what it paints with the way that it keeps.

    *intervals* maps "20/A1", … to the widths of those that have any. The bundle stays whole when
    the process is killed. Raises BundleError when there is no bundle.
    """
    tables = {
        f"{name}/{part}": table
        for name, widths in intervals.items()
        for part, table in widths.tables.items()
    }
    _add_file(folder, _INTERVALS, save(tables))


def write_foretellers(folder: Path, foretellers: Sequence[Foreteller]) -> None:
    """Give the bundle in *folder* what foretells the errors of what it paints as it keeps it.

    The bundle stays whole when the process is killed. Raises BundleError when there is no bundle.
    """
    _add_file(folder, _FORETELLERS, json_bytes(foreteller.to_json(foretellers)))


def _add_file(folder: Path, name: str, data: bytes) -> None:
    manifest = read_manifest(folder)
    others = {file: digest for file, digest in manifest.checksums.items() if file != name}
    if others != manifest.checksums:  # a new file must not lie behind the checksum of an old one
        _write_manifest(folder, replace(manifest, checksums=others))
    write_whole(folder / name, data)
    checksums = others | {name: digest_of(folder / name)}
    _write_manifest(folder, replace(manifest, checksums=checksums))


def _write_manifest(folder: Path, manifest: BundleManifest) -> None:
    content = asdict(manifest)
    if any(one.finest_um_per_px for one in manifest.networks.values()):
        content["format"] = _JOINING
    elif manifest.any_objective or manifest.caution:
        content["format"] = _CAUTIOUS
    elif manifest.um_per_px or set(manifest.magnifications) - {*MAGNIFICATIONS}:
        content["format"] = _ANY_OBJECTIVE
    for name, first in _SINCE.items():
        if content["format"] < first:
            del content[name]
    if content["format"] < _JOINING:
        for entry in content["networks"].values():
            del entry["finest_um_per_px"]
    write_json(folder / BUNDLE_MANIFEST, content)


def read_manifest(folder: Path) -> BundleManifest:
    """Read `bundle.json`, of one of the formats 4 to 9.

    Raises BundleError when *folder* holds no bundle or one of an older format than this code's,
    NewerBundleError for a newer one.
    """
    try:
        _require_inside(folder, BUNDLE_MANIFEST)
        content = read_json(folder / BUNDLE_MANIFEST)
        require_form(content, {"format": int}, "the bundle's")
        found = content["format"]
        if found == _SEPARATE:
            content |= _separate(content)
        if found in (_SEPARATE, _PLATE_ALONE):
            content |= _of_one_plate()
        if content["format"] in range(BUNDLE_FORMAT, _JOINING + 1):
            _require_valid(content)
            networks = {name: _entry(one) for name, one in content["networks"].items()}
            given = {"targets": tuple(content["targets"]), "networks": networks}
            return BundleManifest(**content | given)
    except BundleError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder} holds no whole bundle ({error})", _AGAIN) from error
    raise _of_another_format(folder, found)


def check_files(folder: Path, manifest: BundleManifest) -> None:
    """Read every file of the bundle once.

    Raises BundleError, naming the file, when one is missing, lies elsewhere behind a link, or is
    not as it was written.
    """
    networks = manifest.names(manifest.targets)
    needed = [f"{name}/{file}" for name in networks for file in NETWORK_FILES]
    needed += [_HISTOGRAMS, *filter(None, [manifest.calibrations])]
    if unlisted := [name for name in needed if name not in manifest.checksums]:
        raise BundleError(f"{folder / BUNDLE_MANIFEST} has no checksum of {unlisted[0]}", _AGAIN)
    for name, digest in manifest.checksums.items():
        _require_inside(folder, name)
        try:
            found = digest_of(folder / name)
        except OSError as error:
            raise BundleError(
                f"the bundle is not whole: {folder / name} cannot be read ({error.strerror})",
                _AGAIN,
            ) from error
        if found != digest:
            raise BundleError(
                f"the bundle is damaged: {folder / name} is not as it was written",
                f"copy it again, or {_AGAIN}",
            )


def read_histograms(folder: Path) -> dict[str, NDArray[np.int64]]:
    """The reference histograms of a bundle by "20/A1", …; (65536,) int64 each.

    Raises BundleError when they are damaged.
    """
    return _read_tables(folder / _HISTOGRAMS, np.int64)


def read_calibrations(folder: Path, manifest: BundleManifest) -> dict[str, NDArray[np.uint16]]:
    """The calibrations of a bundle by "20/A1", …; (65536,) uint16 each; empty before calibration.

    Raises BundleError when they are damaged or incomplete, or missing though *manifest* keeps them
    as its way.
    """
    calibrations = {}
    if manifest.calibrations:
        calibrations = _read_tables(folder / manifest.calibrations, np.uint16)
    if calibrations or Intensities(manifest.intensities).takes_calibrations:
        _require_all(manifest, calibrations)
    return calibrations


def read_intervals(folder: Path, manifest: BundleManifest) -> dict[str, Widths]:
    """The intervals of a bundle by "20/A1", …; those that it has, which may be none.

    Raises BundleError when they are damaged.
    """
    if _INTERVALS not in manifest.checksums:
        return {}
    tables: dict[str, dict[str, NDArray]] = {}
    for name, table in _read_file(folder / _INTERVALS).items():
        of_stain, _, part = name.rpartition("/")
        tables.setdefault(of_stain, {})[part] = table
    try:
        return {name: Widths(**parts) for name, parts in tables.items()}
    except (TypeError, ValueError) as error:  # a table is missing, unknown, or of another form
        raise BundleError(f"{folder / _INTERVALS} holds no intervals ({error})", _AGAIN) from error


def read_foretellers(folder: Path, manifest: BundleManifest) -> dict[int, Foreteller]:
    """The foretellers of a bundle by magnification; those that it has, which may be none.

    Raises BundleError when they are damaged.
    """
    if _FORETELLERS not in manifest.checksums:
        return {}
    try:
        found = foreteller.from_json(read_json(folder / _FORETELLERS))
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder / _FORETELLERS} foretells nothing ({error})", _AGAIN) from error
    return {one.magnification: one for one in found}


def _with_calibrations(
    folder: Path, manifest: BundleManifest, calibrations: Mapping[str, NDArray[np.uint16]]
) -> BundleManifest:
    """Write the tables beside those that the manifest on disk still names.

    Their name comes from their content, so that the two never share one.
    """
    data = save(dict(calibrations))
    digest = hashlib.sha256(data).hexdigest()
    name = f"calibrations-{digest[:8]}.safetensors"
    write_whole(folder / name, data)
    return replace(manifest, calibrations=name, checksums=manifest.checksums | {name: digest})


def _separate(content: dict[str, Any]) -> dict[str, Any]:
    """The networks, which `bundle.json` of format 4 did not name."""
    require_form(content, {"targets": [str]}, "the bundle's")
    networks = {
        target: {"paints": [target], "sees_mask": target == "A1"} for target in content["targets"]
    }
    return {"networks": networks}


def _of_one_plate() -> dict[str, Any]:
    """What `bundle.json` of format 5 did not say, because there was no choice."""
    return {
        "format": BUNDLE_FORMAT,
        "normalisation": Normalisation.PLATE.value,
        "started_from": {},
        "any_planes": False,
    }


def _entry(content: dict[str, Any]) -> NetworkEntry:
    """A network's entry. Raises ValueError when what later formats say of it is impossible."""
    finest = content.get("finest_um_per_px", 0.0)
    require_form(finest, NUMBER, "the finest pixels")
    if not 0 <= finest <= MOST_UM_PER_PX:
        raise ValueError("the finest pixels have an impossible size")
    if finest and content["sees_mask"]:
        raise ValueError("a network that sees a mask joins pixels")
    return NetworkEntry(tuple(content["paints"]), content["sees_mask"], _ranges(content), finest)


def _ranges(entry: dict[str, Any]) -> Ranges:
    """The ranges of a network's entry. Raises ValueError when they are none."""
    ranges = entry.get("ranges", {})
    require_form(ranges, {...: (NUMBER, NUMBER)}, "the ranges")
    if not all(-np.inf < low <= 0 <= high < np.inf for low, high in ranges.values()):
        raise ValueError("a range is not finite, or without zero")
    return {name: (low, high) for name, (low, high) in ranges.items()}


def _require_valid(content: dict[str, Any]) -> None:
    """Raise ValueError when a field of `bundle.json` has another type or names another place."""
    require_form(content, _FORM, "the bundle's")
    if not content["targets"] or not set(content["targets"]) <= set(TARGETS):
        return  # the manifest itself refuses them
    later = {name: form for name, form in _LATER.items() if name in content}
    require_form(content, later, "the bundle's")
    if len(content.get("caution", "")) > _LONGEST_CAUTION:
        raise ValueError(f"the caution has more than {_LONGEST_CAUTION} characters")
    sizes = content.get("um_per_px", {})
    if not all(0 < size <= MOST_UM_PER_PX for size in sizes.values()):
        raise ValueError("pixels have an impossible size")
    for one in {*content["scalings"], *content["limits"]}:
        if not _MAGNIFICATION.fullmatch(one) or int(one) > MOST_MAGNIFICATION:
            raise ValueError(f"{one[:40]!r} is no magnification")
        if one not in sizes and int(one) not in UM_PER_PX:
            raise ValueError(f"nothing tells how large the pixels are at {one}x")
    for scalings in content["scalings"].values():
        if missing := {BRIGHTFIELD, *content["targets"]} - scalings.keys():
            raise ValueError(f"there is no scaling for {min(missing)}")
        if not np.isfinite(list(scalings.values())).all():
            raise ValueError("a scaling is not finite")
    for name in filter(
        None, [*content["checksums"], content["calibrations"], *content["networks"]]
    ):
        if not _NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
            raise ValueError(f"{name[:200]!r} is no name of a file in the bundle")


def _require_inside(folder: Path, name: str) -> None:
    """Raise BundleError when a link leads from *name* out of the bundle.

    The folder itself may be a link, as in some artifact stores.
    """
    try:
        is_inside = (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle
        is_inside = False
    if not is_inside:
        raise BundleError(
            f"{folder / name} is a link out of the bundle",
            f"put the file itself there, or {_AGAIN}",
        )


def _of_another_format(folder: Path, found: object) -> BundleError:
    if isinstance(found, int) and found > _JOINING:
        return NewerBundleError(
            f"the bundle {folder} has format {found}, "
            f"newer than the {_JOINING} that this code reads",
            "update the code",
        )
    return BundleError(
        f"the bundle {folder} has format {found}, "
        f"older than the {_SEPARATE} to {_JOINING} that this code reads",
        _AGAIN,
    )


def _read_file(path: Path) -> dict[str, NDArray]:
    try:
        open_regular(path).close()  # safetensors would open anything
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path} cannot be read ({error})", _AGAIN) from error


def _read_tables(path: Path, dtype: type[np.generic]) -> dict[str, NDArray]:
    tables = _read_file(path)
    for name, table in tables.items():
        if table.shape != (N_COUNTS,) or table.dtype != dtype:
            raise BundleError(
                f"{name} in {path} is {table.dtype} of shape {table.shape}, "
                f"not {dtype.__name__} of ({N_COUNTS},)",
                _AGAIN,
            )
    return tables


def _require_all(manifest: BundleManifest, calibrations: Mapping[str, NDArray[np.uint16]]) -> None:
    if missing := [name for name in manifest.paintings if name not in calibrations]:
        raise BundleError(f"the bundle has no calibration for {', '.join(missing)}", _AGAIN)
