"""`mlflow run . -e train_segmenter`: the network that finds nuclei in brightfield."""

from adipocyte.config import SegmenterConfig
from entrypoints.command import command, next_command


@command(SegmenterConfig)
def train_segmenter(config: SegmenterConfig) -> None:
    """Train the network that finds nuclei in brightfield, on the masks of the prepared store."""
    from adipocyte.delivery.runs.training import resumed, training_run
    from adipocyte.store.reader import Store
    from adipocyte.training import segmenter

    config = resumed(config, "train_segmenter")
    store = Store(config.store)
    with training_run("train_segmenter", config, store) as training:
        best = segmenter.train_segmenter(store, config, training.folder, training.tracker)
        training.finish(best)
    if training.run_id is None:  # the other processes of torchrun
        return
    print(f"Dice {best['val_dice']:.3f} on the validation wells (run {training.run_id}).")
    print(f"Next: {next_command('train_gan', config.store, target='A1')}")


if __name__ == "__main__":
    train_segmenter()
