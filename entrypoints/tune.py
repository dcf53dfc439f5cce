"""`mlflow run . -e tune -P target=A2 -P trials=20`: good settings for one generator."""

import importlib.util
import os
from typing import Any

from adipocyte.config import NO_START, GeneratorConfig, TuneConfig, plain, targets_named
from adipocyte.errors import ConfigError
from entrypoints.command import command, next_command, only


@command(TuneConfig, GeneratorConfig)
def tune(config: TuneConfig, extra: dict[str, Any]) -> None:
    """Search for settings of one generator that lower its error on the validation wells.

    A setting of train_gan that is given holds for every trial. The same command resumes an
    interrupted search.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            "tune needs Optuna, which is not installed here", "pip install adipocyte[tune]"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "tune trains each trial in one process, not under torchrun",
            "start python -m entrypoints.tune once for each GPU, with "
            "CUDA_VISIBLE_DEVICES=<number>; they share the study of -P storage",
        )
    from adipocyte.delivery.runs.tune import search
    from adipocyte.store.reader import Store

    # Trials are compared after equal numbers of epochs, and each learns from nothing.
    from_nothing = {"start": NO_START} if config.recipe == "shared" else {}
    given = only(GeneratorConfig, plain(config)) | {"minutes": 0.0} | from_nothing | extra
    best = search(Store(config.store), config, given)
    everyday = {
        name: given[name] for name in ("recipe", "seed") if given[name] != getattr(TuneConfig, name)
    }
    settings = {"target": config.target, **everyday, **from_nothing, **extra, **best.settings}
    print(
        f"{config.target}: trial {best.number} is the best, MAE / median {best.score:.4f} "
        f"on the validation wells (run {best.run_id})."
    )
    print(f"Its settings: {next_command('train_gan', config.store, **settings)}")
    runs = {target.lower(): best.run_id for target in targets_named(config.target)}
    print(f"Next: {next_command('register', config.store, **runs)}")


if __name__ == "__main__":
    tune()
