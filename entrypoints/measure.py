"""`mlflow run . -e measure`: stained images to tables of nuclei, cells, droplets and wells."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adipocyte.config import MeasureConfig
from entrypoints.command import command

if TYPE_CHECKING:
    from adipocyte.measuring.plate import MeasuredPlate

REPORT = "report.html"
_MOST_SHOWN = 5


@command(MeasureConfig)
def measure(config: MeasureConfig) -> None:
    """Measure stained images, painted or true: a row for each nucleus, cell, droplet and well.

    Objects and columns are those of the challenge's CellProfiler pipelines. The same command
    continues where it was stopped, and measures fields again whose files have changed.
    """
    import contextlib

    import mlflow

    from adipocyte.delivery.runs.runs import log_table, step_run
    from adipocyte.measuring.pictures import heat_maps, outlines
    from adipocyte.measuring.plate import DOSES, GRADES, WELLS, here, measure_plate, outlined
    from adipocyte.measuring.report import page
    from adipocyte.system.files import replacing

    with step_run("measure", config), contextlib.ExitStack() as stack:
        crew = here(config.workers)
        if config.cluster:
            from adipocyte.delivery.batch.measuring import measuring_at

            crew = stack.enter_context(measuring_at(config.cluster, config.worker_cpus))
        measured = measure_plate(
            config.images,
            config.out,
            magnification=config.magnification,
            um_per_px=config.um_per_px,
            labels=config.labels,
            csv=config.csv,
            plate_map=config.plate_map,
            crew=crew,
        )
        log_table(measured.wells, "wells")
        for name in (WELLS, DOSES, GRADES):
            if name in measured.tables:
                mlflow.log_artifact(str(measured.tables[name]))
        if measured.controls:
            log_table(measured.controls, "controls")
        mlflow.log_metrics(
            {"fields": len(measured.fields), "left_out": len(measured.problems)} | measured.counts
        )
        mlflow.log_figure(heat_maps(measured.wells), "plate.png")
        middle = measured.fields[len(measured.fields) // 2]
        shown = outlined(config.images, middle, measured.graded)
        mlflow.log_figure(outlines(shown.stains, shown.found, shown.key), "outlines.png")
        report = page(measured, shown)
        with replacing(config.out / REPORT) as partial:
            partial.write_text(report, "utf-8")
        mlflow.log_text(report, "measured.html")
    print("\n".join(_told(measured)))
    print(f"To look at: {config.out / REPORT}")


def _told(measured: "MeasuredPlate") -> Iterator[str]:
    """What a person should know of what was measured, line by line."""
    from adipocyte.measuring.plate import without
    from adipocyte.measuring.screen import best_first
    from adipocyte.plate.problems import problem_table

    if measured.problems:
        yield "Left out:"
        yield problem_table(measured.problems)
    yield from without(measured.lacking)
    listed = ", ".join(f"{count} {name}" for name, count in measured.counts.items())
    yield f"{listed} in {len(measured.fields)} fields, {measured.n_new} measured now."
    if measured.graded:
        yield from measured.graded.sentences()
    for row in best_first(measured.controls)[:_MOST_SHOWN]:
        yield f"Controls, {row['Feature']}: Z' {row['Z_prime']:.2f}, SSMD {row['SSMD']:.1f}."
    yield f"Tables: {', '.join(str(path) for path in measured.tables.values())}"


if __name__ == "__main__":
    measure()
