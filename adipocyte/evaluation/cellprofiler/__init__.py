"""What CellProfiler finds and measures in a field, without CellProfiler."""

from adipocyte.evaluation.cellprofiler.features import COLUMNS, Measured, measure, smallest_px

__all__ = ["COLUMNS", "Measured", "measure", "smallest_px"]
