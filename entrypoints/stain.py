"""`mlflow run . -e stain`: a raw plate through a registered model into images of its stains."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adipocyte.config import StainConfig
from adipocyte.errors import PlateError
from entrypoints.command import command

if TYPE_CHECKING:
    from adipocyte.delivery.batch.plate import StainedPlate


@command(StainConfig)
def stain(config: StainConfig) -> None:
    """Paint every field of a raw plate into uint16 TIFFs, or into an OME-Zarr plate.

    Fields already done are skipped.
    """
    import contextlib

    import mlflow

    from adipocyte.delivery.batch.claim import read_own
    from adipocyte.delivery.batch.output import Output
    from adipocyte.delivery.batch.plate import Here, stain_plate
    from adipocyte.delivery.runs.runs import step_run
    from adipocyte.plate.problems import problem_table
    from adipocyte.plate.stained import PLATE_MANIFEST

    with step_run("stain", config), contextlib.ExitStack() as stack:
        crew = Here()
        if config.cluster:
            from adipocyte.delivery.batch.cluster import joined

            crew = stack.enter_context(joined(config.cluster, config.worker_cpus))
        result = stain_plate(config, crew)
        mlflow.log_metrics(
            {
                "painted": len(result.painted),
                "skipped": len(result.skipped),
                "changed": len(result.changed),
                "problems": len(result.problems),
                "refused": len(result.refused),
            }
        )
        mlflow.log_dict(read_own(Output(config.out), PLATE_MANIFEST), PLATE_MANIFEST)
        for line in _warnings(result):
            print(line)
        for key, reason in result.refused.items():
            print(f"not to be believed, field {key}: {reason}")
        for key in result.changed:
            print(f"The files of field {key} have changed since it was painted: painted again.")
        print(
            f"{len(result.painted)} fields painted into {config.out}, "
            f"{len(result.skipped)} were there already."
        )
        if result.problems:
            raise PlateError(
                "some fields could not be painted",
                f"mend them and run the same command again\n{problem_table(result.problems)}",
            )


def _warnings(result: "StainedPlate") -> Iterator[str]:
    """Each warning, with its field; or once, if every one of several fields has it."""
    said = [result.warnings.get(key, ()) for key in result.painted]
    of_all = [one for one in said[0] if all(one in others for others in said)] if said[1:] else []
    for sentence in of_all:
        yield f"warning, every field: {sentence}"
    for key, sentences in result.warnings.items():
        for sentence in sentences:
            if sentence not in of_all:
                yield f"warning, field {key}: {sentence}"


if __name__ == "__main__":
    stain()
