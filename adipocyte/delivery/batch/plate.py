"""Staining of a whole raw plate: which fields to paint, who paints them, what became of each."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, Protocol, TypeGuard

from tqdm import tqdm

from adipocyte.config import StainConfig
from adipocyte.delivery.batch.claim import (
    ANOTHER_FOLDER,
    begun_in,
    claim_for,
    read_own,
    write_claimed,
)
from adipocyte.delivery.batch.formats import format_named
from adipocyte.delivery.batch.output import Output
from adipocyte.delivery.batch.painter import FAILED, PAINTED, Assignment, FieldOutcome, FieldPainter
from adipocyte.delivery.models.load import load_grades, load_manifest, pinned
from adipocyte.domain import UM_PER_PX, FieldKey, are_alike
from adipocyte.errors import ConfigError
from adipocyte.imaging.intervals import LEVEL
from adipocyte.imaging.trust import Verdict
from adipocyte.networks.predictor import INSTALL_COMPILER, NO_COMPILER, has_compiler
from adipocyte.plate.fields import FieldFiles
from adipocyte.plate.problems import Problem
from adipocyte.plate.scan import scan_plate
from adipocyte.plate.stained import GRADES, IMAGE_TABLE, PLATE_MANIFEST, PLATE_ORIGIN
from adipocyte.plate.understood import understood_table
from adipocyte.staining.bundle import BundleManifest
from adipocyte.system.files import json_bytes, short_digest
from adipocyte.system.machine import fastest_arithmetic, fastest_device
from adipocyte.system.threads import Threads

# Fields of a worker from which compiling pays: full fields pay from the third on, small ones later.
# Measured: benchmarks/staining.py.
_COMPILING_PAYS_FIELDS = 16
WRITE_EVERY_S = 10


class Crew(Protocol):
    """Those who paint: this process, or the workers of a cluster."""

    n_workers: int

    def fastest(self) -> str:
        """The arithmetic that its processors are fastest in (see `system.machine`)."""
        ...

    def has_compiler(self) -> bool:
        """Whether it can compile networks."""
        ...

    def paint(self, assignment: Assignment, fields: Sequence[FieldFiles]) -> Iterator[FieldOutcome]:
        """Paint *fields*, in any order. Gives one outcome for each, once its images are written.

        Raises RunError when the model cannot be loaded, OutputError when nothing can be written.
        """
        ...


@dataclass(frozen=True)
class StainedPlate:
    """What became of a plate: fields painted now, fields painted before, problems and warnings.

    `changed` are those painted before whose files are others now, so that they were not skipped.
    `refused` are those that are not to be believed, where that was asked for, and why.
    """

    painted: list[FieldKey]
    skipped: list[FieldKey]
    changed: list[FieldKey]
    problems: list[Problem]
    warnings: dict[FieldKey, tuple[str, ...]]
    refused: dict[FieldKey, str]


class Here:
    """This process, as a crew of one."""

    n_workers = 1

    def fastest(self) -> str:
        Threads().adapt()
        return fastest_arithmetic(fastest_device().type)

    def has_compiler(self) -> bool:
        return has_compiler()

    def paint(self, assignment: Assignment, fields: Sequence[FieldFiles]) -> Iterator[FieldOutcome]:
        threads = Threads()
        threads.adapt()
        painter = FieldPainter(assignment)
        for field in fields:
            threads.adapt()
            yield painter(field)


def should_compile(wish: str, n_fields: int, possible: Callable[[], bool]) -> bool:
    """Whether a worker of *n_fields* compiles its networks: *wish* is "true", "false" or "auto".

    "auto" compiles if the worker has at least 16 fields and if it is *possible*, which is asked
    last, because a cluster starts a process to answer.
    """
    if wish == "auto":
        return n_fields >= _COMPILING_PAYS_FIELDS and possible()
    return wish == "true"


def stain_plate(config: StainConfig, crew: Crew) -> StainedPlate:
    """Let a *crew* paint every field of a raw plate: uint16 TIFFs, or an OME-Zarr plate.

    Beside them, `stained.json` says what painted which plate, and how, `manifest.json` what became
    of each field, and `grades.json` what measurements of the images are worth, if the model knows.
    The files that list all images, for CellProfiler or of the OME-Zarr plate, end the plate.
    A field is skipped if the manifest calls it painted, from the files that it has now, and its
    images are there; so the same command continues an interrupted one. A field that is incomplete
    or cannot be read is recorded and does not stop the plate.

    Raises PlateError when there is no plate, or when *out* holds images of another plate, model or
    setting, or of nobody knows what; RunError when there is no such model; ConfigError when the
    model does not know the intensities, or when compiling is asked for and impossible; OutputError
    when *out* cannot be written to, lies in the plate, or another command begins to write there.
    """
    scanned = scan_plate(
        config.plate,
        targets=(),
        plate_name=config.plate_name,
        layout=config.layout,
        channels=config.channels,
        magnification=config.magnification,
        um_per_px=config.um_per_px,
    )
    print(understood_table(scanned))
    out = Output(config.out, config.plate)
    model = pinned(config.model)
    bundle = load_manifest(model)
    form = format_named(config.format, brightfield=config.brightfield)
    files = {
        field.key: form.names(field, bundle.targets, config.uncertainty) for field in scanned.fields
    }
    for name in [PLATE_ORIGIN, PLATE_MANIFEST, GRADES, IMAGE_TABLE, *chain(*files.values())]:
        out.require_own(name)
    begun = begun_in(out)
    origin = _origin(config, bundle, crew, begun, len(scanned.fields))
    assignment = Assignment(
        model=model,
        plate=origin["plate"],
        out=out.address,
        claim=claim_for(out, origin, begun),
        intensities=origin["intensities"],
        tile_px=config.tile_px or None,
        tta=config.tta,
        level=LEVEL if config.uncertainty else None,
        precision=origin["precision"],
        compiled=origin["compiled"],
        memory_mb=config.memory_mb or None,
        format=config.format,
        resample=config.resample,
        brightfield=config.brightfield,
    )
    if grades := load_grades(model):
        write_claimed(out, assignment.claim, GRADES, grades)
    made_from = {field.key: _made_from(field) for field in scanned.fields}
    before, changed = painted_before(out, scanned.fields, files, form.is_there, made_from)
    manifest = PlateManifest(out, assignment.claim, before, scanned.problems)
    skipped = [field.key for field in scanned.fields if str(field.key) in manifest.entries]
    left = [field for field in scanned.fields if str(field.key) not in manifest.entries]
    outcomes: Iterable[FieldOutcome] = ()  # a finished plate needs no networks
    if left:
        painting = _checked(crew.paint(assignment, left), left, made_from)
        outcomes = tqdm(painting, total=len(left), desc="stain", unit="field")
    kept = list(manifest.kept(outcomes))
    painted = [field for field in scanned.fields if manifest.is_painted(field.key)]
    for name, data in form.described(painted, bundle.targets).items():
        write_claimed(out, assignment.claim, name, data)
    return _became(kept, skipped, changed, scanned.problems)


def _became(
    kept: Sequence[FieldOutcome],
    skipped: list[FieldKey],
    changed: list[FieldKey],
    problems: Iterable[Problem],
) -> StainedPlate:
    return StainedPlate(
        painted=[outcome.key for outcome in kept if outcome.status == PAINTED],
        skipped=skipped,
        changed=changed,
        problems=[*problems, *(outcome.problem for outcome in kept if outcome.problem)],
        warnings={outcome.key: outcome.warnings for outcome in kept if outcome.warnings},
        refused={
            outcome.key: outcome.trust.reason
            for outcome in kept
            if outcome.trust and outcome.trust.verdict is Verdict.NO
        },
    )


def _origin(
    config: StainConfig, bundle: BundleManifest, crew: Crew, begun: dict[str, Any], n_fields: int
) -> dict[str, Any]:
    """What `stained.json` says of a plate of *n_fields*, without its claim.

    A plate that is *begun* is finished in the same arithmetic, on whatever machine.
    """
    precision = config.precision
    if precision == "auto":
        precision = begun.get("precision") or crew.fastest()
    return {
        "format": config.format,
        "plate": str(config.plate.resolve()),
        "bundle": _described(bundle),
        "intensities": bundle.way(None if config.intensities == "kept" else config.intensities),
        "tile_px": config.tile_px,
        "tta": config.tta,
        "precision": precision,
        "compiled": _is_compiled(config, crew, begun, n_fields),
        # Only where it is asked for, so that plates that were begun without it are the same.
        **({"brightfield": True} if config.brightfield else {}),
    }


def _described(bundle: BundleManifest) -> dict[str, Any]:
    """What `stained.json` says of a bundle: all but the ranges, which follow from the rest.

    A plate that was begun before bundles had ranges and sizes of pixels is still the same plate.
    """
    described = asdict(bundle)
    for network in described["networks"].values():
        del network["ranges"]
        if not network["finest_um_per_px"]:
            del network["finest_um_per_px"]
    if not bundle.um_per_px:
        del described["um_per_px"]
    return described


def _is_compiled(config: StainConfig, crew: Crew, begun: dict[str, Any], n_fields: int) -> bool:
    """Raises ConfigError where the *crew* must compile and cannot."""
    if begun and config.compile == "auto":
        compiled = begun.get("compiled", False)
    elif config.precision == "int8" and config.compile == "auto":
        compiled = True
    elif config.tta and config.compile == "auto":
        compiled = False  # each turned field has another shape, and would be compiled anew
    else:
        n_each = n_fields // crew.n_workers
        compiled = should_compile(config.compile, n_each, crew.has_compiler)
    if compiled and not crew.has_compiler():
        way_out = "continue with -P compile=false"
        if begun:
            way_out = f"{ANOTHER_FOLDER}: this one was begun so"
        raise ConfigError(NO_COMPILER, f"{INSTALL_COMPILER}, or {way_out}")
    return compiled


def painted_before(
    out: Output,
    fields: Sequence[FieldFiles],
    files: Mapping[FieldKey, Sequence[str]],
    is_there: Callable[[Output, str, FieldFiles], bool],
    made_from: Mapping[FieldKey, str],
) -> tuple[dict[str, Any], list[FieldKey]]:
    """The entries of those *fields* that the manifest in *out* calls painted, all of whose *files*
    are there.

    And the fields that were painted, but not *made_from* the files that they have now. An entry of
    an older version, which did not say from which, is taken to be of these. An entry that is not as
    `PlateManifest` writes it counts for nothing.
    """
    entries = read_own(out, PLATE_MANIFEST).get("fields")
    told = entries if isinstance(entries, dict) else {}
    kept, changed = {}, []
    for field in fields:
        entry, now = told.get(str(field.key)), made_from[field.key]
        if not _tells_painted(entry):
            continue
        if entry.get("made_from", now) != now:
            changed.append(field.key)
        elif all(is_there(out, name, field) for name in files[field.key]):
            kept[str(field.key)] = entry | {"made_from": now}
    return kept, changed


def _made_from(field: FieldFiles) -> str:
    """Name what a field is painted from: another export of it has another name.

    So has one of which another objective is told.
    """
    usual = UM_PER_PX.get(field.key.magnification)
    is_usual = usual is not None and are_alike(field.um_per_px, usual)
    told = [] if is_usual else [field.um_per_px]
    return short_digest([*field.fingerprints, *told])


def _checked(
    outcomes: Iterable[FieldOutcome],
    fields: Sequence[FieldFiles],
    made_from: Mapping[FieldKey, str],
) -> Iterator[FieldOutcome]:
    """The *outcomes*, FAILED for *fields* that are no longer *made_from* the files of the scan.

    This process looks at them for every crew, because two nodes may see two times of one file.
    """
    files = {field.key: field for field in fields}
    for outcome in outcomes:
        named = replace(outcome, made_from=made_from[outcome.key])
        if outcome.status == PAINTED and _made_from(files[outcome.key]) != named.made_from:
            remedy = "run the same command again, when no other program writes to the plate"
            problem = Problem(str(outcome.key), "changed while the plate was painted", remedy)
            named = replace(named, status=FAILED, problem=problem)
        yield named


def _tells_painted(entry: Any) -> TypeGuard[dict[str, Any]]:
    match entry:
        case {"status": status, "seconds": int() | float() as seconds, "warnings": [*warnings]}:
            is_text = all(isinstance(warning, str) for warning in warnings)
            return status == PAINTED and math.isfinite(seconds) and is_text
    return False


class PlateManifest:
    """`manifest.json`: an entry for each field that is painted, or why it is not.

    It begins with those that were painted *before*; only the command of this *claim* writes it.
    """

    def __init__(
        self, out: Output, claim: str, before: dict[str, Any], problems: Sequence[Problem]
    ) -> None:
        self._out, self._claim = out, claim
        self._written_at = 0.0
        self.entries = dict(before)
        self._broken: dict[str, Any] = {}
        for problem in problems:
            entry = self._broken.setdefault(problem.where, _entry(FAILED, 0, (), problem))
            if _sentence(problem) not in entry["problem"]:
                entry["problem"] += f"; {_sentence(problem)}"

    def is_painted(self, key: FieldKey) -> bool:
        """Whether there is an entry that calls a field painted."""
        return self.entries.get(str(key), {}).get("status") == PAINTED

    def kept(self, outcomes: Iterable[FieldOutcome]) -> Iterator[FieldOutcome]:
        """Pass *outcomes* on, each an entry that is on disk within seconds.

        When they end or break off, all entries are written at once.
        """
        self._write()
        try:
            for outcome in outcomes:
                entry = _entry(outcome.status, outcome.seconds, outcome.warnings, outcome.problem)
                if outcome.status == PAINTED:
                    entry["made_from"] = outcome.made_from
                if outcome.is_resampled:
                    entry["resampled"] = True
                if outcome.trust:
                    entry["trust"] = asdict(outcome.trust)
                self.entries[str(outcome.key)] = entry
                if time.monotonic() - self._written_at > WRITE_EVERY_S:
                    self._write()
                yield outcome
        finally:
            self._write()

    def _write(self) -> None:
        data = json_bytes({"fields": self._broken | self.entries})
        write_claimed(self._out, self._claim, PLATE_MANIFEST, data)
        self._written_at = time.monotonic()


def _entry(
    status: str, seconds: float, warnings: Sequence[str], problem: Problem | None
) -> dict[str, Any]:
    entry = {"status": status, "seconds": round(seconds, 3), "warnings": list(warnings)}
    return entry | ({"problem": _sentence(problem)} if problem else {})


def _sentence(problem: Problem) -> str:
    return f"{problem.found}: {problem.remedy}" if problem.remedy else problem.found
