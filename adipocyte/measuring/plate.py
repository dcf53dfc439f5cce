"""A folder of stained images to tables, field by field."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import tifffile
from tqdm import tqdm

from adipocyte.domain import TARGET_NAMES, TARGETS, TIMEPOINT, FieldKey, has_times, row_and_column
from adipocyte.errors import ConfigError, ImageError, PlateError
from adipocyte.evaluation.cellprofiler.features import STAINS, Measured, measure
from adipocyte.evaluation.cellprofiler.objects import IMAGE, KINDS, tables_of
from adipocyte.evaluation.cellprofiler.wells import well_row
from adipocyte.evaluation.counts import COUNT
from adipocyte.evaluation.reality import PROBABILITY, predictors_of
from adipocyte.measuring.files import table_file
from adipocyte.measuring.grades import Graded, grade_rows, graded_by
from adipocyte.measuring.parts import PART_FORMAT, has_part, read_part, write_part
from adipocyte.measuring.plate_map import Treatment, read_plate_map
from adipocyte.measuring.screen import control_rows, dose_rows
from adipocyte.plate.choice import check_one_objective
from adipocyte.plate.listing import few, same_image
from adipocyte.plate.names import magnification_folder
from adipocyte.plate.planes import fingerprints, image_name, read_header, read_images
from adipocyte.plate.problems import Problem, problem_table
from adipocyte.plate.stained import told_by
from adipocyte.plate.stains import Files, list_stains, middle_plane, um_per_px_of, unlike
from adipocyte.system.files import replacing, short_digest
from adipocyte.system.processes import each

WELLS, CONTROLS, DOSES, GRADES = "Wells", "Controls", "DoseResponse", "Grades"
LABELS = "labels"


@dataclass(frozen=True)
class StainedField:
    """The stained images of one field, a file, or a path into an array, for each of its targets.

    `um_per_px` is the size of its pixels; 0: as the images tell, or as is usual.
    """

    key: FieldKey
    plate: str
    files: dict[str, Path]
    um_per_px: float = 0

    def read(self) -> tuple[dict[str, np.ndarray], float]:
        """The images, (Y, X) in counts, by target, and their µm per pixel.

        Raises ImageError; PlateError where nothing tells how large pixels are.
        """
        headers = {path: read_header(path) for path in self.files.values()}
        if problem := next(unlike(str(self.key), headers, "because they are one field"), None):
            raise ImageError(problem.found, problem.remedy)
        um_per_px = um_per_px_of(self.key, headers.values(), self.um_per_px)
        images = read_images([*self.files.values()])
        return dict(zip(self.files, images, strict=True)), um_per_px

    def measured(self) -> tuple[dict[str, np.ndarray], Measured]:
        """The images, as above, and what is found in them. Raises as `read` and `measure` do."""
        images, um_per_px = self.read()
        return images, measure(images, self.key.magnification, um_per_px)


@dataclass(frozen=True)
class MeasuredPlate:
    """What was measured: `wells`, the rows of that table; the `fields`; `n_new` of them now.

    `problems` are of fields that could not be measured, `lacking` are fields without a stain, by
    target. `controls` and `doses` are the rows of the tables CONTROLS and DOSES, none without a
    plate map. `graded` says what measurements of painted images are worth, None for other images.
    `tables` are the files, by name.
    """

    fields: tuple[StainedField, ...]
    n_new: int
    wells: list[dict[str, str | float]]
    problems: tuple[Problem, ...]
    lacking: dict[str, tuple[FieldKey, ...]]
    controls: list[dict[str, str | float]]
    doses: list[dict[str, str | float]]
    graded: Graded | None
    tables: dict[str, Path]

    @property
    def counts(self) -> dict[str, int]:
        """How many objects of each kind there are, defective droplets too."""
        names = [name for name in self.wells[0] if name.startswith(COUNT)]
        return {
            name.removeprefix(COUNT): sum(int(row[name]) for row in self.wells) for name in names
        }


@dataclass(frozen=True)
class Shown:
    """A field to look at: its `stains`, (Y, X) in counts, by target, and what is `found` in them.

    `brightfield` is its middle focal plane, (Y, X) in counts, None where there is none;
    `probabilities` of being real, (N,), are of painted objects, by table.
    """

    key: FieldKey
    brightfield: np.ndarray | None
    stains: dict[str, np.ndarray]
    found: Measured
    probabilities: dict[str, np.ndarray] = dataclass_field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A field to measure, its part and with *labels* its labels to be written into *out*.

    `made_of` names its files and settings, as the process saw them that gives the task: two nodes
    may see two times of one file.
    """

    field: StainedField
    out: Path
    labels: bool
    made_of: str


# Those who measure: for each task, in any order, what kept its field from being measured, or None
# once its part is written.
Crew = Callable[[Sequence[Task]], Iterable[Problem | None]]


def here(workers: int) -> Crew:
    """*workers* processes of this machine, side by side; 0: this one."""
    return partial(each, measure_field, workers=workers)


def measure_plate(
    images: Path,
    out: Path,
    *,
    magnification: int,
    um_per_px: float = 0,
    labels: bool,
    csv: bool,
    plate_map: Path | None,
    crew: Crew,
) -> MeasuredPlate:
    """Measure every field of a folder of stains, true or painted, and write tables into *out*.

    A *crew* measures them, such as `here(2)`. A field whose files are as they were is not measured
    again, so the same command continues. The tables are Parquet, or with *csv* CSV; *labels* also
    writes the labels of nuclei, cells and droplets as TIFFs. *magnification* is that of a folder
    whose name does not state it, *um_per_px* the size of pixels (0: as the images tell, or as is
    usual). *plate_map* says what each well was given: it adds columns to the
    table of wells, and the tables CONTROLS and DOSES (see `measuring.screen`). Images that a model
    with grades painted get the table GRADES (see `measuring.grades`).

    A field that cannot be measured is a problem of the result, and stops nothing. Raises PlateError
    when no field can be measured, and before anything is done when the plate map is wrong or what
    the images tell of themselves is damaged; ConfigError when *out* lies in *images*, which may be
    a raw plate.
    """
    if out.resolve().is_relative_to(images.resolve()):
        raise ConfigError(
            f"the tables would be written to {out}, among the images of {images}",
            "give another folder with -P out=<folder>",
        )
    fields, problems = _fields(images, magnification, um_per_px)
    wells = {field.key.well for field in fields}
    treatments = read_plate_map(plate_map, wells) if plate_map else {}
    graded = graded_by(images, [field.key for field in fields])
    tasks = [Task(field, out, labels, _made_of(field, labels)) for field in fields]
    due = [task for task in tasks if not has_part(out, task.field.key, task.made_of)]
    done = tqdm(crew(due), total=len(due), desc="measure", unit="field")
    failed = [problem for problem in done if problem]
    problems += failed
    bad = {problem.where for problem in failed}
    whole = tuple(field for field in fields if str(field.key) not in bad)
    if not whole:
        raise PlateError(
            f"no field of {images} can be measured", f"mend one:\n{problem_table(problems)}"
        )
    rows, tables = _write_tables(whole, out, csv, treatments, graded or Graded())
    controls = control_rows(rows, treatments) if treatments else []
    doses = dose_rows(rows, treatments)
    grades = grade_rows(graded.grades) if graded else []
    tables |= _write_rows({CONTROLS: controls, DOSES: doses, GRADES: grades}, out, csv)
    lacking = {
        target: tuple(field.key for field in whole if target not in field.files)
        for target in TARGETS
    }
    return MeasuredPlate(
        whole,
        len(due) - len(failed),
        rows,
        tuple(problems),
        {target: keys for target, keys in lacking.items() if keys},
        controls,
        doses,
        graded,
        tables,
    )


def without(lacking: Mapping[str, Sequence[FieldKey]]) -> list[str]:
    """A sentence for each stain that fields lack."""
    return [
        f"Without {target} ({TARGET_NAMES[target]}), so without what needs it: {few(keys)}."
        for target, keys in lacking.items()
    ]


def outlined(images: Path, field: StainedField, graded: Graded | None) -> Shown:
    """A *field* of the folder *images* to look at, and what is found in it; *graded* knows objects.

    Brightfield lies beside true stains, or in the raw plate of painted ones.
    """
    told, key = told_by(images), field.key
    stains, found = field.measured()
    folders = [images, *([told.plate] if told else [])]
    graded, predictors = graded or Graded(), predictors_of(found, stains)
    tables = {
        name: graded.with_probability(name, key.magnification, table, predictors)
        for name, table in tables_of(found).items()
    }
    given = {name: table[PROBABILITY] for name, table in tables.items() if PROBABILITY in table}
    return Shown(key, middle_plane(folders, key), stains, found, given)


def _fields(
    images: Path, magnification: int, um_per_px: float
) -> tuple[list[StainedField], list[Problem]]:
    (listed,) = list_stains({"images": images}, magnification)
    check_one_objective((key.magnification for key in listed.files), um_per_px)
    fields, problems = [], [*listed.problems]
    for key, files in sorted(listed.files.items()):
        found = list(_doubled(key, files))
        problems += found
        if not found:
            first = {target: files[target][0] for target in TARGETS if target in files}
            size = um_per_px or listed.um_per_px.get(key, 0)
            fields.append(StainedField(key, listed.plates[key], first, size))
    return fields, problems


def _doubled(key: FieldKey, files: Files) -> Iterator[Problem]:
    for paths in files.values():
        if len(paths) > 1:
            yield Problem(str(key), *same_image(paths))


def _made_of(field: StainedField, labels: bool) -> str:
    files = fingerprints(field.files.values())
    given = [field.um_per_px] if field.um_per_px else []
    return short_digest([PART_FORMAT, str(field.key), files, labels, *given])


def measure_field(task: Task) -> Problem | None:
    """Measure a field and write its part; what keeps it from being measured.

    Raises OSError when nothing can be written.
    """
    key = task.field.key
    try:
        images, measured = task.field.measured()
    except (ImageError, PlateError) as error:
        return Problem(str(key), error.found, error.remedy)
    if task.labels:
        _write_labels(task, measured)
    predictors = predictors_of(measured, images)
    write_part(task.out, key, task.made_of, tables_of(measured), predictors)
    return None


def _write_labels(task: Task, measured: Measured) -> None:
    folder = task.out / LABELS / magnification_folder(task.field.key.magnification)
    for table, kind in KINDS.items():
        if kind in measured.labels:
            key = task.field.key
            name = f"{task.field.plate}_{key.well}_F{key.fov:03d}{key.time_mark}_{table}.tif"
            image = measured.drawn(kind)
            dtype = np.uint16 if image.max() <= np.iinfo(np.uint16).max else np.uint32
            with replacing(folder / name) as partial:
                tifffile.imwrite(partial, image.astype(dtype), compression="zlib")


def _write_tables(
    fields: Sequence[StainedField],
    out: Path,
    csv: bool,
    treatments: Mapping[str, Treatment],
    graded: Graded,
) -> tuple[list[dict[str, str | float]], dict[str, Path]]:
    """Write all tables from the parts, one field at a time; the rows of wells, and the files."""
    paths = {name: _path(out, name, csv) for name in (IMAGE, *KINDS)}
    rows: list[dict[str, str | float]] = []
    with_time = has_times(field.key for field in fields)
    numbered = enumerate(sorted(fields, key=_well_and_key), start=1)
    with ExitStack() as stack:
        files = {name: stack.enter_context(table_file(path)) for name, path in paths.items()}
        bar = tqdm(numbered, total=len(fields), desc="tables", unit="field")
        for _, group in groupby(bar, key=lambda item: _well_and_key(item[1])[0]):
            found, keys = [], []
            for number, field in group:
                tables, predictors = read_part(out, field.key)
                found.append(tables)
                for name in (IMAGE, *KINDS):
                    m = field.key.magnification
                    table = graded.with_probability(name, m, tables[name], predictors)
                    told = _metadata(field, number, with_time) | graded.of_field(field.key)
                    files[name].append(told, table)
                keys.append(field.key)
            about = _of_well(field, with_time) | graded.of_well(keys) | _given(field, treatments)
            row = about | well_row(found)
            rows.append(row | graded.counts_of(row))
    return rows, paths | _write_rows({WELLS: rows}, out, csv)


def _write_rows(
    tables: Mapping[str, Sequence[Mapping[str, str | float]]], out: Path, csv: bool
) -> dict[str, Path]:
    """Write each table that has rows; the files."""
    paths = {name: _path(out, name, csv) for name, rows in tables.items() if rows}
    for name, path in paths.items():
        with table_file(path) as file:
            file.append_rows(tables[name])
    return paths


def _path(out: Path, table: str, csv: bool) -> Path:
    return out / f"{table}.{'csv' if csv else 'parquet'}"


def _given(field: StainedField, treatments: Mapping[str, Treatment]) -> dict[str, str | float]:
    """What the field's well was given; nothing without a plate map."""
    if not treatments:
        return {}
    one = treatments.get(field.key.well)
    return {
        "Metadata_Role": one.role.value if one else "",
        "Metadata_Compound": one.compound if one else "",
        "Metadata_Concentration": one.concentration if one else math.nan,
        "Metadata_Unit": one.unit if one else "",
    }


def _well_and_key(field: StainedField) -> tuple[tuple[str, int, str, int], FieldKey]:
    """What its well is at one time, of which there is a row, and the field's key."""
    key = field.key
    return (field.plate, key.magnification, key.well, key.time), key


def _of_well(field: StainedField, with_time: bool) -> dict[str, str | float]:
    row, column = row_and_column(field.key.well)
    return {
        "Metadata_Plate": field.plate,
        "Metadata_Magnification": field.key.magnification,
        "Metadata_Well": field.key.well,
        "Metadata_Row": row,
        "Metadata_Column": column,
        **({TIMEPOINT: field.key.time} if with_time else {}),
    }


def _metadata(field: StainedField, number: int, with_time: bool) -> dict[str, str | float]:
    names = {f"FileName_{STAINS[t]}": image_name(path) for t, path in field.files.items()}
    named = {f"FileName_{stain}": names.get(f"FileName_{stain}", "") for stain in STAINS.values()}
    of_well = _of_well(field, with_time)
    return {"ImageNumber": number, **of_well, "Metadata_Site": field.key.fov, **named}
