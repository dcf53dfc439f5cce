"""`mlflow run . -e measure`: stained images to tables of nuclei, cells, droplets and wells."""

import math
from collections.abc import Mapping

from adipocyte.config import MeasureConfig
from entrypoints.command import command

_MOST_NAMED = 5


@command(MeasureConfig)
def measure(config: MeasureConfig) -> None:
    """Measure stained images, painted or true: a row for each nucleus, cell, droplet and well.

    Objects and columns are those of the challenge's CellProfiler pipelines. The same command
    continues where it was stopped, and measures fields again whose files have changed.
    """
    import mlflow

    from adipocyte.delivery.runs.runs import log_table, step_run
    from adipocyte.domain import TARGET_NAMES
    from adipocyte.measuring.pictures import heat_maps, outlines
    from adipocyte.measuring.plate import DOSES, WELLS, measure_plate, outlined
    from adipocyte.plate.problems import problem_table

    with step_run("measure", config):
        measured = measure_plate(
            config.images,
            config.out,
            magnification=config.magnification,
            labels=config.labels,
            csv=config.csv,
            plate_map=config.plate_map,
            workers=config.workers,
        )
        log_table(measured.wells, "wells")
        for name in (WELLS, DOSES):
            if name in measured.tables:
                mlflow.log_artifact(str(measured.tables[name]))
        if measured.controls:
            log_table(measured.controls, "controls")
        counts = {
            name.removeprefix("Image_Count_"): sum(int(row[name]) for row in measured.wells)
            for name in measured.wells[0]
            if name.startswith("Image_Count_")
        }
        mlflow.log_metrics(
            {"fields": len(measured.fields), "left_out": len(measured.problems), **counts}
        )
        mlflow.log_figure(heat_maps(measured.wells), "plate.png")
        shown = measured.fields[len(measured.fields) // 2]
        mlflow.log_figure(outlines(*outlined(shown), shown.key), "outlines.png")
    if measured.problems:
        print("Left out:")
        print(problem_table(measured.problems))
    for target, keys in measured.lacking.items():
        named = ", ".join(map(str, keys[:_MOST_NAMED]))
        more = f" and {len(keys) - _MOST_NAMED} more" if len(keys) > _MOST_NAMED else ""
        print(
            f"Without {target} ({TARGET_NAMES[target]}), so without what needs it: {named}{more}."
        )
    found = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{found} in {len(measured.fields)} fields, {measured.n_new} measured now.")
    for row in sorted(measured.controls, key=_apart, reverse=True)[:_MOST_NAMED]:
        print(f"Controls, {row['Feature']}: Z' {row['Z_prime']:.2f}, SSMD {row['SSMD']:.1f}.")
    print(f"Tables: {', '.join(str(path) for path in measured.tables.values())}")


def _apart(row: Mapping[str, str | float]) -> float:
    """How well a feature tells the controls apart; least where it does not say."""
    return -math.inf if math.isnan(float(row["Z_prime"])) else float(row["Z_prime"])


if __name__ == "__main__":
    measure()
