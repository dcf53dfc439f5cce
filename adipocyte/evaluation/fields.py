"""A stainer judged on the fields of a store: a table of figures and their means."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from adipocyte.errors import StoreError
from adipocyte.evaluation.pixels import METRICS, pixel_figures
from adipocyte.plate.reader import FieldKey
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store


@dataclass(frozen=True)
class Row:
    """The figures of one target of one field, painted with or without histogram matching."""

    key: FieldKey
    target: str
    matched: bool
    figures: dict[str, float]

    def flat(self) -> dict[str, str | int | bool | float]:
        """The row as columns and values."""
        return {**vars(self.key), "target": self.target, "matched": self.matched, **self.figures}


def judge(stainer: Stainer, store: Store, part: str) -> list[Row]:
    """Paint every field of a *part* of the split, with and without histogram matching, and compare with the truth where there is one.

    Raises StoreError when the store lacks a target of the stainer or the stainer a magnification of the store.
    """
    for target in stainer.manifest.targets:
        store.require_target(target)
    if store.manifest.n_z_planes != stainer.manifest.n_z_planes:
        found = f"{store.manifest.n_z_planes} z-planes, the model paints from {stainer.manifest.n_z_planes}"
        raise StoreError(f"the store has {found}: train and register on this store, or prepare a plate with as many planes")
    for magnification in store.magnifications:
        if magnification not in stainer.manifest.magnifications:
            seen = ", ".join(f"{known}x" for known in stainer.manifest.magnifications)
            raise StoreError(f"the model has not seen the store's {magnification}x, only {seen}: train and register on this store")
    rows = []
    for key in tqdm(store.keys(part), desc=f"evaluate, {part} wells", unit="field"):
        painted = stainer.stain(store.planes(key), key.magnification, histogram_matching=False).images
        valid = store.valid(key)
        for matched, images in ((False, painted), (True, stainer.match(painted, key.magnification))):
            for target, image in images.items():
                median = store.median(key.magnification, target)
                rows.append(Row(key, target, matched, pixel_figures(store.target(key, target)[valid], image[valid], median)))
    return rows


def summary(rows: list[Row]) -> dict[str, float]:
    """Means over fields, by stable names: "mae_A2" over all magnifications and "mae_A2_20x", … for each.

    "pixel_metric" is the mean over targets and magnifications of the challenge's pixel part. Behind "matched_" stand the same
    figures after histogram matching.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        prefix = "matched_" if row.matched else ""
        for metric in METRICS:
            values[f"{prefix}{metric}_{row.target}"].append(row.figures[metric])
            values[f"{prefix}{metric}_{row.target}_{row.key.magnification}x"].append(row.figures[metric])
    means = {name: float(np.mean(found)) for name, found in values.items()}
    for prefix in ("", "matched_"):
        parts = [value for name, value in means.items() if name.startswith(f"{prefix}pixel_metric_") and name.endswith("x")]
        means[f"{prefix}pixel_metric"] = float(np.mean(parts))
    return means


def table(targets: tuple[str, ...], figures: dict[str, float]) -> str:
    """The summary without ("mae_A2") and with histogram matching ("matched_mae_A2") as text, a line for each target and way."""
    lines = ["target  matching    MAE (counts)   MAE/median   PSNR (dB)   SSIM   Pearson r"]
    for target in targets:
        for way, prefix in (("without", ""), ("with", "matched_")):
            mae, part, psnr, ssim, pearson = (figures[f"{prefix}{metric}_{target}"] for metric in METRICS)
            lines.append(f"{target:<7} {way:<10} {mae:>13.1f} {part:>12.3f} {psnr:>11.1f} {ssim:>6.3f} {pearson:>11.3f}")
    return "\n".join(lines)
