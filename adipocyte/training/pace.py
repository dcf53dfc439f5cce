"""How many epochs fit into a number of minutes, by the pace of this machine."""

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from adipocyte.config import GeneratorConfig
from adipocyte.errors import ConfigError
from adipocyte.networks.start import Start
from adipocyte.store.reader import Store
from adipocyte.training.generator import n_steps_of, train_generator
from adipocyte.training.tracker import Silent
from adipocyte.training.validation import FeatureMetric

_PROBE_STEPS = 12


class _Watch(Silent):
    """Notes when each epoch ended, and how long its steps took, in seconds."""

    def __init__(self) -> None:
        self.ended_s: list[float] = []
        self.steps_s: list[float] = []

    def metrics(self, rows: dict[int, dict[str, float]]) -> None:
        for row in rows.values():
            if "epoch" in row:
                self.ended_s.append(time.monotonic())
                self.steps_s.append(row["seconds"])


def fitted(
    store: Store,
    config: GeneratorConfig,
    segmenter: Path | None,
    features: FeatureMetric | None = None,
    trained: Start | None = None,
) -> GeneratorConfig:
    """*config* with as many epochs as fit into its minutes, at least one.

    A short training of its own, of which nothing is kept, measures the pace; its time counts. The
    number of epochs is what repeats the training bit for bit. *trained* is the network that the
    training starts from, if any. Raises ConfigError when several processes train, because each
    would measure another pace, and all that `train_generator` raises.
    """
    if not config.minutes or config.resume:
        return config
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "several processes cannot train for a number of minutes",
            "say for how many epochs: -P minutes=0 -P epochs=<number>",
        )
    start, watch = time.monotonic(), _Watch()
    probe = replace(config, epochs=2, epoch_steps=_PROBE_STEPS, patience=0)
    with tempfile.TemporaryDirectory() as scratch:
        train_generator(store, probe, segmenter, Path(scratch), watch, features, trained)
    # Of the second epoch, because the first also sets everything up.
    validation_s = watch.ended_s[1] - watch.ended_s[0] - watch.steps_s[1]
    epoch_s = n_steps_of(config, store) * watch.steps_s[1] / _PROBE_STEPS + validation_s
    left_s = 60 * config.minutes - (time.monotonic() - start)
    return replace(config, epochs=max(1, int(left_s / epoch_s)))
