"""`make demo`: the whole way on a simulated plate, with a table and a picture at its end."""

import time

from adipocyte.config import DemoConfig, SimulateConfig
from entrypoints.command import command
from entrypoints.main import run_step

# The challenge's eight wells, and three more, so that as many fields judge as train: by four the
# feature metric is chance (docs/measurements/training.md, "How many fields judge").
WELLS = f"{SimulateConfig.wells},E02,E03,E04"
SPLIT = {"validation_wells": "C03", "test_wells": "C02,C04,E02,E03,E04"}


@command(DemoConfig)
def demo(config: DemoConfig) -> None:
    """Simulate a small plate, run `main` on it, and stain a held-out field."""
    import mlflow

    from adipocyte.delivery.models.evaluate import REPORT, TABLE
    from adipocyte.delivery.models.load import load_stainer
    from adipocyte.delivery.runs.runs import VERSION_TAG, newest_run, step_run
    from adipocyte.evaluation.pictures import preview
    from adipocyte.store.reader import Store
    from adipocyte.system.files import write_json

    start, out = time.monotonic(), config.out
    plate, folder = out / "plate", out / "store"
    with step_run("demo", config):
        simulated = {"out": plate, "magnifications": "20", "wells": WELLS, "fovs": 2}
        run_step("simulate", simulated | {"seed": config.seed})
        # Of training, so that the whole stays below ten minutes on two cores.
        given = {"plate": plate, "store": folder, "minutes": 5.5, "seed": config.seed}
        run_step("main", given | SPLIT)
        store = Store(folder)
        version = mlflow.get_run(newest_run("register", store.digest)).data.tags[VERSION_TAG]
        evaluation = mlflow.get_run(newest_run("evaluate", store.digest))
        metrics, artifacts = evaluation.data.metrics, evaluation.info.artifact_uri
        table = mlflow.artifacts.load_text(f"{artifacts}/{TABLE}")
        (out / REPORT).write_text(mlflow.artifacts.load_text(f"{artifacts}/{REPORT}"))
        model = f"models:/adipocyte/{version}"
        stainer = load_stainer(model)
        picture = preview(stainer, store, store.keys("test")[0])
        picture.savefig(out / "preview.png", dpi=110)
        mlflow.log_figure(picture, "preview.png")
    targets = stainer.manifest.targets
    seconds = round(time.monotonic() - start)
    write_json(
        out / "summary.json",
        {
            "model_uri": model,
            "version": version,
            "mae": {target: metrics[f"mae_{target}"] for target in targets},
            "pearson": {target: metrics[f"pearson_{target}"] for target in targets},
            "combined_metric": metrics["combined_metric"],
            "seconds": seconds,
        },
    )
    wells = ", ".join(store.manifest.split["test"])
    print(f"\n{model}, judged on the held-out wells {wells} after {seconds} s:\n")
    print(table)
    print(f"\nThe picture of a held-out field: {out / 'preview.png'}; all of them: {out / REPORT}")
    print(
        f"Next: make ui, or mlflow models serve -m {model} --env-manager local "
        "(in .venv: source .venv/bin/activate)"
    )


if __name__ == "__main__":
    demo()
