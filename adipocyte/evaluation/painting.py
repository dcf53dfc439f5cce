"""Fields of a store, painted by a stainer and written beside their true stains."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from adipocyte.domain import WHOLE, FieldKey, Intensities, table_key
from adipocyte.errors import StoreError
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.imaging.calibration import Calibrator
from adipocyte.imaging.histograms import apply_table, match_highlights
from adipocyte.imaging.intervals import FEWEST_WELLS, Residuals, Widths
from adipocyte.imaging.trust import UNTOLD
from adipocyte.plate.names import magnification_folder, target_name
from adipocyte.plate.tiff import read_image, write_image
from adipocyte.staining.stainer import Stainer
from adipocyte.staining.view import view_of
from adipocyte.store.reader import Store

TRUTH = "truth"
Images = dict[str, NDArray[np.uint16]]
Tables = dict[str, NDArray[np.uint16]]
Histograms = Mapping[str, NDArray[np.int64]]


def paint_fields(
    stainer: Stainer,
    store: Store,
    keys: Sequence[FieldKey],
    ways: Sequence[str],
    folder: Path,
    *,
    resample: bool = False,
) -> list[FieldPaths]:
    """Paint those of the fields *keys* that have a true stain to paint, in each of *ways*.

    The painted images and the true stains are written into *folder* as uint16 TIFFs. The truth is
    as the microscope took it. Where fluorescence lies beside brightfield, the painted image is
    brought into its frame, and both are cropped to what brightfield and fluorescence have both
    seen. True stains that the stainer does not paint are written too; what it paints is not, where
    the field lacks the true stain. With *resample* fields of objectives that the stainer has not
    seen are painted, too (see `Stainer.stain`).

    Raises StoreError when the store lacks a target of the stainer, or the stainer does not know an
    objective or the number of z-planes of the store.
    """
    check_fits(stainer, store, resample=resample)
    return [
        _paint_field(stainer, store, key, ways, folder, resample)
        for key in tqdm(keys, desc="paint", unit="field")
        if set(stainer.manifest.targets) & set(store.targets(key))
    ]


def _paint_field(
    stainer: Stainer,
    store: Store,
    key: FieldKey,
    ways: Sequence[str],
    folder: Path,
    resample: bool,
) -> FieldPaths:
    shape, planes, size = store.shape(key), store.planes(key), store.objectives[key.magnification]
    view = view_of(stainer.manifest, shape, key.magnification, size, resample=resample)
    into_stain = store.alignment(key).inverse
    seen = into_stain.valid(shape)
    painted, trust = _painted(stainer, planes, key, size, resample), UNTOLD
    if view.is_own:
        trust = stainer.trust(planes, painted, key.magnification)
    moved = {
        target: into_stain.resample(image[into_stain.source(WHOLE, shape)], WHOLE, shape)
        for target, image in painted.items()
        if target in store.targets(key)
    }
    truth = {target: store.stain(key, target)[seen] for target in store.targets(key)}
    files = {}
    for way in ways:
        images = stainer.rescale(moved, view.magnification, way)
        cropped = {target: image[seen] for target, image in images.items()}
        files[way] = _write(folder / way, key, cropped)
    paths = _write(folder / TRUTH, key, truth)
    return FieldPaths(key, paths, files, store.um_per_px(key), trust)


def _painted(
    stainer: Stainer, planes: NDArray[np.uint16], key: FieldKey, um_per_px: float, resample: bool
) -> Images:
    """A field as the networks paint it."""
    return stainer.stain(
        planes,
        key.magnification,
        um_per_px=um_per_px,
        resample=resample,
        intensities=Intensities.NONE,
    ).images


def check_fits(stainer: Stainer, store: Store, *, resample: bool = False) -> None:
    """Raise StoreError when *stainer* cannot paint *store*, or the store lacks its stains."""
    for target in stainer.manifest.targets:
        store.require_target(target)
    if store.manifest.n_z_planes not in stainer.manifest.plane_numbers:
        raise StoreError(
            f"the store has {store.manifest.n_z_planes} z-planes, "
            f"the model paints from {stainer.manifest.n_z_planes}",
            "train and register on this store, or prepare a plate with as many planes",
        )
    resample = resample or stainer.manifest.any_objective
    for magnification, size in store.objectives.items():
        if not resample and not stainer.manifest.has_seen(magnification, size):
            seen = ", ".join(f"{m}x of {um:g} µm" for m, um in stainer.manifest.objectives.items())
            raise StoreError(
                f"the model has not seen the store's {magnification}x of {size:g} µm per pixel, "
                f"only {seen}",
                "train and register on this store, or evaluate with -P resample=true",
            )


def fit_calibrations(fields: Sequence[FieldPaths]) -> Tables:
    """Calibrations, (65536,) by "20/A1", …, fitted to *fields* painted with intensities "none"."""
    calibrators: dict[str, Calibrator] = defaultdict(Calibrator)
    for field in tqdm(fields, desc="calibrate", unit="field"):
        for target, path in field.painted[Intensities.NONE].items():
            calibrators[table_key(field.key.magnification, target)].note(
                read_image(path), read_image(field.truth[target])
            )
    return {name: calibrator.fit() for name, calibrator in calibrators.items()}


def fit_intervals(fields: Sequence[FieldPaths], way: str) -> dict[str, Widths]:
    """The intervals, by "20/A1", …, of what *fields* painted in a *way*, by the wells' truths.

    The fields must not be painted with tables that have seen their truths (see `cross_calibrated`).
    A stain that fewer than FEWEST_WELLS wells of a magnification have gets none.
    """
    found = {}
    stains = {(field.key.magnification, target) for field in fields for target in field.truth}
    for magnification, target in tqdm(sorted(stains), desc="intervals", unit="stain"):
        residuals = Residuals()
        for field in fields:
            if field.key.magnification == magnification and target in field.painted[way]:
                painted = read_image(field.painted[way][target])
                residuals.note(field.key.well, painted, read_image(field.truth[target]))
        if residuals.n_wells >= FEWEST_WELLS:
            found[table_key(magnification, target)] = residuals.fit()
    return found


def cross_calibrated(
    fields: Sequence[FieldPaths], histograms: Histograms, folder: Path
) -> list[FieldPaths]:
    """The *fields* with "calibration" and "highlights" added, each by tables fitted to others.

    The others are the fields of other wells; at a magnification with a single well, its other
    fields. If a stain has no others at a magnification, nothing is added, because a table that has
    seen the truth cannot be judged by it. *histograms* are the training wells', (65536,) by
    "20/A1", ….
    """
    groups = _groups(fields)
    having: dict[str, set[tuple]] = defaultdict(set)
    for field in fields:
        for target in field.painted[Intensities.NONE]:
            having[table_key(field.key.magnification, target)].add(groups[field.key])
    if any(len(alike) < 2 for alike in having.values()):
        return list(fields)
    found = []
    for group in sorted(set(groups.values())):
        tables = fit_calibrations([field for field in fields if groups[field.key] != group])
        found += [
            _calibrated(field, tables, histograms, folder)
            for field in fields
            if groups[field.key] == group
        ]
    return sorted(found, key=lambda field: field.key)


def _groups(fields: Sequence[FieldPaths]) -> dict[FieldKey, tuple]:
    """What each field is left out with: its well; itself, if its magnification has one well."""
    wells = defaultdict(set)
    for field in fields:
        wells[field.key.magnification].add(field.key.well)
    return {
        field.key: (field.key.well,)
        if len(wells[field.key.magnification]) > 1
        else (field.key.well, field.key.fov)
        for field in fields
    }


def _calibrated(
    field: FieldPaths, tables: Tables, histograms: Histograms, folder: Path
) -> FieldPaths:
    """The *field* with what it painted with intensities "none" put through *tables*."""
    calibrated, highlighted = {}, {}
    for target, path in field.painted[Intensities.NONE].items():
        name = table_key(field.key.magnification, target)
        calibrated[target] = apply_table(tables[name], read_image(path))
        highlighted[target] = match_highlights(calibrated[target], histograms[name])
    added = {
        way: _write(folder / way, field.key, images)
        for way, images in (
            (Intensities.CALIBRATION, calibrated),
            (Intensities.HIGHLIGHTS, highlighted),
        )
    }
    return replace(field, painted={**field.painted, **added})


def _write(folder: Path, key: FieldKey, images: Images) -> dict[str, Path]:
    images_folder = folder / magnification_folder(key.magnification)
    paths = {target: images_folder / str(target_name(key, target)) for target in images}
    for target, path in paths.items():
        write_image(path, images[target])
    return paths
