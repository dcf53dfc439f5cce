"""`mlflow run . -e train_segmenter`: the network that finds nuclei in brightfield."""

import tempfile
from pathlib import Path

from adipocyte.config import SegmenterConfig
from entrypoints.command import command, next_command


@command(SegmenterConfig)
def train_segmenter(config: SegmenterConfig) -> None:
    """Train the network that finds nuclei in brightfield, on the masks of the prepared store."""
    from adipocyte.store.reader import Store

    store = Store(Path(config.store))

    import mlflow

    from adipocyte.delivery.tracking import NETWORK, MlflowTracker, step_run
    from adipocyte.training import segmenter

    with step_run("train_segmenter", config, store=store.digest) as run, tempfile.TemporaryDirectory() as scratch:
        best = segmenter.train_segmenter(store, config, Path(scratch), MlflowTracker())
        mlflow.log_metrics({f"best_{name.removeprefix('best_')}": value for name, value in best.items()})
        mlflow.log_artifacts(scratch, NETWORK)
    print(f"Dice {best['val_dice']:.3f} on the validation wells (run {run.info.run_id}).")
    print(f"Next: {next_command('train_gan', config.store, target='A1')}")


if __name__ == "__main__":
    train_segmenter()
