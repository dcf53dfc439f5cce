"""`mlflow run . -e train_gan -P target=A2`: one generator."""

import tempfile
from pathlib import Path

from adipocyte.config import GeneratorConfig
from entrypoints.command import command, next_command


@command(GeneratorConfig)
def train_gan(config: GeneratorConfig) -> None:
    """Train the generator of one target: A1 nuclei (needs a segmenter), A2 lipid droplets, A3 cytoplasm."""
    from adipocyte.store.reader import Store

    store = Store(Path(config.store))

    import mlflow

    from adipocyte.delivery.tracking import NETWORK, MlflowTracker, network_of, newest_run, step_run
    from adipocyte.training.generator import train_generator

    segmenter, tags = None, {"store": store.digest, "target": config.target}
    if config.target == "A1":
        tags["segmenter"] = config.segmenter or newest_run("train_segmenter", store.digest)
        segmenter = network_of(tags["segmenter"], "train_segmenter", store.digest)
    with step_run("train_gan", config, **tags) as run, tempfile.TemporaryDirectory() as scratch:
        best = train_generator(store, config, segmenter, Path(scratch), MlflowTracker())
        mlflow.log_metrics({f"best_{name.removeprefix('best_')}": value for name, value in best.items()})
        mlflow.log_artifacts(scratch, NETWORK)
    print(f"{config.target}: MAE {best['val_mae']:.1f} counts on the validation wells (run {run.info.run_id}).")
    print(f"Next: {next_command('register', config.store)}")


if __name__ == "__main__":
    train_gan()
