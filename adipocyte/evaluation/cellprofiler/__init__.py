"""What CellProfiler finds and measures in a field, without CellProfiler."""

from adipocyte.evaluation.cellprofiler.features import COLUMNS, SMALLEST_PX, Measured, measure

__all__ = ["COLUMNS", "SMALLEST_PX", "Measured", "measure"]
