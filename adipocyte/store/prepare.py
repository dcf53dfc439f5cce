"""From a raw plate to a prepared store: scan, prepare every field, sum up, write the manifest."""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from safetensors.numpy import save_file
from tqdm import tqdm

from adipocyte.config import MAGNIFICATIONS, PreprocessConfig, listed
from adipocyte.errors import PlateError, StoreError
from adipocyte.imaging import quality
from adipocyte.plate.reader import FieldKey
from adipocyte.plate.scan import Plate, Problem, problem_table, scan_plate
from adipocyte.store.alignments import Alignments, Registrations, estimate_alignments, no_alignments, read_alignments, sites_json
from adipocyte.store.field import FieldTask, Masking, file_fingerprint, prepare_field
from adipocyte.store.manifest import FieldEntry, Manifest, Origin, read_manifest, write_manifest
from adipocyte.store.paths import HISTOGRAMS, RECORDS, field_path, plate_path
from adipocyte.store.reader import Store
from adipocyte.store.records import Record
from adipocyte.store.split import split_wells
from adipocyte.store.statistics import medians_of, scalings_of, sum_histograms
from adipocyte.store.workers import each
from adipocyte.store.writer import describe_plates

Records = dict[FieldKey, Record]
_LOCK = ".lock"
_ELSEWHERE = ("plate", "store", "workers")  # settings that say where and how, not what


def prepare(config: PreprocessConfig) -> Store:
    """Prepare the raw plate of *config* into its store and open that. A whole store of the same plate and settings is left as it is.

    The work goes on beside the store, which is replaced when all is done; the plate is only read. A field that is finished is not done
    again by the next call after an interruption.

    Raises PlateError for what is wrong with the plate, ConfigError for wells that it does not have, StoreError when there is anything
    but a store in the store's place, or no room for it.
    """
    plate, folder = Path(config.plate), Path(config.store)
    scanned = scan_plate(plate)
    _refuse(scanned.problems, config)
    if "A1" not in scanned.targets:
        found = f"only {', '.join(scanned.targets)}" if scanned.targets else "no stain at all"
        raise PlateError(f"the plate has {found}: training needs at least A1 (nuclei, channel C01), from which the masks are made")
    keys = [files.key for files in scanned.fields]
    _split(keys, config)  # what is misspelt should be told at once
    for path in _alignment_file(config):
        read_alignments(path, keys)
    origin = _origin(scanned, config)
    if _is_prepared(folder, origin):
        return Store(folder)
    partial = folder.with_name(folder.name + ".partial")
    try:
        with _alone(folder, partial):
            records, problems = _prepare_fields(partial, scanned, config)
            _refuse(problems, config)
            manifest = _sum_up(partial, scanned, origin, records, (*scanned.problems, *problems), config)
            write_manifest(partial, manifest)
            _replace(folder, partial)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error}): make room, and run the same command again; it goes on") from error
    return Store(folder)


@contextmanager
def _alone(folder: Path, partial: Path) -> Iterator[None]:
    """Keep other processes from preparing the same store. Raises StoreError when one is at it."""
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"another preprocess is at work on {folder}: wait for it, or name another with -P store=<folder>") from error
        yield


def _refuse(problems: Sequence[Problem], config: PreprocessConfig) -> None:
    """Raise PlateError for *problems* unless fields that have some are to be left out."""
    if problems and config.on_error == "stop":
        raise PlateError(
            f"the plate is not whole:\n{problem_table(problems)}\nMend that and run the same command again, or leave those fields out: "
            "-P on_error=skip"
        )


def _split(keys: Iterable[FieldKey], config: PreprocessConfig) -> dict[str, tuple[str, ...]]:
    return split_wells([key.well for key in keys], listed(config.validation_wells), listed(config.test_wells), config.seed)


def _prepare_fields(partial: Path, scanned: Plate, config: PreprocessConfig) -> tuple[Records, list[Problem]]:
    """Prepare every field that is not finished. Returns the records of all that could be, in order, and what was wrong with the others."""
    masking = Masking(threshold=config.mask_threshold, superpixel_px=config.mask_superpixel_px, smallest_px=config.mask_smallest_px)
    tasks = [FieldTask(partial, files, masking) for files in scanned.fields]
    to_do = [task for task in tasks if task.record() is None]
    results = each(prepare_field, to_do, min(config.workers, len(to_do)))
    progress = tqdm(results, desc="preprocess", unit="field", initial=len(tasks) - len(to_do), total=len(tasks))
    problems = [problem for problem in progress if problem]
    records = {task.files.key: record for task in tasks if (record := task.record())}
    return records, sorted(problems, key=lambda problem: problem.where)


def _sum_up(
    partial: Path, scanned: Plate, origin: Origin, records: Records, problems: tuple[Problem, ...], config: PreprocessConfig
) -> Manifest:
    """Learn from the training wells, say what the store holds in its plates' metadata and reference histograms, and in a manifest."""
    split = _split(records, config)
    limits = _limits(records, split["train"])
    fields = {
        key: FieldEntry(shape=record.shape, quality=record.quality, flags=quality.flags(record.quality, limits[str(key.magnification)]))
        for key, record in records.items()
    }
    left_out = {key for key, entry in fields.items() if entry.flags} if config.flagged == "leave_out" else set()
    trained = {key: record for key, record in records.items() if key.well in split["train"] and key not in left_out}
    _check_trained(records, trained)
    _check_validated(set(records) - left_out, split["validation"])
    alignments, registrations = _alignments(partial, records, trained, scanned.targets, config)
    histograms = sum_histograms(partial, trained)
    save_file(histograms, partial / HISTOGRAMS)
    _keep_only(partial, set(records))
    describe_plates(partial, records)
    return Manifest(
        digest=_digest(records, config, split, alignments),
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


def _limits(records: Records, training_wells: tuple[str, ...]) -> dict[str, quality.Limits]:
    """Limits of quality by magnification ("20"), learned from the training wells."""
    limits = {}
    for magnification in sorted({key.magnification for key in records}):
        keys = [key for key in records if key.magnification == magnification and key.well in training_wells]
        limits[str(magnification)] = quality.learn_limits([records[key].quality for key in keys])
    return limits


def _alignments(
    partial: Path, records: Records, trained: Records, targets: tuple[str, ...], config: PreprocessConfig
) -> tuple[Alignments, Registrations]:
    """How fluorescence lies at every site, by the way that *config* names, and what was measured for it."""
    if config.align == "estimate":
        registrations = estimate_alignments(partial, records, trained, targets, config.workers)
        return {one: {fov: found.alignment for fov, found in sites.items()} for one, sites in registrations.items()}, registrations
    if config.align == "none":
        return no_alignments(records), {}
    return read_alignments(Path(config.align), records), {}


def _alignment_file(config: PreprocessConfig) -> list[Path]:
    return [] if config.align in ("estimate", "none") else [Path(config.align)]


def _digest(records: Records, config: PreprocessConfig, split: dict[str, tuple[str, ...]], alignments: Alignments) -> str:
    """A name for the pixels of a store and all that was made of them."""
    content = {str(key): record.content for key, record in records.items()}
    settings = {name: value for name, value in asdict(config).items() if name not in (*_ELSEWHERE, "align")}
    named = [content, settings, split, sites_json(alignments)]
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]


def _check_trained(records: Records, trained: Records) -> None:
    for magnification in sorted({key.magnification for key in records} - {key.magnification for key in trained}):
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
    paths = [path for files in scanned.fields for path in files.paths] + _alignment_file(config)
    files = [file_fingerprint(path) for path in paths]
    settings = {name: value for name, value in asdict(config).items() if name not in _ELSEWHERE}
    return Origin(plate=str(Path(config.plate).resolve()), files=hashlib.sha256(repr(files).encode()).hexdigest()[:16], settings=settings)


def _is_prepared(folder: Path, origin: Origin) -> bool:
    if not folder.exists():
        return False
    if not folder.is_dir() or not _is_ours({path.name for path in folder.iterdir() if not path.name.startswith(".")}):
        raise StoreError(f"{folder} holds something that is no prepared store: name another folder with -P store=<folder>, or remove it")
    try:
        return read_manifest(folder).origin == origin
    except StoreError:
        return False


def _is_ours(names: set[str]) -> bool:
    """Whether a folder that holds *names* is empty or a store: what is replaced must hold nothing else."""
    own = {"manifest.json", HISTOGRAMS}
    return not names or own <= names <= own | {plate_path(Path(), magnification).name for magnification in MAGNIFICATIONS}


def _keep_only(partial: Path, keys: set[FieldKey]) -> None:
    """Remove what an interrupted preparation of other fields has left."""
    for path in partial.glob("*.zarr/*/*/*/zarr.json"):
        if path.parent not in {field_path(partial, key) for key in keys}:
            shutil.rmtree(path.parent)


def _replace(folder: Path, partial: Path) -> None:
    shutil.rmtree(partial / RECORDS)
    (partial / _LOCK).unlink()
    old = folder.with_name(folder.name + ".old.partial")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
