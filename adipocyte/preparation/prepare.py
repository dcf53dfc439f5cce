"""From a raw plate to a prepared store: scan, prepare every field, sum up, write the manifest."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.numpy import save_file
from tqdm import tqdm

from adipocyte.config import PreprocessConfig, listed, plain
from adipocyte.domain import SMALLEST_PX, FieldKey
from adipocyte.errors import ConfigError, ImageError, PlateError, StoreError
from adipocyte.imaging.limits import Limits, flags, learn_limits
from adipocyte.plate.problems import Problem, problem_table
from adipocyte.plate.scan import Plate, scan_plate
from adipocyte.preparation import workspace as place
from adipocyte.preparation.alignment import estimate_alignments, no_alignments, read_alignments
from adipocyte.preparation.field import (
    FieldTask,
    Masking,
    file_fingerprint,
    keep_only,
    made_from,
    prepare_field,
)
from adipocyte.preparation.progress import FieldRecord
from adipocyte.preparation.split import split_wells
from adipocyte.preparation.statistics import medians_of, scalings_of, sum_histograms
from adipocyte.store.alignments import Alignments, Registrations, sites_json
from adipocyte.store.manifest import FieldEntry, Origin, StoreManifest, write_manifest
from adipocyte.store.paths import HISTOGRAMS
from adipocyte.store.reader import Store
from adipocyte.store.writer import describe_plates
from adipocyte.system.processes import each

Records = dict[FieldKey, FieldRecord]
_ELSEWHERE = ("plate", "store", "workers")  # settings that say where and how, not what
_RESOLVED = (
    "align",
    "on_error",
    "seed",
    "validation_wells",
    "test_wells",
)  # settings whose outcome names a store better than they do


def prepare(config: PreprocessConfig) -> Store:
    """Prepare the raw plate of *config* into its store and open that. A whole store of the same plate and settings is left as it is.

    The work goes on beside the store, which is replaced when all is done; the plate is only read. A field that is finished is not done
    again by the next call after an interruption.

    Raises PlateError for what is wrong with the plate, ConfigError for wells that it does not have, StoreError when there is anything
    but a store in the store's place, or no room for it.
    """
    plate, folder = config.plate.resolve(), config.store.resolve()
    if folder.is_relative_to(plate):
        raise PlateError(
            f"{folder} lies inside the raw plate, which is never written to: name another folder with -P store=<folder>"
        )
    scanned = _without_small(scan_plate(plate))
    _refuse(scanned.problems, config)
    if not scanned.fields:
        raise PlateError(
            f"no field of the plate is whole:\n{problem_table(scanned.problems)}\nMend that and run the same command again"
        )
    if "A1" not in scanned.targets:
        found = f"only {', '.join(scanned.targets)}" if scanned.targets else "no stain at all"
        raise PlateError(
            f"the plate has {found}: training needs at least A1 (nuclei, channel C01), from which the masks are made"
        )
    keys = [files.key for files in scanned.fields]
    _split(keys, scanned.problems, config)  # what is misspelt should be told at once
    for path in _alignment_file(config):
        read_alignments(path, keys)
    origin = _origin(scanned, config)
    try:
        with place.alone(folder) as partial:
            if place.is_made_from(folder, origin):
                return Store(config.store)
            if not place.is_made_from(
                partial, origin
            ):  # else it was killed just before it took its place
                place.begin(partial)
                records, problems = _prepare_fields(partial, scanned, config)
                _refuse(problems, config)
                write_manifest(
                    partial,
                    _sum_up(
                        partial, scanned, origin, records, (*scanned.problems, *problems), config
                    ),
                )
            place.take(folder, partial)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written ({error}): make room, and run the same command again; it goes on"
        ) from error
    return Store(config.store)


def _without_small(scanned: Plate) -> Plate:
    """The plate with fields that are too small to be judged among its problems."""
    small = [files for files in scanned.fields if min(files.shape) < SMALLEST_PX]
    remedy = (
        f"a side must be at least {SMALLEST_PX}: export larger images, or move the field elsewhere"
    )
    problems = [
        Problem(str(files.key), f"is {files.shape[0]} x {files.shape[1]} pixels", remedy)
        for files in small
    ]
    return replace(
        scanned,
        fields=tuple(files for files in scanned.fields if files not in small),
        problems=(*scanned.problems, *problems),
    )


def _refuse(problems: Sequence[Problem], config: PreprocessConfig) -> None:
    """Raise PlateError for *problems* unless fields that have some are to be left out."""
    if problems and config.on_error == "stop":
        raise PlateError(
            f"the plate is not whole:\n{problem_table(problems)}\nMend that and run the same command again, or leave those fields out: "
            "-P on_error=skip"
        )


def _split(
    keys: Iterable[FieldKey], problems: Sequence[Problem], config: PreprocessConfig
) -> dict[str, tuple[str, ...]]:
    try:
        return split_wells(
            [key.well for key in keys],
            listed(config.validation_wells),
            listed(config.test_wells),
            config.seed,
        )
    except (ConfigError, PlateError) as error:
        if not problems:
            raise
        raise type(error)(
            f"{error}. These fields are left out, for they are not whole:\n{problem_table(problems)}"
        ) from error


def _prepare_fields(
    partial: Path, scanned: Plate, config: PreprocessConfig
) -> tuple[Records, list[Problem]]:
    """Prepare every field that is not finished. Returns the records of all that could be, in order, and what was wrong with the others."""
    masking = Masking(
        threshold=config.mask_threshold,
        superpixel_px=config.mask_superpixel_px,
        smallest_px=config.mask_smallest_px,
    )
    tasks = [
        FieldTask(partial, files, masking, made_from(files, masking)) for files in scanned.fields
    ]
    to_do = [task for task in tasks if task.record() is None]
    results = each(prepare_field, to_do, min(config.workers, len(to_do)))
    progress = tqdm(
        results, desc="preprocess", unit="field", initial=len(tasks) - len(to_do), total=len(tasks)
    )
    problems = [problem for problem in progress if problem]
    records = {task.files.key: record for task in tasks if (record := task.record())}
    return records, sorted(problems, key=lambda problem: problem.where)


def _sum_up(
    partial: Path,
    scanned: Plate,
    origin: Origin,
    records: Records,
    problems: tuple[Problem, ...],
    config: PreprocessConfig,
) -> StoreManifest:
    """Learn from the training wells, say what the store holds in its plates' metadata and reference histograms, and in a manifest."""
    split = _split(records, problems, config)
    limits = _limits(records, split["train"])
    fields = {
        key: FieldEntry(
            shape=record.shape,
            quality=record.quality,
            flags=flags(record.quality, limits[str(key.magnification)]),
        )
        for key, record in records.items()
    }
    left_out = (
        {key for key, entry in fields.items() if entry.flags}
        if config.flagged == "leave_out"
        else set()
    )
    trained = {
        key: record
        for key, record in records.items()
        if key.well in split["train"] and key not in left_out
    }
    _check_trained(records, trained)
    _check_validated(set(records) - left_out, split["validation"])
    alignments, registrations = _alignments(partial, records, trained, scanned.targets, config)
    histograms = sum_histograms(partial, trained)
    save_file(histograms, partial / HISTOGRAMS)
    keep_only(partial, set(records))
    describe_plates(partial, records)
    return StoreManifest(
        digest=_digest(records, scanned, config, split, alignments),
        origin=origin,
        n_z_planes=scanned.n_z_planes,
        targets=scanned.targets,
        split=split,
        fields=fields,
        scalings=scalings_of(histograms, config.normalisation),
        medians=medians_of(histograms),
        limits=limits,
        alignments=alignments,
        registrations=registrations,
        problems=problems,
        n_ignored=scanned.n_ignored,
    )


def _limits(records: Records, training_wells: tuple[str, ...]) -> dict[str, Limits]:
    """Limits of quality by magnification ("20"), learned from the training wells."""
    limits = {}
    for magnification in sorted({key.magnification for key in records}):
        keys = [
            key
            for key in records
            if key.magnification == magnification and key.well in training_wells
        ]
        limits[str(magnification)] = learn_limits([records[key].quality for key in keys])
    return limits


def _alignments(
    partial: Path,
    records: Records,
    trained: Records,
    targets: tuple[str, ...],
    config: PreprocessConfig,
) -> tuple[Alignments, Registrations]:
    """How fluorescence lies at every site, by the way that *config* names, and what was measured for it."""
    if config.align == "estimate":
        registrations = estimate_alignments(partial, records, trained, targets, config.workers)
        return {
            one: {fov: found.alignment for fov, found in sites.items()}
            for one, sites in registrations.items()
        }, registrations
    if config.align == "none":
        return no_alignments(records), {}
    alignments = read_alignments(Path(config.align), records)
    for key, record in records.items():
        try:
            alignments[key.magnification][key.fov].valid(record.shape)
        except ImageError as error:
            raise ConfigError(
                f"{config.align} does not fit field {key}: {error}; give another file, or -P align=estimate"
            ) from error
    return alignments, {}


def _alignment_file(config: PreprocessConfig) -> list[Path]:
    return [] if config.align in ("estimate", "none") else [Path(config.align)]


def _digest(
    records: Records,
    scanned: Plate,
    config: PreprocessConfig,
    split: dict[str, tuple[str, ...]],
    alignments: Alignments,
) -> str:
    """A name for the pixels of a store and all that was made of them."""
    content = {str(key): record.content for key, record in records.items()}
    settings = {
        name: value
        for name, value in plain(config).items()
        if name not in (*_ELSEWHERE, *_RESOLVED)
    }
    named = [content, scanned.n_z_planes, scanned.targets, settings, split, sites_json(alignments)]
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]


def _check_trained(records: Records, trained: Records) -> None:
    for magnification in sorted(
        {key.magnification for key in records} - {key.magnification for key in trained}
    ):
        raise PlateError(
            f"no training well has a field at {magnification}x: every magnification needs one. Choose the split with "
            "-P validation_wells=… -P test_wells=…, or keep flagged fields with -P flagged=keep"
        )


def _check_validated(keys: set[FieldKey], wells: tuple[str, ...]) -> None:
    if not any(key.well in wells for key in keys):
        raise PlateError(
            f"no field of the validation wells {', '.join(wells)} is left, and one must choose the best network: name others with "
            "-P validation_wells=…, or keep flagged fields with -P flagged=keep"
        )


def _origin(scanned: Plate, config: PreprocessConfig) -> Origin:
    """Names, sizes and times of all files, what is wrong with the plate, and the settings: enough to tell that nothing changed."""
    fields = [
        (str(files.key), [file_fingerprint(path) for path in files.paths])
        for files in scanned.fields
    ]
    given = [file_fingerprint(path) for path in _alignment_file(config)]
    files = [fields, given, scanned.problems, scanned.n_ignored]
    settings = {name: value for name, value in plain(config).items() if name not in _ELSEWHERE}
    return Origin(
        plate=str(config.plate.resolve()),
        files=hashlib.sha256(repr(files).encode()).hexdigest()[:16],
        settings=settings,
    )
