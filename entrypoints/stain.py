"""`mlflow run . -e stain`: a raw plate through a registered model into a folder of TIFFs."""

from pathlib import Path

from adipocyte.config import StainConfig
from adipocyte.errors import PlateError
from entrypoints.command import command


@command(StainConfig)
def stain(config: StainConfig) -> None:
    """Paint every field of a raw plate into uint16 TIFFs under the challenge's names. Fields already done are skipped."""
    import mlflow

    from adipocyte.delivery.batch import shall_compile, stain_plate
    from adipocyte.delivery.registry import load_stainer
    from adipocyte.delivery.tracking import step_run
    from adipocyte.plate.scan import problem_table, scan_plate
    from adipocyte.staining.machine import pin_threads

    scanned = scan_plate(Path(config.plate), targets=())  # a wrong folder should be told before a model is fetched
    pin_threads()
    compiled = shall_compile(config.compile, len(scanned.fields))
    stainer = load_stainer(config.model, config.memory_mb or None, precision=config.precision, compiled=compiled)
    with step_run("stain", config):
        intensities = None if config.intensities == "kept" else config.intensities
        ways = {"intensities": intensities, "tile_px": config.tile_px or None, "tta": config.tta == "on"}
        result = stain_plate(stainer, Path(config.plate), Path(config.out), **ways)
        mlflow.log_metrics({"painted": len(result.painted), "skipped": len(result.skipped), "problems": len(result.problems)})
        mlflow.log_dict({str(key): list(sentences) for key, sentences in result.warnings.items()}, "warnings.json")
        for key, sentences in result.warnings.items():
            for sentence in sentences:
                print(f"warning, field {key}: {sentence}")
        print(f"{len(result.painted)} fields painted into {config.out}, {len(result.skipped)} were there already.")
        if result.problems:
            table = problem_table(result.problems)
            raise PlateError(f"some fields could not be painted:\n{table}\nMend them and run the same command again")


if __name__ == "__main__":
    stain()
