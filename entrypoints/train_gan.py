"""`mlflow run . -e train_gan -P target=A2`: one generator."""

from adipocyte.config import GeneratorConfig
from entrypoints.command import command, next_command


@command(GeneratorConfig)
def train_gan(config: GeneratorConfig) -> None:
    """Train the generator of one target: A1 nuclei, A2 lipid droplets or A3 cytoplasm.

    A1 needs a segmenter.
    """
    from adipocyte.delivery.runs.runs import segmenter_for, segmenter_of
    from adipocyte.delivery.runs.training import resumed, training_run
    from adipocyte.evaluation.training_metric import TrainingFeatureMetric
    from adipocyte.store.reader import Store
    from adipocyte.training.generator import train_generator

    config = resumed(config, "train_gan")
    store = Store(config.store)
    wanted = config.segmenter
    if config.target == "A1" and config.resume:
        wanted = segmenter_of(config.resume)
    features = None
    if config.select != "pixels":
        features = TrainingFeatureMetric(store, config.target, config.select_fields)
    with (
        segmenter_for(config.target, store.digest, wanted) as (segmenter, tags),
        training_run("train_gan", config, store, **tags) as training,
    ):
        best = train_generator(
            store, config, segmenter, training.folder, training.tracker, features
        )
        training.finish(best)
    if training.run_id is None:  # the other processes of torchrun
        return
    print(
        f"{config.target}: MAE {best['val_mae']:.1f} counts on the validation wells "
        f"(run {training.run_id})."
    )
    print(f"Next: {next_command('register', config.store)}")


if __name__ == "__main__":
    train_gan()
