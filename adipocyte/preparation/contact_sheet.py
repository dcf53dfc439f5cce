"""A contact sheet: many fields on one page, flagged ones first."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from adipocyte.imaging.grey import display_range, to_grey

_MOST_FIELDS = 96
_MOST_COLUMNS = 12
_THUMBNAIL_PX = 160
_LINE_LETTERS = 24
_FLAGGED, _GOOD = "#c00000", "#a0a0a0"


def thumbnail(plane: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """A small grey picture of a (Y, X) *plane* in counts, at most 160 pixels a side.

    It shows the plane from its 1st to its 99.5th percentile.
    """
    step = math.ceil(max(plane.shape) / _THUMBNAIL_PX)
    small = plane[::step, ::step]
    return to_grey(small, *display_range(small))


def contact_sheet(
    thumbnails: Sequence[NDArray[np.uint8]], titles: Sequence[str], flags: Sequence[Sequence[str]]
) -> Figure:
    """Draw fields on one page: flagged ones first, in a red frame over the words of their flags.

    *thumbnails*, (Y, X) each, *titles* and *flags* have one item for each field; a flag is a few
    words (`imaging.limits.flag_words`), a good field has none. At most 96 fields are shown: flagged
    ones, then good ones, evenly chosen. The heading says how many are left out.
    """
    shown = _chosen(flags)
    n_flagged = sum(map(bool, flags))
    n_columns = min(_MOST_COLUMNS, max(4, math.ceil(math.sqrt(1.5 * len(shown)))))
    n_rows = max(1, math.ceil(len(shown) / n_columns))
    height = 2.1 * n_rows + 0.6
    figure = Figure(figsize=(1.7 * n_columns, height))
    left_out = f", {len(flags) - len(shown)} left out" if len(shown) < len(flags) else ""
    figure.suptitle(
        f"{len(flags)} fields, {n_flagged} flagged{left_out}", y=1 - 0.3 / height, va="center"
    )
    figure.subplots_adjust(
        left=0.01, right=0.99, bottom=0.4 / height, top=1 - 0.7 / height, hspace=0.4
    )
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for panel in panels[len(shown) :]:
        panel.axis("off")
    for panel, index in zip(panels, shown, strict=False):
        panel.imshow(thumbnails[index], cmap="gray", vmin=0, vmax=255)
        panel.set(xticks=[], yticks=[])
        panel.set_title(titles[index], fontsize=8, pad=3)
        panel.set_xlabel(_in_two_lines(flags[index]), fontsize=7, color=_FLAGGED, labelpad=3)
        colour, width = (_FLAGGED, 3) if flags[index] else (_GOOD, 0.5)
        panel.spines[:].set(color=colour, linewidth=width)
    return figure


def _chosen(flags: Sequence[Sequence[str]]) -> list[int]:
    """The fields to show: flagged ones, then good ones at even steps."""
    flagged = [index for index, words in enumerate(flags) if words][:_MOST_FIELDS]
    good = [index for index, words in enumerate(flags) if not words]
    n_good = min(len(good), _MOST_FIELDS - len(flagged))
    return flagged + [good[round(step)] for step in np.linspace(0, len(good) - 1, n_good)]


def _in_two_lines(words: Sequence[str]) -> str:
    text = ", ".join(dict.fromkeys(words))
    return "\n".join(textwrap.wrap(text, _LINE_LETTERS, max_lines=2, placeholder=" …"))
