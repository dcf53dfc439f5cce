"""One field of a plate painted, from its files to its files."""

import time
from dataclasses import dataclass
from pathlib import Path

from adipocyte.delivery.batch.claim import write_claimed
from adipocyte.delivery.batch.formats import TIFF, format_named
from adipocyte.delivery.batch.output import Output
from adipocyte.delivery.models.load import load_stainer
from adipocyte.domain import FieldKey
from adipocyte.errors import ImageError, PlateError
from adipocyte.imaging.trust import Trust
from adipocyte.plate.fields import FieldFiles, read_field
from adipocyte.plate.problems import Problem, problem_of

PAINTED, FAILED = "painted", "failed"


@dataclass(frozen=True)
class Assignment:
    """What every process that paints a plate must know besides its fields.

    *model*, *plate* and *out* are addresses that hold on each machine. *claim* is written in *out*,
    so that a process can tell that folder from another of the same path, and stops when another
    command has claimed it. With *level* intervals are painted, too. *format* is one of `formats`,
    and holds *brightfield*, too, or not. With *resample* fields of objectives that the model has
    not seen are painted, too.
    """

    model: str
    plate: str
    out: str
    claim: str
    intensities: str
    tile_px: int | None
    tta: bool
    precision: str
    compiled: bool
    memory_mb: float | None
    level: float | None = None
    format: str = TIFF
    resample: bool = False
    brightfield: bool = False


@dataclass(frozen=True)
class FieldOutcome:
    """What became of one field: PAINTED, or FAILED because of a `problem`.

    `seconds` is the time from reading the field to having written its images. `trust` says whether
    to believe it, where that was asked for, `is_resampled` that it was painted in pixels of another
    objective. `made_from` names the files of the field; the process that keeps the plate's manifest
    fills it in.
    """

    key: FieldKey
    status: str
    seconds: float
    warnings: tuple[str, ...] = ()
    problem: Problem | None = None
    trust: Trust | None = None
    is_resampled: bool = False
    made_from: str = ""


class FieldPainter:
    """Paints fields of a plate, each from its files to its files, with a model that it loads once.

    Raises RunError when there is no such model, ConfigError when packages that the format takes are
    not installed, OutputError when an image cannot be written, would lie in the raw plate, or
    another command writes there.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._format = format_named(assignment.format, brightfield=assignment.brightfield)
        self._out = Output(assignment.out, Path(assignment.plate))
        self._stainer = load_stainer(
            assignment.model,
            assignment.memory_mb,
            precision=assignment.precision,
            compiled=assignment.compiled,
        )

    def __call__(self, field: FieldFiles) -> FieldOutcome:
        start = time.perf_counter()
        try:
            planes = read_field(field, ()).planes
            stained = self._stainer.stain(
                planes,
                field.key.magnification,
                um_per_px=field.um_per_px,
                resample=self._assignment.resample,
                intensities=self._assignment.intensities,
                tile_px=self._assignment.tile_px,
                tta=self._assignment.tta,
                level=self._assignment.level,
            )
        except (ImageError, PlateError) as error:
            problem = problem_of(field.key, error)
            return FieldOutcome(field.key, FAILED, time.perf_counter() - start, problem=problem)
        for name, data in self._format.files(field, stained, planes):
            write_claimed(self._out, self._assignment.claim, name, data)
        seconds = time.perf_counter() - start
        trust = None if self._assignment.level is None else stained.trust
        return FieldOutcome(
            field.key,
            PAINTED,
            seconds,
            stained.warnings,
            trust=trust,
            is_resampled=stained.is_resampled,
        )
