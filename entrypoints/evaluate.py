"""`mlflow run . -e evaluate`: a registered model on the held-out wells."""

from pathlib import Path

from adipocyte.config import EvaluateConfig
from entrypoints.command import command


@command(EvaluateConfig)
def evaluate(config: EvaluateConfig) -> None:
    """Judge a registered model on the held-out wells: MAE, pixel metric, PSNR, SSIM, Pearson r, with and without histogram matching."""
    from adipocyte.store.reader import Store

    store = Store(Path(config.store))

    import mlflow

    from adipocyte.delivery.registry import load_stainer
    from adipocyte.delivery.tracking import log_table, step_run
    from adipocyte.evaluation.fields import judge, summary, table
    from adipocyte.evaluation.pictures import preview

    stainer = load_stainer(config.model)
    with step_run("evaluate", config, store=store.digest):
        rows = judge(stainer, store, config.wells)
        figures = summary(rows)
        mlflow.log_metrics(figures)
        log_table([row.flat() for row in rows], "fields")
        for key in store.keys(config.wells)[:8]:
            mlflow.log_figure(preview(stainer, store, key), f"fields/{str(key).replace(' ', '_')}.png")
    print(table(stainer.manifest.targets, figures))


if __name__ == "__main__":
    evaluate()
