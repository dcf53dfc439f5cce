"""`make demo`: the whole way on a simulated plate, with a table and a picture at its end."""

import time

from adipocyte.config import DemoConfig
from entrypoints.command import command
from entrypoints.main import run_step


@command(DemoConfig)
def demo(config: DemoConfig) -> None:
    """Simulate a small plate, run `main` on it with recipe=fast, stain a held-out field and show what came out."""
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
        run_step("simulate", {"out": plate, "magnifications": "20", "fovs": 2, "seed": config.seed})
        run_step("main", {"plate": plate, "store": folder, "recipe": "fast", "seed": config.seed})
        store = Store(folder)
        version = mlflow.get_run(newest_run("register", store.digest)).data.tags[VERSION_TAG]
        judged = mlflow.get_run(newest_run("evaluate", store.digest))
        figures = judged.data.metrics
        table = mlflow.artifacts.load_text(f"{judged.info.artifact_uri}/{TABLE}")
        (out / REPORT).write_text(
            mlflow.artifacts.load_text(f"{judged.info.artifact_uri}/{REPORT}")
        )
        model = f"models:/adipocyte/{version}"
        stainer = load_stainer(model)
        figure = preview(stainer, store, store.keys("test")[0])
        figure.savefig(out / "preview.png", dpi=110)
        mlflow.log_figure(figure, "preview.png")
    targets = stainer.manifest.targets
    seconds = round(time.monotonic() - start)
    write_json(
        out / "summary.json",
        {
            "model_uri": model,
            "version": version,
            "mae": {target: figures[f"mae_{target}"] for target in targets},
            "pearson": {target: figures[f"pearson_{target}"] for target in targets},
            "combined_metric": figures["combined_metric"],
            "seconds": seconds,
        },
    )
    print(
        f"\n{model}, judged on the held-out wells {', '.join(store.manifest.split['test'])} after {seconds} s:\n"
    )
    print(table)
    print(f"\nThe picture of a held-out field: {out / 'preview.png'}; all of them: {out / REPORT}")
    print(
        f"Next: make ui, or mlflow models serve -m {model} --env-manager local (in .venv: source .venv/bin/activate)"
    )


if __name__ == "__main__":
    demo()
