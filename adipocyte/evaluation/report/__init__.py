"""The evaluation as one page to look at."""

from adipocyte.evaluation.report.page import page

__all__ = ["page"]
