"""From a raw plate to a prepared store: scan, prepare every field, sum up, write the manifest."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file
from tqdm import tqdm

from adipocyte.config import PreprocessConfig, listed, plain
from adipocyte.domain import SMALLEST_PX, UM_PER_PX, FieldKey, Normalisation, are_alike
from adipocyte.errors import ConfigError, ImageError, PlateError, StoreError
from adipocyte.imaging.limits import Limits, flags, learn_limits
from adipocyte.imaging.quality import Measures
from adipocyte.plate.listing import named
from adipocyte.plate.problems import Problem, problem_table
from adipocyte.plate.scan import Plate, scan_plate
from adipocyte.plate.understood import understood_table
from adipocyte.preparation import workspace
from adipocyte.preparation.alignment import estimate_alignments, no_alignments, read_alignments
from adipocyte.preparation.field import (
    FieldTask,
    Masking,
    keep_only,
    made_from,
    prepare_field,
)
from adipocyte.preparation.progress import FieldRecord
from adipocyte.preparation.split import Split, rare_stains, split_wells
from adipocyte.preparation.statistics import (
    medians_of,
    own_scalings,
    scalings_of,
    sum_histograms,
)
from adipocyte.store.alignments import Alignments, Registrations, sites_json
from adipocyte.store.manifest import FieldEntry, Origin, StoreManifest, write_manifest
from adipocyte.store.paths import HISTOGRAMS
from adipocyte.store.reader import Store
from adipocyte.store.writer import describe_plates
from adipocyte.system.files import fingerprint, replacing, short_digest
from adipocyte.system.processes import each
from adipocyte.system.tensors import disk_errors

Records = dict[FieldKey, FieldRecord]

# Settings that say where and how a store is made, not what is in it.
_ELSEWHERE = (
    "plate",
    "layout",
    "channels",
    "magnification",
    "um_per_px",
    "plate_name",
    "stain_z",
    "store",
    "look",
    "workers",
)
# Settings that a store's digest leaves out, because it has their outcome instead.
_RESOLVED = ("align", "on_error", "seed", "validation_wells", "test_wells")


def look(config: PreprocessConfig) -> Plate:
    """What the raw plate of *config* holds, by the headers of its images. Nothing is written.

    Raises PlateError and ConfigError as `scan_plate` does.
    """
    return _without_small(
        scan_plate(
            config.plate.resolve(),
            plate_name=config.plate_name,
            stain_z=config.stain_z,
            layout=config.layout,
            channels=config.channels,
            magnification=config.magnification,
            um_per_px=config.um_per_px,
        )
    )


def prepare(config: PreprocessConfig) -> Store:
    """Prepare the raw plate of *config* into its store, and open that.

    A whole store of the same plate and settings is left as it is. Otherwise the store is made in a
    folder beside it, which replaces it at the end. The plate is only read. After an interruption,
    the next call continues with the fields that are not finished.

    Raises PlateError for problems of the plate, ConfigError for wells that it does not have,
    StoreError when the store's folder holds anything but a store or cannot be written, WorkerError
    when one of the processes is killed.
    """
    plate, folder = config.plate.resolve(), config.store.resolve()
    if folder.is_relative_to(plate):
        raise PlateError(
            f"{folder} lies inside the raw plate, which is never written to",
            "name another folder with -P store=<folder>",
        )
    found = look(config)
    print(understood_table(found))
    scanned = _with_partial(found)
    _refuse(scanned.problems, config)
    _check_usable(scanned)
    stains = {files.key: tuple(files.targets) for files in scanned.fields}
    _split(stains, scanned.problems, config)  # before the work, which a misspelt well would waste
    for path in _alignment_file(config):
        read_alignments(path, stains)
    origin = _origin(scanned, config)
    try:
        with workspace.alone(folder) as partial:
            if not workspace.is_made_from(folder, origin):
                _make(partial, scanned, origin, config)
                workspace.take(folder, partial)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be written ({error})",
            "make room, and run the same command again; finished fields are kept",
        ) from error
    return Store(config.store)


def _make(partial: Path, scanned: Plate, origin: Origin, config: PreprocessConfig) -> None:
    """Make a whole store in the folder *partial*, unless a killed preparation has just done so."""
    if workspace.is_made_from(partial, origin):
        return
    workspace.begin(partial)
    records, problems = _prepare_fields(partial, scanned, config)
    _refuse(problems, config)
    everything = (*scanned.problems, *problems)
    write_manifest(partial, _sum_up(partial, scanned, origin, records, everything, config))


def _with_partial(scanned: Plate) -> Plate:
    """The plate with the fields that lack some stains among its fields."""
    fields = sorted((*scanned.fields, *scanned.partial), key=lambda files: files.key)
    return replace(scanned, fields=tuple(fields))


def _without_small(scanned: Plate) -> Plate:
    """The plate with its fields below SMALLEST_PX among its problems."""
    every = (*scanned.fields, *scanned.partial)
    small = sorted(
        (files for files in every if min(files.shape) < SMALLEST_PX), key=lambda files: files.key
    )
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
        partial=tuple(files for files in scanned.partial if files not in small),
        problems=(*scanned.problems, *problems),
    )


def _refuse(problems: Sequence[Problem], config: PreprocessConfig) -> None:
    """Raise PlateError for *problems* unless fields that have some are to be left out."""
    if problems and config.on_error == "stop":
        raise PlateError(
            "the plate is not whole",
            f"mend these problems and run the same command again\n{problem_table(problems)}\n"
            "Or leave out what is not whole, a stain where only that is missing, else the field: "
            "-P on_error=skip",
        )


def _check_usable(scanned: Plate) -> None:
    if not scanned.fields:
        table = problem_table(scanned.problems)
        raise PlateError(
            "no field of the plate is whole",
            f"mend these problems and run the same command again\n{table}",
        )
    if "A1" not in scanned.targets:
        found = f"only {', '.join(scanned.targets)}" if scanned.targets else "no stain at all"
        raise PlateError(
            f"the plate has {found}",
            "training needs at least A1 (nuclei, channel C01 unless -P channels= says another), "
            "from which the masks are made",
        )


def _split(
    stains: Mapping[FieldKey, Sequence[str]],
    problems: Sequence[Problem],
    config: PreprocessConfig,
) -> Split:
    """The split of the wells of fields with these *stains*."""
    wells = [key.well for key in stains]
    validation, test = listed(config.validation_wells), listed(config.test_wells)
    try:
        return split_wells(wells, validation, test, config.seed, rare_stains(stains))
    except (ConfigError, PlateError) as error:
        if not problems:
            raise
        raise type(error)(
            error.found,
            f"{error.remedy}. These are left out, a stain where only that is missing, else the "
            f"field:\n{problem_table(problems)}",
        ) from error


def _prepare_fields(
    partial: Path, scanned: Plate, config: PreprocessConfig
) -> tuple[Records, list[Problem]]:
    """Prepare every field that is not finished.

    Returns the records of all fields that could be prepared, in order, and the others' problems.
    """
    masking = masking_of(config)
    tasks = [
        FieldTask(partial, files, masking, made_from(files, masking)) for files in scanned.fields
    ]
    to_do = [task for task in tasks if task.record() is None]
    results = each(prepare_field, to_do, min(config.workers, len(to_do)))
    n_done = len(tasks) - len(to_do)
    progress = tqdm(results, desc="preprocess", unit="field", initial=n_done, total=len(tasks))
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
    """Learn from the training wells, and finish the store but for its manifest, which is returned.

    Reference histograms and the metadata of the plates are written.
    """
    stains = {f.key: tuple(f.targets) for f in scanned.fields if f.key in records}
    split = _split(stains, problems, config)
    limits = _limits(records, split["train"])
    lacks, own_sizes = _lacks(scanned), _own_sizes(scanned)
    fields = {
        key: _entry(record, limits[str(key.magnification)], lacks[key], own_sizes.get(key))
        for key, record in records.items()
    }
    left_out = set()
    if config.flagged == "leave_out":
        left_out = {key for key, entry in fields.items() if entry.flags}
    used = {key: record for key, record in records.items() if key not in left_out}
    trained = {key: record for key, record in used.items() if key.well in split["train"]}
    _check_trained(records, trained)
    _check_validated(used, split["validation"])
    _check_stains(fields, split, set(used), scanned.targets)
    whole = {key: record for key, record in trained.items() if not lacks[key]}
    alignments, registrations = _alignments(partial, records, whole, scanned.targets, config)
    histograms = sum_histograms(partial, trained)
    with replacing(partial / HISTOGRAMS) as path, disk_errors(path):
        save_file(histograms, path)
    scalings = scalings_of(histograms, config.normalisation)
    if config.normalisation == Normalisation.FIELD:
        own, scalings = own_scalings(partial, records, trained)
        fields = {key: replace(entry, scalings=own[key]) for key, entry in fields.items()}
    keep_only(partial, set(records))
    describe_plates(partial, records)
    return StoreManifest(
        digest=_digest(records, scanned, config, split, alignments),
        origin=origin,
        n_z_planes=scanned.n_z_planes,
        targets=scanned.targets,
        split=split,
        fields=fields,
        scalings=scalings,
        medians=medians_of(histograms),
        limits=limits,
        alignments=alignments,
        registrations=registrations,
        um_per_px=_unusual_sizes(scanned),
        problems=problems,
        n_ignored=scanned.n_ignored,
        ignored=named(scanned.ignored),
    )


def _limits(records: Records, training_wells: tuple[str, ...]) -> dict[str, Limits]:
    """Limits of quality by magnification ("20"), learned from the training wells."""
    measures: dict[int, list[Measures]] = {key.magnification: [] for key in sorted(records)}
    for key, record in records.items():
        if key.well in training_wells:
            measures[key.magnification].append(record.quality)
    return {str(magnification): learn_limits(fields) for magnification, fields in measures.items()}


def _entry(
    record: FieldRecord, limits: Limits, lacks: tuple[str, ...], um_per_px: float | None
) -> FieldEntry:
    return FieldEntry(
        shape=record.shape,
        quality=record.quality,
        flags=flags(record.quality, limits),
        lacks=lacks,
        um_per_px=um_per_px,
    )


def _own_sizes(scanned: Plate) -> dict[FieldKey, float]:
    """The µm per pixel of the fields that differ from the others of their magnification."""
    told = UM_PER_PX | scanned.understood.um_per_px
    return {
        files.key: files.um_per_px
        for files in scanned.fields
        if files.um_per_px != told[files.key.magnification]
    }


def _lacks(scanned: Plate) -> dict[FieldKey, tuple[str, ...]]:
    """The stains that each field lacks of the plate's."""
    return {
        files.key: tuple(target for target in scanned.targets if target not in files.targets)
        for files in scanned.fields
    }


def _alignments(
    partial: Path,
    records: Records,
    trained: Records,
    targets: tuple[str, ...],
    config: PreprocessConfig,
) -> tuple[Alignments, Registrations]:
    """Alignments at every site, by the way that *config* names, and registrations if measured."""
    if config.align == "estimate":
        registrations = estimate_alignments(partial, records, trained, targets, config.workers)
        alignments = {
            magnification: {fov: found.alignment for fov, found in sites.items()}
            for magnification, sites in registrations.items()
        }
        return alignments, registrations
    if config.align == "none":
        return no_alignments(records), {}
    alignments = read_alignments(Path(config.align), records)
    for key, record in records.items():
        try:
            alignments[key.magnification][key.fov].valid(record.shape)
        except ImageError as error:
            raise ConfigError(
                f"{config.align} does not fit field {key}, because {error.found}",
                "give another file, or -P align=estimate",
            ) from error
    return alignments, {}


def _alignment_file(config: PreprocessConfig) -> list[Path]:
    return [] if config.align in ("estimate", "none") else [Path(config.align)]


def _digest(
    records: Records,
    scanned: Plate,
    config: PreprocessConfig,
    split: Split,
    alignments: Alignments,
) -> str:
    """Name the pixels of a store and everything that is made of them."""
    content = {str(key): record.content for key, record in records.items()}
    settings = _settings(config, without=(*_ELSEWHERE, *_RESOLVED))
    sites = sites_json(alignments)
    shown = [content, scanned.n_z_planes, scanned.targets, settings, split, sites]
    # A store has the digest that it had before sizes were told, unless they change what it holds.
    unusual = {
        one: size
        for one, size in _unusual_sizes(scanned).items()
        if int(one) not in UM_PER_PX or not are_alike(size, UM_PER_PX[int(one)])
    }
    return short_digest([*shown, unusual] if unusual else shown)


def _unusual_sizes(scanned: Plate) -> dict[str, float]:
    """The µm per pixel at each magnification, as text, where they are not as is usual."""
    magnifications = {files.key.magnification for files in scanned.fields}
    return {
        str(one): size
        for one, size in sorted(scanned.understood.um_per_px.items())
        if one in magnifications and size != UM_PER_PX.get(one)
    }


def _settings(config: PreprocessConfig, without: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in plain(config).items() if name not in without}


def _check_trained(records: Records, trained: Records) -> None:
    all_of_them = {key.magnification for key in records}
    for magnification in sorted(all_of_them - {key.magnification for key in trained}):
        raise PlateError(
            f"no training well has a field at {magnification}x",
            "every magnification needs one; choose the split with "
            "-P validation_wells=… -P test_wells=…, or keep flagged fields with -P flagged=keep",
        )


def _check_validated(used: Records, wells: tuple[str, ...]) -> None:
    if not any(key.well in wells for key in used):
        raise PlateError(
            f"no field of the validation wells {', '.join(wells)} is left",
            "validation chooses the best network; name other wells with -P validation_wells=…, "
            "or keep flagged fields with -P flagged=keep",
        )


def _check_stains(
    fields: dict[FieldKey, FieldEntry],
    split: Split,
    used: set[FieldKey],
    targets: tuple[str, ...],
) -> None:
    """Raise PlateError where wells that train or validate have none of a stain."""
    for part, magnification, target in product(
        ("train", "validation"), sorted({key.magnification for key in used}), targets
    ):
        wells = split[part]
        here = [key for key in used if key.magnification == magnification and key.well in wells]
        if here and all(target in fields[key].lacks for key in here):
            raise PlateError(
                f"all fields of the {part} wells {', '.join(wells)} lack {target} at "
                f"{magnification}x",
                f"add {target} images to one of them, or name other wells with "
                "-P validation_wells=… -P test_wells=…",
            )


def _origin(scanned: Plate, config: PreprocessConfig) -> Origin:
    """Where a store comes from: equal for the same files, problems and settings."""
    fields = [(str(files.key), files.fingerprints) for files in scanned.fields]
    given = [fingerprint(path) for path in _alignment_file(config)]
    files = [fields, given, scanned.problems]
    if not scanned.understood.is_usual:  # else a stain can be told by its file's name
        files.append(scanned.understood.roles)
    if unusual := _unusual_sizes(scanned):
        files.append(unusual)
    return Origin(
        plate=str(config.plate.resolve()),
        files=hashlib.sha256(repr(files).encode()).hexdigest()[:16],
        settings=_settings(config, without=_ELSEWHERE),
    )


def masking_of(config: PreprocessConfig) -> Masking:
    """How *config* wants nuclei masks made."""
    return Masking(
        threshold=config.mask_threshold,
        superpixel_px=config.mask_superpixel_px,
        smallest_px=config.mask_smallest_px,
    )
