"""`mlflow run . -e relocate`: after the project was moved, MLflow's database says so."""

from adipocyte.config import RelocateConfig
from entrypoints.command import command


@command(RelocateConfig)
def relocate(config: RelocateConfig) -> None:
    """Change the folder of all artifacts in MLflow's database, after they were moved.

    Stop everything that uses the database first, and keep a copy of it.
    """
    from adipocyte.delivery.runs import relocate as addresses

    n_changed = addresses.relocate(config.before, config.now)
    print(f"{n_changed} addresses lay in {config.before} and lie in {config.now.resolve()} now.")
    print("Next: mlflow ui")


if __name__ == "__main__":
    relocate()
