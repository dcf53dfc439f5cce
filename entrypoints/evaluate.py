"""`mlflow run . -e evaluate`: paintings against the true stains."""

from adipocyte.config import EvaluateConfig
from adipocyte.errors import ConfigError
from entrypoints.command import command


@command(EvaluateConfig)
def evaluate(config: EvaluateConfig) -> None:
    """Judge as the challenge did: pixels, CellProfiler's 99 features and their mean, with a report.

    A registered model (-P model) or training runs (-P runs) paint the held-out wells of a store, or
    two folders of images are compared (-P truth and -P prediction).
    """
    if bool(config.truth) != bool(config.prediction) or (config.truth and config.runs):
        raise ConfigError(
            "judge one thing",
            "-P model=<address>, or -P runs=<ids>, or -P truth=<folder> and -P prediction=<folder>",
        )

    from adipocyte.delivery.models.evaluate import (
        REPORT,
        evaluate_folders,
        evaluate_model,
        evaluate_runs,
    )
    from adipocyte.evaluation.tables import table

    if config.truth:
        judgement = evaluate_folders(config)
    elif config.runs:
        judgement = evaluate_runs(config)
    else:
        judgement = evaluate_model(config)
    print(table(judgement))
    print(f"\nThe fields as pictures, and every measurement: {REPORT} in the run, see mlflow ui")


if __name__ == "__main__":
    evaluate()
