"""`mlflow run . -e measure`: stained images to tables of nuclei, cells, droplets and wells."""

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
    from adipocyte.measuring.pictures import outlines
    from adipocyte.measuring.plate import WELLS, measure_plate, outlined
    from adipocyte.plate.problems import problem_table

    with step_run("measure", config):
        measured = measure_plate(
            config.images,
            config.out,
            magnification=config.magnification,
            labels=config.labels,
            csv=config.csv,
            workers=config.workers,
        )
        log_table(measured.wells, "wells")
        mlflow.log_artifact(str(measured.tables[WELLS]))
        counts = {
            name.removeprefix("Image_Count_"): sum(int(row[name]) for row in measured.wells)
            for name in measured.wells[0]
            if name.startswith("Image_Count_")
        }
        mlflow.log_metrics(
            {"fields": len(measured.fields), "left_out": len(measured.problems), **counts}
        )
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
    print(f"Tables: {', '.join(str(path) for path in measured.tables.values())}")


if __name__ == "__main__":
    measure()
