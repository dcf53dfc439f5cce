"""`mlflow run . -e train_gan -P target=A2`: one generator, of one stain or several."""

from dataclasses import replace

import click

from adipocyte.config import GeneratorConfig
from entrypoints.command import command, next_command


@command(GeneratorConfig)
def train_gan(config: GeneratorConfig) -> None:
    """Train a generator: of A1 nuclei, A2 lipid droplets, A3 cytoplasm, or several of them.

    One of A1 needs a segmenter, except under recipe=shared.
    """
    from adipocyte.delivery.models.start import start_of, with_start
    from adipocyte.delivery.runs.runs import segmenter_for, segmenter_of
    from adipocyte.delivery.runs.training import resumed, training_run
    from adipocyte.networks.start import differences
    from adipocyte.store.reader import Store
    from adipocyte.training.generator import train_generator
    from adipocyte.training.pace import fitted
    from adipocyte.training.seen import seen_um_per_px

    config = with_start(resumed(replace(config, target=",".join(config.targets)), "train_gan"))
    store = Store(config.store)
    wanted = segmenter_of(config.resume) if config.resume else config.segmenter
    features = None
    if config.needs_features:
        from adipocyte.evaluation.training_metric import TrainingFeatureMetric

        features = TrainingFeatureMetric(store, config.targets, config.select_fields)
    with (
        segmenter_for(config, store.digest, wanted) as (segmenter, tags),
        start_of(config) as (start, origin),
    ):
        normalisation = store.manifest.origin.settings["normalisation"]
        seen = seen_um_per_px(store, config.finest_um_per_px)
        about = (store.manifest.n_z_planes, normalisation, seen)
        for note in differences(start, *about) if start else ():
            click.echo(f"Note: {note}.", err=True)
        config = fitted(store, config, segmenter, features, start)
        with training_run("train_gan", config, store, **tags, **origin) as training:
            best = train_generator(
                store, config, segmenter, training.folder, training.tracker, features, start
            )
            training.finish(best)
    if training.run_id is None:  # the other processes of torchrun
        return
    found = ", ".join(f"{target} {best[f'val_mae_{target}']:.1f}" for target in config.targets)
    print(f"MAE on the validation wells: {found} counts (run {training.run_id}).")
    print(f"Next: {next_command('register', config.store)}")


if __name__ == "__main__":
    train_gan()
