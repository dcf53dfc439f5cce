r"""Which way of training is better: several variants and seeds on one store, without MLflow.

    mlflow run . -e simulate -P out=comparison/plate -P magnifications=20 -P fovs=3
    mlflow run . -e preprocess -P plate=comparison/plate -P store=comparison/store \
        -P validation_wells=B03,B04 -P test_wells=C02
    OMP_NUM_THREADS=1 python -m benchmarks.comparison stability \
        --store comparison/store --out comparison/results

Each training leaves <out>/<comparison>/<variant>-<seed>.json. Those that exist are not repeated,
and an interrupted one resumes when the command is typed again. Then comes the table, as Markdown,
and with `--curves` a picture.
"""

import argparse
import dataclasses
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adipocyte.config import GeneratorConfig, SegmenterConfig, build
from adipocyte.store.reader import Store
from adipocyte.system.files import write_json
from adipocyte.training.generator import train_generator
from adipocyte.training.segmenter import train_segmenter

# Small enough for one CPU core; the same for all.
BUDGET = {
    "encoder": "resnet18",
    "encoder_weights": "none",
    "patch_px": 96,
    "batch": 8,
    "epochs": 8,
    "epoch_steps": 75,
    "workers": 1,
    "precision": "auto",
    "save_every": 300,
}
LIPIDS = {
    **BUDGET,
    "target": "A2",
    "wide_convolutions": "none",
    "discriminator_width": 64,
    "constant_epochs": 4,
}
NUCLEI = {**LIPIDS, "target": "A1"}
REPORT, STABLE = {**LIPIDS, "recipe": "report"}, {**LIPIDS, "recipe": "stable"}

COMPARISONS: dict[str, dict[str, dict[str, Any]]] = {
    "stability": {"report": REPORT, "stable": STABLE},
    # One remedy at a time, added to the report.
    "remedies": {
        "report": REPORT,
        "moving average": {**REPORT, "ema": 0.99},
        "small adversarial weight": {**REPORT, "adversarial_weight": 0.01},
        "generator rate 3e-4": {**REPORT, "learning_rate": 3e-4},
        "PatchGAN": {**REPORT, "discriminator": "patchgan"},
    },
    "masks": {
        source: {**NUCLEI, "recipe": "report", "ema": 0.99, "mask_source": source}
        for source in ("true", "predicted", "mixed")
    },
    "architectures": {
        "U-Net with the GAN": REPORT,
        "U-Net without": {**REPORT, "discriminator": "none"},
        "U-Net++ with the GAN": {**REPORT, "architecture": "unetplusplus"},
        "U-Net++ without": {**REPORT, "architecture": "unetplusplus", "discriminator": "none"},
    },
}


class History:
    """A tracker that remembers the metrics, in a file, so that a resumed training has them all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[str, dict[str, float]] = (
            json.loads(path.read_text()) if path.exists() else {}
        )

    def metrics(self, rows: dict[int, dict[str, float]]) -> None:
        for step, values in rows.items():
            self.rows.setdefault(str(step), {}).update(values)
        write_json(self._path, self.rows)

    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None: ...

    def warning(self, sentence: str) -> None:
        print(sentence)

    def state(self, path: Path) -> None: ...


def train(
    store: Store, settings: dict[str, Any], segmenter: Path | None, folder: Path
) -> dict[str, Any]:
    """One training in *folder*: its settings, best metrics, metrics by step, and seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    history, start = History(folder / "history.json"), time.monotonic()
    if "target" in settings:
        config = build(GeneratorConfig, settings)
        best = train_generator(store, config, segmenter, folder, history)
    else:
        config = build(SegmenterConfig, settings)
        best = train_segmenter(store, config, folder, history)
    return {
        "config": dataclasses.asdict(config),
        "best": best,
        "history": history.rows,
        "seconds": time.monotonic() - start,
    }


def segmenter_for(store: Store, comparison: str, seed: int, out: Path) -> Path | None:
    """The segmenter of a comparison's nuclei generators, trained if it does not exist."""
    if comparison != "masks":
        return None
    folder = out / f"segmenter-{seed}"
    if not (folder / "network" / "network.json").exists():
        train(store, {**BUDGET, "recipe": "report", "seed": seed}, None, folder)
    return folder / "network"


def table(comparison: str, results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: one line for each variant, mean and range over the seeds."""
    names = ["val_mae", "val_pixel_metric"]
    adversarial = comparison in ("stability", "remedies")
    ends = ["train_d_accuracy", "train_d_gap"] if adversarial else []
    lines = [
        "| variant | "
        + " | ".join([*names, *(f"{name[6:]}, last epoch" for name in ends), "s"])
        + " |",
        "|---" * (2 + len(names + ends)) + "|",
    ]
    for variant, runs in results.items():
        cells = [spread([run["best"][name] for run in runs]) for name in names]
        for name in ends:
            found = [[row[name] for row in run["history"].values() if name in row] for run in runs]
            cells.append(spread([values[-1] for values in found]) if all(found) else "–")
        cells.append(f"{statistics.mean(run['seconds'] for run in runs):.0f}")
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean (least to greatest)."""
    digits = 1 if max(values) >= 10 else 3
    mean = f"{statistics.mean(values):.{digits}f}"
    return (
        mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"
    )


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Validation MAE, the discriminator's accuracy and gap over the steps; a line for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = {
        "val_mae": "validation MAE (counts)",
        "train_d_accuracy": "discriminator: share told right",
        "train_d_gap": "D(real) - D(painted)",
    }
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    for number, (variant, runs) in enumerate(results.items()):
        for run in runs:
            for axis, name in zip(axes, panels, strict=True):
                points = [
                    (int(step), row[name]) for step, row in run["history"].items() if name in row
                ]
                axis.plot(
                    *zip(*points, strict=True),
                    color=f"C{number}",
                    label=variant if run is runs[0] else None,
                    linewidth=1.2,
                )
    for axis, title in zip(axes, panels.values(), strict=True):
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparison", choices=COMPARISONS)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="variants, comma-separated; empty: all")
    parser.add_argument("--curves", type=Path, help="picture to write")
    given = parser.parse_args()
    store, out = Store(given.store), given.out / given.comparison
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in map(int, given.seeds.split(",")):
        segmenter = segmenter_for(store, given.comparison, seed, given.out)
        for variant, settings in COMPARISONS[given.comparison].items():
            if given.only and variant not in given.only.split(","):
                continue
            name = f"{variant.replace(' ', '_')}-{seed}"
            path, folder = out / f"{name}.json", out / f"{name}.partial"
            if not path.exists():
                result = train(store, {**settings, "seed": seed}, segmenter, folder)
                write_json(path, result)
                shutil.rmtree(folder)
            results.setdefault(variant, []).append(json.loads(path.read_text()))
    print(table(given.comparison, results))
    if given.curves:
        draw(results, given.curves)


if __name__ == "__main__":
    main()
