"""What was measured as one page to look at."""

from adipocyte.measuring.report.page import page

__all__ = ["page"]
