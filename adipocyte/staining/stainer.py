"""The chain: segmenter → mask → A1; A2, A3; counts; intensities (report, Figure 1.1 and section 6.1)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adipocyte.config import WAYS
from adipocyte.errors import ConfigError, ImageError
from adipocyte.imaging import quality
from adipocyte.imaging.histograms import apply_table, match_histogram
from adipocyte.imaging.normalisation import Scaling
from adipocyte.networks.files import load_network
from adipocyte.networks.whole_field import predict_field, segment_field
from adipocyte.staining.bundle import SEGMENTER, names, read_calibrations, read_histograms, read_manifest

_SMALLEST_PX = 64


@dataclass(frozen=True)
class Stained:
    """`images` by target, (Y, X) uint16 in counts; `warnings` say in what the input is unlike the training wells."""

    images: dict[str, NDArray[np.uint16]]
    warnings: tuple[str, ...]


class Stainer:
    """A bundle, loaded: paints fields of any size. Raises BundleError when *folder* holds no whole bundle."""

    def __init__(self, folder: Path) -> None:
        self.manifest = read_manifest(folder)
        self._histograms = read_histograms(folder)
        self._calibrations = read_calibrations(folder, self.manifest)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._networks = {name: load_network(folder / name, device)[1] for name in names(self.manifest.targets)}

    def stain(self, planes: NDArray[np.uint16], magnification: int, *, intensities: str | None = None) -> Stained:
        """Paint every target of a field.

        planes: (Z, Y, X) brightfield in counts, sides of 64 pixels or more. *intensities* is a way for `rescale`; None: the one that
        the bundle keeps. Returns images of the same (Y, X).

        Raises ImageError for a stack of another kind or a magnification that the bundle has not seen, ConfigError as `way` does.
        """
        way = self.way(intensities)
        self._check(planes, magnification)
        source = self._scaling(magnification, "brightfield").normalise(planes)
        images = {}
        for target in self.manifest.targets:
            painted = predict_field(self._networks[target], self._condition(source) if target == "A1" else source)
            images[target] = self._scaling(magnification, target).denormalise(painted)
        images = self.rescale(images, magnification, way)
        return Stained(images, quality.flags(quality.field_figures(planes), self.manifest.limits[str(magnification)]))

    def rescale(self, images: dict[str, NDArray[np.uint16]], magnification: int, way: str) -> dict[str, NDArray[np.uint16]]:
        """Set the intensities of *images*, (Y, X) by target in counts as the networks paint them, at *magnification*.

        *way*: "none" leaves them; "matching" gives each the distribution of the training wells; "calibration" puts all through one
        table, fitted to other wells. Raises ConfigError as `way` does.
        """
        if self.way(way) == "none":
            return images
        if way == "matching":
            return {target: match_histogram(image, self._histograms[f"{magnification}/{target}"]) for target, image in images.items()}
        return {target: apply_table(self._calibrations[f"{magnification}/{target}"], image) for target, image in images.items()}

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways in which this bundle can set intensities: "calibration" only when it has been calibrated."""
        return WAYS if self._calibrations else tuple(way for way in WAYS if way != "calibration")

    def way(self, intensities: str | None) -> str:
        """The way that *intensities* stand for: None is the one that the bundle keeps.

        Raises ConfigError when there is no such way, or it takes calibrations and the bundle has none.
        """
        way = self.manifest.intensities if intensities is None else intensities
        if way not in WAYS:
            raise ConfigError(f"intensities must be one of {', '.join(WAYS)}, got {way!r}")
        if way not in self.ways:
            raise ConfigError("the model has not been calibrated: take the intensities none or matching, or register it anew")
        return way

    def _condition(self, source: NDArray[np.float32]) -> NDArray[np.float32]:
        """The planes and, as one channel more, the mask that the segmenter sees in them."""
        mask = segment_field(self._networks[SEGMENTER], source)
        return np.concatenate([source, mask[None].astype(np.float32)])

    def _scaling(self, magnification: int, channel: str) -> Scaling:
        return Scaling(*self.manifest.scalings[str(magnification)][channel])

    def _check(self, planes: NDArray[np.uint16], magnification: int) -> None:
        if magnification not in self.manifest.magnifications:
            seen = ", ".join(f"{known}x" for known in self.manifest.magnifications)
            raise ImageError(
                f"the model has not seen {magnification}x, only {seen}: send one of those, or train on a plate with {magnification}x"
            )
        n_z = self.manifest.n_z_planes
        if planes.ndim != 3 or len(planes) != n_z or planes.dtype != np.uint16:
            raise ImageError(f"the stack is {planes.dtype} of shape {planes.shape}: it must be uint16 counts of shape ({n_z}, Y, X)")
        if min(planes.shape[1:]) < _SMALLEST_PX:
            raise ImageError(f"the stack is {planes.shape[1]} x {planes.shape[2]} pixels: a side must be at least {_SMALLEST_PX}")
