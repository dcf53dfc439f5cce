"""Staining a whole raw plate: what there is to do, who does it, and what became of each field."""

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from adipocyte.config import StainConfig
from adipocyte.delivery.batch.output import Output
from adipocyte.delivery.batch.painter import FAILED, PAINTED, Assignment, FieldOutcome, FieldPainter
from adipocyte.delivery.models.load import load_manifest, pinned
from adipocyte.domain import FieldKey
from adipocyte.errors import ConfigError, PlateError
from adipocyte.networks.predictor import INSTALL_COMPILER, NO_COMPILER, has_compiler
from adipocyte.plate.fields import FieldFiles, stained_name
from adipocyte.plate.problems import Problem
from adipocyte.plate.scan import scan_plate
from adipocyte.staining.bundle import BundleManifest
from adipocyte.system.machine import fastest_arithmetic, fastest_device, pin_threads

PLATE_ORIGIN, PLATE_MANIFEST = "stained.json", "manifest.json"
_COMPILING_PAYS_FIELDS = 16  # for each worker: full fields pay from the third on, small ones later; measured: benchmarks/staining.py
_WRITE_EVERY_S = 10


class Crew(Protocol):
    """Those who paint: this process, or the workers of a cluster."""

    n_workers: int

    def fastest(self) -> str:
        """The arithmetic that its processors are fastest_arithmetic in (see `networks.predictor`)."""

    def has_compiler(self) -> bool:
        """Whether it can compile networks."""

    def paint(self, assignment: Assignment, fields: Sequence[FieldFiles]) -> Iterator[FieldOutcome]:
        """Paint *fields*, in any order. Gives one record for each, once its images are written.

        Raises RunError when the model cannot be loaded, OutputError when nothing can be written.
        """


@dataclass(frozen=True)
class StainedPlate:
    """What became of a plate: fields painted now, painted before, what kept others from being so, and warnings by field."""

    painted: list[FieldKey]
    skipped: list[FieldKey]
    problems: list[Problem]
    warnings: dict[FieldKey, tuple[str, ...]]


class Here:
    """This process, as a crew of one."""

    n_workers = 1

    def fastest(self) -> str:
        pin_threads()
        return fastest_arithmetic(fastest_device().type)

    def has_compiler(self) -> bool:
        return has_compiler()

    def paint(self, assignment: Assignment, fields: Sequence[FieldFiles]) -> Iterator[FieldOutcome]:
        pin_threads()
        yield from map(FieldPainter(assignment), fields)


def shall_compile(wish: str, n_fields: int, *, possible: bool) -> bool:
    """Whether a worker that paints *n_fields* compiles its networks: *wish* is "true", "false" or "auto", where it pays and is *possible*."""
    return possible and n_fields >= _COMPILING_PAYS_FIELDS if wish == "auto" else wish == "true"


def stain_plate(config: StainConfig, crew: Crew) -> StainedPlate:
    """Let a *crew* paint every field of a raw plate: uint16 TIFFs under the challenge's names.

    Beside them, `stained.json` says what painted which plate, and how, and `manifest.json` what became of each field. A field that the
    manifest calls painted and whose images are there is skipped, so the same command continues an interrupted one; a field that is not
    whole or cannot be read is recorded and does not stop the plate.

    Raises PlateError when there is no plate, or *out* lies in it or holds images of another plate, model or way; RunError when there is no
    such model; ConfigError when it does not know the way, or shall be compiled and what compiles is not there; OutputError when *out*
    cannot be written to.
    """
    plate, out = config.plate.resolve(), Output(config.out)
    scanned = scan_plate(plate, targets=())
    if out.folder and out.folder.resolve().is_relative_to(plate):  # by whatever links or detours
        raise PlateError(
            f"{out.folder} lies in the raw plate, which is never written to: name another folder with -P out=<folder>"
        )
    model = pinned(config.model)
    bundle = load_manifest(model)
    names = {
        field.key: {stained_name(field, target) for target in bundle.targets}
        for field in scanned.fields
    }
    assignment = _claim(config, plate, model, bundle, out, crew, names)
    manifest = PlateManifest(out, names, scanned.problems)
    skipped = [key for key in names if str(key) in manifest.entries]
    left = [field for field in scanned.fields if str(field.key) not in manifest.entries]
    painting = (
        tqdm(crew.paint(assignment, left), total=len(left), desc="stain", unit="field")
        if left
        else ()
    )
    records = list(manifest.kept(painting))
    return StainedPlate(
        painted=[record.key for record in records if record.status == PAINTED],
        skipped=skipped,
        problems=[*scanned.problems, *(record.problem for record in records if record.problem)],
        warnings={record.key: record.warnings for record in records if record.warnings},
    )


def _claim(
    config: StainConfig,
    plate: Path,
    model: str,
    bundle: BundleManifest,
    out: Output,
    crew: Crew,
    names: dict[FieldKey, set[str]],
) -> Assignment:
    """Write down what *out* holds, or refuse when it holds something else: plates share their files' *names*.

    An interrupted plate is finished in the arithmetic that it was begun in, wherever that is. A claim without an image binds nobody.
    """
    way, tta = (
        bundle.way(None if config.intensities == "kept" else config.intensities),
        config.tta,
    )
    before = _read_json(out, PLATE_ORIGIN)
    if before and out.files().isdisjoint(set().union(*names.values())):
        before = {}
    precision = (
        before.get("precision", config.precision)
        if config.precision == "auto"
        else config.precision
    )
    precision = crew.fastest() if precision == "auto" else precision
    if before and config.compile == "auto":
        compiled = before.get("compiled", False)
    else:
        wish = (
            "false" if tta and config.compile == "auto" else config.compile
        )  # a turned field would be compiled anew at every turn
        compiled = shall_compile(wish, len(names) // crew.n_workers, possible=crew.has_compiler())
    if compiled and not crew.has_compiler():
        remedy = (
            "name another folder with -P out=<folder>: this one was begun so"
            if before
            else "go on with -P compile=false"
        )
        raise ConfigError(NO_COMPILER, f"{INSTALL_COMPILER}, or {remedy}")
    origin = {
        "plate": str(plate),
        "bundle": asdict(bundle),
        "intensities": way,
        "tile_px": config.tile_px,
        "tta": tta,
        "precision": precision,
        "compiled": compiled,
    }
    if before and {name: value for name, value in before.items() if name != "claim"} != json.loads(
        json.dumps(origin)
    ):
        raise PlateError(
            f"{out.address} holds images of another plate, model, intensities, tiles or arithmetic (see its {PLATE_ORIGIN}): name another "
            "folder with -P out=<folder>"
        )
    claim = secrets.token_hex(8)
    out.write(PLATE_ORIGIN, _json(origin | {"claim": claim}))
    return Assignment(
        model=model,
        plate=str(plate),
        out=out.address,
        claim=claim,
        intensities=way,
        tile_px=config.tile_px or None,
        tta=tta,
        precision=precision,
        compiled=compiled,
        memory_mb=config.memory_mb or None,
    )


def claim_in(out: Output) -> str | None:
    """The claim that is written in *out*, None where there is none. Raises PlateError when its file is none of ours."""
    return _read_json(out, PLATE_ORIGIN).get("claim")


class PlateManifest:
    """`manifest.json`: an entry for each field that is painted, or why not. It begins with those painted before whose images are there."""

    def __init__(
        self, out: Output, names: dict[FieldKey, set[str]], problems: Sequence[Problem]
    ) -> None:
        self._out = out
        before, there = _read_json(out, PLATE_MANIFEST).get("fields", {}), out.files()
        done = [str(key) for key, images in names.items() if images <= there]
        self.entries = {
            key: before[key] for key in done if before.get(key, {}).get("status") == PAINTED
        }
        self._broken: dict[str, Any] = {}
        for problem in problems:
            entry = self._broken.setdefault(problem.where, _entry(FAILED, 0, (), problem))
            if _said(problem) not in entry["problem"]:
                entry["problem"] += f"; {_said(problem)}"

    def kept(self, records: Iterable[FieldOutcome]) -> Iterator[FieldOutcome]:
        """The *records*, each an entry that is written within seconds, or at once when they end or break off."""
        self._write()
        try:
            for record in records:
                self.entries[str(record.key)] = _entry(
                    record.status, record.seconds, record.warnings, record.problem
                )
                if time.monotonic() - self._written_at > _WRITE_EVERY_S:
                    self._write()
                yield record
        finally:
            self._write()

    def _write(self) -> None:
        self._out.write(PLATE_MANIFEST, _json({"fields": self._broken | self.entries}))
        self._written_at = time.monotonic()


def _entry(
    status: str, seconds: float, warnings: Sequence[str], problem: Problem | None
) -> dict[str, Any]:
    entry = {"status": status, "seconds": round(seconds, 3), "warnings": list(warnings)}
    return entry | ({"problem": _said(problem)} if problem else {})


def _said(problem: Problem) -> str:
    return f"{problem.found}: {problem.remedy}"


def _json(content: dict[str, Any]) -> bytes:
    return f"{json.dumps(content, indent=1)}\n".encode()


def _read_json(out: Output, name: str) -> dict[str, Any]:
    """What such a file of ours says, {} when there is none. Raises PlateError when it is no file of ours."""
    try:
        content = json.loads(out.read(name) or "{}")
    except ValueError as error:
        raise PlateError(
            f"{name} in {out.address} is damaged ({error}): remove it, or name another folder with -P out=<folder>"
        ) from error
    if not isinstance(content, dict):
        raise PlateError(
            f"{name} in {out.address} is none of ours: name another folder with -P out=<folder>"
        )
    return content
