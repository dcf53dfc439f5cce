"""`mlflow run . -e train_gan -P target=A2`: one generator."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from adipocyte.config import GeneratorConfig
from entrypoints.command import command, next_command


@command(GeneratorConfig)
def train_gan(config: GeneratorConfig) -> None:
    """Train the generator of one target: A1 nuclei (needs a segmenter), A2 lipid droplets, A3 cytoplasm."""
    from adipocyte.delivery.runs.runs import network_of, newest_run, segmenter_of
    from adipocyte.delivery.runs.training import resumed, training_run
    from adipocyte.evaluation.training_metric import TrainingFeatureMetric
    from adipocyte.store.reader import Store
    from adipocyte.training.generator import train_generator

    config = resumed(config, "train_gan")
    store = Store(config.store)
    network: AbstractContextManager[Path | None] = nullcontext()
    tags = {"target": config.target}
    if config.target == "A1":
        before = segmenter_of(config.resume) if config.resume else ""
        tags["segmenter"] = (
            before or config.segmenter or newest_run("train_segmenter", store.digest)
        )
        network = network_of(tags["segmenter"], "train_segmenter", store.digest)
    features = (
        None
        if config.select == "pixels"
        else TrainingFeatureMetric(store, config.target, config.select_fields)
    )
    with network as segmenter, training_run("train_gan", config, store, **tags) as training:
        best = train_generator(
            store, config, segmenter, training.folder, training.tracker, features
        )
        training.finish(best)
    if training.run_id is None:  # the other processes of torchrun
        return
    print(
        f"{config.target}: MAE {best['val_mae']:.1f} counts on the validation wells (run {training.run_id})."
    )
    print(f"Next: {next_command('register', config.store)}")


if __name__ == "__main__":
    train_gan()
