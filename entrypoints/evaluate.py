"""`mlflow run . -e evaluate`: a registered model, training runs, or two folders of images against the true stains."""

from adipocyte.config import EvaluateConfig
from adipocyte.errors import ConfigError
from entrypoints.command import command


@command(EvaluateConfig)
def evaluate(config: EvaluateConfig) -> None:
    """Judge as the challenge judged: pixels, CellProfiler's 99 features and their mean, with a report to look at.

    A registered model (-P model) or training runs (-P runs) paint the held-out wells of a store; or two folders of images are compared
    (-P truth and -P prediction).
    """
    if bool(config.truth) != bool(config.prediction) or (config.truth and config.runs):
        raise ConfigError(
            "judge one thing: -P model=<address>, or -P runs=<ids>, or -P truth=<folder> and -P prediction=<folder>"
        )

    from adipocyte.delivery.models.evaluate import (
        REPORT,
        evaluate_folders,
        evaluate_model,
        evaluate_runs,
    )
    from adipocyte.evaluation.tables import table

    judged = evaluate_folders if config.truth else evaluate_runs if config.runs else evaluate_model
    print(table(judged(config)))
    print(f"\nThe fields as pictures, and every figure: {REPORT} in the run, see mlflow ui")


if __name__ == "__main__":
    evaluate()
