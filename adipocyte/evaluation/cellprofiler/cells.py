"""Nuclei and the cells around them."""

import numpy as np
from centrosome.cpmorphology import fill_labeled_holes
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.evaluation.cellprofiler import primary
from adipocyte.evaluation.cellprofiler.labelling import Labels, kept, on_frame, renumbering
from adipocyte.evaluation.cellprofiler.measurements import brightness, shapes
from adipocyte.evaluation.cellprofiler.parameters import Parameters
from adipocyte.evaluation.cellprofiler.propagation import propagate
from adipocyte.evaluation.cellprofiler.thresholds import above, local_thresholds

BRIGHTEST_NUCLEUS = 0.04
SMALLEST_NUCLEUS_PX = 50
WINDOW_PX, FACTOR, SMOOTHING = 185, 0.7, 1.34


def find_nuclei(hoechst: NDArray[np.float32], parameters: Parameters) -> tuple[Labels, Labels]:
    """Nuclei of the usual sizes, "nuclei", and all pieces they are from: "nuclei__unedited"."""
    detection = parameters.nuclei
    thresholds = local_thresholds(
        hoechst,
        parameters.nuclei_window_px,
        detection.threshold_factor,
        detection.threshold_at_least,
    )
    mask = primary.foreground(above(hoechst, thresholds, detection.threshold_smoothing), detection)
    unedited = primary.part_by_shape(mask, detection)
    return primary.finished(primary.of_right_size(unedited, detection)), unedited


def living(nuclei: Labels, hoechst: NDArray[np.float32]) -> Labels:
    """Drop nuclei that are too bright (apoptotic), too small or rounder than a disk can be.

    Returns "Nuclei_filtered".
    """
    shape, mean = shapes(nuclei), brightness(nuclei, hoechst)["MeanIntensity"]
    keep = (
        (shape["FormFactor"] <= 1)
        & (shape["Area"] >= SMALLEST_NUCLEUS_PX)
        & (mean <= BRIGHTEST_NUCLEUS)
    )
    return kept(nuclei, np.concatenate([[False], keep]))


def find_cells(
    bodipy: NDArray[np.float32],
    red: NDArray[np.float32],
    nuclei: Labels,
    unedited: Labels,
    parameters: Parameters,
) -> Labels:
    """Grow each of the *nuclei* over the stained ground around it: "cell_bodies".

    This is CellProfiler's IdentifySecondaryObjects. A nucleus grows to where a neighbour is nearer.
    Pieces of nuclei on the frame grow as well, and are then removed with the ground they covered.
    """
    if parameters.cells_from_weighted_mean:
        image = (bodipy + 3 * red) / 4
    else:
        image = np.clip(bodipy + red, 0, 1)
    ground = above(image, local_thresholds(image, WINDOW_PX, FACTOR, 0), SMOOTHING)
    seeds = np.where(on_frame(unedited)[unedited] | (nuclei > 0), unedited, 0)
    grown = fill_labeled_holes(propagate(image, seeds, ground))
    owners = np.asarray(ndimage.maximum(nuclei, grown, np.arange(grown.max() + 1)), dtype=np.int32)
    owners[0] = 0
    return owners[grown]


def inside(cells: Labels, nuclei: Labels) -> tuple[Labels, Labels]:
    """Cells that do not touch the frame, and their nuclei: "cells_no_edge", "nuclei_no_edge"."""
    n = max(cells.max(), nuclei.max()) + 1
    keep = np.bincount(cells.ravel(), minlength=n) > 0
    keep[: cells.max() + 1] &= ~on_frame(cells)
    table = renumbering(keep)
    return table[cells], table[nuclei]
