"""`mlflow run . -P plate=…`: the whole way, a parent run with one child run for each step."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adipocyte.config import (
    EvaluateConfig,
    GeneratorConfig,
    MainConfig,
    PreprocessConfig,
    RegisterConfig,
    SegmenterConfig,
    build,
    plain,
    spelled,
)
from adipocyte.errors import ConfigError, RunError
from adipocyte.system.files import short_digest
from entrypoints.command import command, only

if TYPE_CHECKING:
    from mlflow.entities import Run

    from adipocyte.store.reader import Store


@command(MainConfig, PreprocessConfig, SegmenterConfig, GeneratorConfig)
def main(config: MainConfig, extra: dict[str, Any]) -> None:
    """Preprocess a plate, train every network, register the model and evaluate it.

    Any setting of a step may be given too. After an interruption, the same command keeps the
    networks that were ready and resumes the one that was in training.
    """
    import mlflow

    from adipocyte.delivery.runs.runs import (
        SETTINGS_FILE,
        VERSION_TAG,
        adopt_children,
        interrupted_run,
        step_run,
    )
    from adipocyte.plate.scan import find_images
    from adipocyte.store.reader import Store

    settings = {**plain(config), **extra}
    wanted = build(PreprocessConfig, only(PreprocessConfig, settings))
    find_images(  # the step reads what is in them
        wanted.plate,
        plate_name=wanted.plate_name,
        stain_z=wanted.stain_z,
        layout=wanted.layout,
        channels=wanted.channels,
        magnification=wanted.magnification,
        um_per_px=wanted.um_per_px,
    )
    digest = short_digest(settings)
    before = interrupted_run("main", digest)
    with step_run("main", config, settings=digest) as run:
        mlflow.log_params({f"config.{name}": value for name, value in extra.items()})
        mlflow.log_dict(settings, SETTINGS_FILE)
        parent = run.info.run_id
        if before:
            adopt_children(before, parent)
        run_step("preprocess", only(PreprocessConfig, settings))
        store = Store(config.store)
        runs = train_all(parent, store, settings)
        registered = run_step("register", only(RegisterConfig, {**settings, **runs}))
        model = f"models:/{config.name}/{registered.data.tags[VERSION_TAG]}"
        run_step("evaluate", only(EvaluateConfig, settings | {"model": model}))
    print(f"{model} is registered as {registered.data.tags['adipocyte.alias']}. Next: mlflow ui")


def train_all(parent: str, store: "Store", settings: dict[str, Any]) -> dict[str, str]:
    """Train every network: one for all stains under recipe=shared, else one for each.

    Returns the runs by their settings of `register`.
    """
    targets = store.manifest.targets
    groups = [targets] if settings["recipe"] == "shared" else [(target,) for target in targets]
    asked = [only(GeneratorConfig, settings | {"target": ",".join(group)}) for group in groups]
    runs: dict[str, str] = {}
    if any(build(GeneratorConfig, given).sees_mask for given in asked):
        segmenter = train(parent, store, "train_segmenter", only(SegmenterConfig, settings))
        runs["segmenter"] = segmenter
    only_segmenter = dict(runs)
    for group, given in zip(groups, asked, strict=True):
        run_id = train(parent, store, "train_gan", given | only_segmenter)
        runs |= {target.lower(): run_id for target in group}
    return runs


def train(parent: str, store: "Store", step: str, settings: dict[str, Any]) -> str:
    """Run a training step, or what an interruption left of it. Returns the id of the step's run.

    A training among the children of the run *parent* that is ready is kept, one that was begun is
    resumed.
    """
    from adipocyte.delivery.runs.runs import child_of

    child = child_of(parent, step, store.digest, settings.get("target", ""))
    if child is None:
        return run_step(step, settings).info.run_id
    if child.info.status == "FINISHED":
        print(f"{child.info.run_name} is ready from before (run {child.info.run_id}).")
        return child.info.run_id

    from adipocyte.delivery.runs.training import is_resumable  # PyTorch comes with it

    if not is_resumable(child.info.run_id, store):
        return run_step(step, settings).info.run_id
    run_step(step, settings | {"resume": child.info.run_id})
    return child.info.run_id


def run_step(entry_point: str, settings: dict[str, Any]) -> "Run":
    """Run one entry point as a child of the active run. Returns the finished run.

    Raises RunError when it fails.
    """
    import mlflow

    # The step runs in this same environment, so the shell must find this python first.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    try:
        submitted = mlflow.projects.run(
            uri=project_uri(),
            entry_point=entry_point,
            parameters={name: spelled(value) for name, value in settings.items()},
            env_manager="local",
        )
    except mlflow.exceptions.ExecutionException as error:
        raise RunError(
            f"the step {entry_point} failed, as it says above",
            "mend that and run the same command again",
        ) from error
    return mlflow.get_run(submitted.run_id)


def project_uri() -> str:
    """The project's folder as MLflow takes it: from here, because it cuts an address at its "#".

    Raises ConfigError when this command was not started in the project's folder and the way there
    has a "#".
    """
    project = Path(__file__).parent.parent
    way = os.path.relpath(project)
    if "#" in way:
        raise ConfigError(
            f"MLflow cannot start a step in {project} from here, because its name has a #",
            f"start the command there: cd {shlex.quote(str(project))}",
        )
    return way


if __name__ == "__main__":
    main()
