r"""A long training on a GPU: which of generator and discriminator wins, and what `stable` changes.

    mlflow run . -e simulate -P out=long/plate -P height_px=1024 -P width_px=1024
    mlflow run . -e preprocess -P plate=long/plate -P store=long/store \
        -P validation_wells=B03 -P test_wells=C02 -P align=none
    python -m benchmarks.convergence train --store long/store --out long/base
    python -m benchmarks.convergence alone --store long/store        # on a CPU

`train` trains A2 under `recipe=stable`. For A2 that is `report` with a moving average beside it,
which changes what is kept and not what is learnt. So each epoch validates both, the generator as it
is (`raw_val_…`, `report`) and its average (`val_…`, `stable`), and one training shows both. The
same command resumes an interrupted training. The metrics by step are in <out>/history.json.

`alone` trains the discriminator against a generator that never learns: it paints the true stain
blurred by one pixel.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from adipocyte.domain import BRIGHTFIELD
from adipocyte.networks.discriminator import Discriminator
from adipocyte.networks.losses import discriminator_loss
from adipocyte.store.reader import Store
from adipocyte.training import generator
from adipocyte.training.collapse import discriminator_metrics
from benchmarks.comparison import train

LONG: dict[str, Any] = {
    "target": "A2",
    "recipe": "stable",
    "encoder_weights": "none",
    "epochs": 32,
    "constant_epochs": 16,
    "epoch_steps": 150,
    "workers": 4,
}
RATES, N_STEPS, BATCH, SIDE_PX = (1e-3, 1e-5), 400, 8, 64  # of the discriminator alone


def train_both(store: Store, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train in *folder* and validate the generator beside its average. Returns as `train` does."""
    build_networks, validate_generator = generator.build_networks, generator.validate_generator
    built: list[generator.Raw] = []

    def build(*given: Any) -> generator.Raw:
        built.append(build_networks(*given))
        return built[0]

    def validate(shown: nn.Module, *given: Any) -> tuple[dict[str, float], NDArray[np.uint8]]:
        metrics, picture = validate_generator(shown, *given)
        raw, _ = validate_generator(built[0].generator.eval(), *given)
        return metrics | {f"raw_{name}": value for name, value in raw.items()}, picture

    with patch.multiple(generator, build_networks=build, validate_generator=validate):
        return train(store, settings, None, folder)


def true_and_blurred(store: Store) -> list[NDArray[np.float32]]:
    """Each training field as (9, Y, X) in network units: planes, A2, and A2 blurred."""
    fields = []
    for key in store.keys("train"):
        planes = store.field_scaling(key, BRIGHTFIELD).normalise(store.planes(key))
        real = store.field_scaling(key, "A2").normalise(store.target(key, "A2"))
        fields.append(np.concatenate([planes, real[None], gaussian_filter(real, 1.0)[None]]))
    return fields


def draw_batch(fields: list[NDArray[np.float32]], random: np.random.Generator) -> Tensor:
    """Random patches of *fields*, (BATCH, 9, SIDE_PX, SIDE_PX)."""
    patches = []
    for _ in range(BATCH):
        field = fields[random.integers(len(fields))]
        y, x = (int(random.integers(0, side - SIDE_PX)) for side in field.shape[1:])
        patches.append(field[:, y : y + SIDE_PX, x : x + SIDE_PX])
    return torch.from_numpy(np.stack(patches))


def train_alone(store: Store) -> None:
    """Train the report's discriminator in both arithmetics and at two rates; print its metrics."""
    fields = true_and_blurred(store)
    for rate, precision in product(RATES, ("32", "bf16")):
        torch.manual_seed(0)
        random, discriminator = np.random.default_rng(0), Discriminator(7, 64)
        optimizer, seen = torch.optim.Adam(discriminator.parameters(), lr=rate), []
        for step in range(1, N_STEPS + 1):
            planes, real, blurred = draw_batch(fields, random).split([7, 1, 1], dim=1)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                on_real, on_fake = discriminator(planes, real), discriminator(planes, blurred)
            loss = discriminator_loss(on_real.float(), on_fake.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            accuracy = discriminator_metrics(on_real, on_fake)["d_accuracy"]
            seen.append((loss.item(), accuracy.item()))
            if step % 100 == 0:
                d_loss, d_accuracy = np.mean(seen[-50:], axis=0).round(4).tolist()
                found = {"step": step, "d_loss": d_loss, "d_accuracy": d_accuracy}
                print(json.dumps({"rate": rate, "precision": precision, **found}), flush=True)


def main() -> None:
    """Train as asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "alone"))
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("long/base"), help="folder of `train`")
    parser.add_argument(
        "--set", type=json.loads, default={}, help="settings as JSON: '{\"workers\": 8}'"
    )
    given = parser.parse_args()
    if given.what == "alone":
        train_alone(Store(given.store))
    else:
        found = train_both(Store(given.store), LONG | given.set, given.out)
        print(json.dumps(found["best"], indent=1))


if __name__ == "__main__":
    main()
