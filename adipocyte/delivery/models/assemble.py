"""From finished runs to a whole bundle: networks, calibrations, and the best way of intensities."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import adipocyte
from adipocyte.delivery.runs.runs import (
    commit,
    encoder_weights_of,
    finest_of,
    knows_any_planes,
    network_of,
    segmenter_of,
    started_from,
    targets_of,
)
from adipocyte.domain import BRIGHTFIELD, SEGMENTER, Intensities, table_key
from adipocyte.errors import RunError
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.foretelling import learn_foretellers
from adipocyte.evaluation.metric import Score
from adipocyte.evaluation.painting import (
    Tables,
    cross_calibrated,
    fit_calibrations,
    fit_intervals,
    paint_fields,
)
from adipocyte.imaging.padding import pad_to_multiple
from adipocyte.imaging.resizing import joined
from adipocyte.networks.files import load_network
from adipocyte.networks.quantisation import measure_ranges
from adipocyte.networks.unet import DIVISOR
from adipocyte.staining.bundle import (
    BundleManifest,
    NetworkEntry,
    calibrate_bundle,
    write_bundle,
    write_foretellers,
    write_intervals,
)
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store

PIXELS_LOST = 0.1  # share of the pixel metric that a way may lose for better features
_N_PATCHES, _PATCH_PX = 16, 256  # of the training wells, which the ranges for int8 are measured on

# The terms of the weights that a network started from, if they are not a file.
_LICENCES = {
    "none": "trained from random weights",
    "imagenet": "started from the ImageNet weights that segmentation-models-pytorch fetches; "
    "the terms of ImageNet apply",
}


@dataclass(frozen=True)
class Assembled:
    """A bundle in *folder* that does not yet keep a way of intensities.

    *fields* are the validation fields, painted in every way that they can judge; *calibrations* are
    fitted to all of them.
    """

    folder: Path
    fields: list[FieldPaths]
    calibrations: Tables

    def finish(self, scores: dict[str, Score]) -> str:
        """Let the bundle keep the way of intensities that scored best, and return it.

        It is one of those that lose the fewest features. Of these it is one whose pixel metric is
        at most PIXELS_LOST above the lowest, because features alone would choose pictures that look
        wrong. Of these it has the lowest combined metric, or pixel metric if no feature was
        measured. The bundle gets the intervals of what that way paints.
        """
        ways = [way for way in Intensities if way in scores]
        fewest = min(scores[way].n_left_out for way in ways)
        ways = [way for way in ways if scores[way].n_left_out == fewest]
        most = (1 + PIXELS_LOST) * min(scores[way].pixel_metric for way in ways)
        ways = [way for way in ways if scores[way].pixel_metric <= most]
        kept = min(ways, key=lambda way: _metric(scores[way]))
        calibrate_bundle(self.folder, self.calibrations, kept)
        if intervals := fit_intervals(self.fields, kept):
            write_intervals(self.folder, intervals)
        return kept


def assemble(
    store: Store, runs: dict[str, str], folder: Path, storage: str = "float32"
) -> Assembled:
    """Write the networks of *runs* into a bundle in *folder* and paint the validation wells.

    *runs* maps targets, and "segmenter" if a network sees its mask, to run ids; a run may paint
    several targets. *storage* is the precision that the bundle keeps weights in. Each field is
    painted with a calibration that was fitted to other fields (see `cross_calibrated`), so that it
    can be judged. Raises RunError when a run does not fit its network, BundleError when a network
    is damaged.
    """
    bundle = gather(store, runs, folder / "bundle", storage)
    stainer = Stainer(bundle)
    fields = paint_fields(stainer, store, store.keys("validation"), stainer.manifest.ways, folder)
    calibrations = fit_calibrations(fields)
    if calibrations.keys() != set(stainer.manifest.paintings):
        return Assembled(bundle, fields, {})  # a magnification has no validation field
    judged = cross_calibrated(fields, stainer.histograms, folder)
    return Assembled(bundle, judged, calibrations)


def teach_trust(bundle: Path, store: Store, seed: int) -> None:
    """Let the *bundle*, which keeps its intensities, foretell the errors of what it paints.

    The validation wells teach it; where there are too few, it cannot. The same *seed* gives the
    same.
    """
    found = learn_foretellers(Stainer(bundle), store, store.keys("validation"), seed)
    if found:
        write_foretellers(bundle, found)


def gather(store: Store, runs: dict[str, str], folder: Path, storage: str) -> Path:
    """Write the bundle of *runs* into *folder* and return it.

    Raises RunError when a run does not fit its network.
    """
    targets = tuple(target for target in store.manifest.targets if target in runs)
    licences = {network: _licence(encoder_weights_of(run)) for network, run in runs.items()}
    origins = {target: started_from(runs[target]) for target in targets}
    histograms = {
        table_key(m, target): store.histogram(m, target)
        for m in store.magnifications
        for target in targets
    }
    entries, folders = {}, {}
    with ExitStack() as stack:
        for run_id in dict.fromkeys(runs[target] for target in targets):
            wanted = [target for target in targets if runs[target] == run_id]
            network = network_of(run_id, "train_gan", store.digest, *wanted)
            path, entry = stack.enter_context(network), _entry(run_id, wanted)
            if not entry.sees_mask:
                patches = random_patches(store, entry.finest_um_per_px)
                ranges = measure_ranges(load_network(path)[1], patches)
                entry = replace(entry, ranges=ranges)
            entries[entry.name], folders[entry.name] = entry, path
        if SEGMENTER in runs:
            network = network_of(runs[SEGMENTER], "train_segmenter", store.digest)
            folders[SEGMENTER] = stack.enter_context(network)
        manifest = BundleManifest(
            targets=targets,
            networks=entries,
            n_z_planes=store.manifest.n_z_planes,
            scalings=store.manifest.scalings,
            limits=store.manifest.limits,
            runs=runs,
            store_digest=store.digest,
            commit=commit(),
            version=adipocyte.__version__,
            licences={"code": "MIT", **licences},
            started_from={name: origin for name, origin in origins.items() if origin},
            any_planes=all(knows_any_planes(run_id) for run_id in runs.values()),
            intensities=Intensities.NONE,
            normalisation=store.manifest.origin.settings["normalisation"],
            storage=storage,
            um_per_px=store.manifest.um_per_px,
        )
        write_bundle(folder, manifest, folders, histograms)
    return folder


def _entry(run_id: str, wanted: Sequence[str]) -> NetworkEntry:
    """What the network of *run_id* is for in a bundle that *wanted* some of its targets."""
    paints = tuple(target if target in wanted else "" for target in targets_of(run_id))
    sees_mask = segmenter_of(run_id) != ""
    finest = 0.0 if sees_mask else finest_of(run_id)  # beside a mask nothing is ever joined
    return NetworkEntry(paints, sees_mask, finest_um_per_px=finest)


def random_patches(store: Store, finest_um_per_px: float) -> Iterator[NDArray[np.float32]]:
    """Parts of random training fields, (Z, Y, X) in network units; always the same ones.

    They are as a network sees them that sees no pixels finer than *finest_um_per_px*.
    """
    random, keys = np.random.default_rng(0), store.keys("train")
    for _ in range(_N_PATCHES):
        key = keys[random.integers(len(keys))]
        n = store.n_joined(key.magnification, finest_um_per_px)
        most = (side // n for side in store.shape(key))
        sides = [n * min(_PATCH_PX, side // DIVISOR * DIVISOR or side) for side in most]
        starts = [
            int(random.integers(side - part + 1))
            for side, part in zip(store.shape(key), sides, strict=True)
        ]
        rows, columns = (slice(a, a + side) for a, side in zip(starts, sides, strict=True))
        planes = joined(store.planes(key, (rows, columns)), n)
        yield store.field_scaling(key, BRIGHTFIELD).normalise(pad_to_multiple(planes, DIVISOR))


def runs_by_network(run_ids: Iterable[str]) -> dict[str, str]:
    """Training runs by target, with the segmenter whose masks one of them trained with, if any.

    Raises RunError when one is not a run of train_gan, or two paint the same target.
    """
    runs: dict[str, str] = {}
    for run_id in run_ids:
        for target in targets_of(run_id):
            if target in runs:
                raise RunError(
                    f"runs {runs[target]} and {run_id} both paint {target}",
                    "judge one after the other, -P runs=<one of them>",
                )
            runs[target] = run_id
    return with_segmenter(runs)


def with_segmenter(runs: Mapping[str, str], given: str = "") -> dict[str, str]:
    """*runs* by target, and the segmenter that they need, if any: *given*, or that of training.

    Raises RunError when they trained with different segmenters and none is given.
    """
    segmenters = sorted({segmenter_of(run_id) for run_id in runs.values()} - {""})
    if not segmenters:
        return dict(runs)
    if len(segmenters) > 1 and not given:
        raise RunError(
            f"the runs trained with the masks of different segmenters, {' and '.join(segmenters)}",
            "say which is to be used, -P segmenter=<run id>",
        )
    return {**runs, SEGMENTER: given or segmenters[0]}


def _licence(encoder_weights: str) -> str:
    """The terms of the weights that a network started from."""
    of_file = f"started from the weights of {encoder_weights}, under their owner's terms"
    return _LICENCES.get(encoder_weights, of_file)


def _metric(score: Score) -> float:
    return score.pixel_metric if score.combined_metric is None else score.combined_metric
