"""The page's charts, as inline SVG.

One unit is one pixel of the page; ink takes the page's colours, light or dark.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)
from numpy.typing import NDArray

from adipocyte.domain import ROWS, TARGET_COLOURS, row_and_column
from adipocyte.evaluation.metric import Interval
from adipocyte.evaluation.objects import ObjectPairs

GROUP_COLOURS = {
    "image": "#8c78c2",
    "nuclei": TARGET_COLOURS["A1"],
    "cells": TARGET_COLOURS["A3"],
    "lipids": TARGET_COLOURS["A2"],
}
WAY_COLOURS = ("#8c78c2", "#d98a1f", "#1f9bab", "#c2558f", "#7d9a2e")
MANY_OBJECTS = 1500  # above, a scatter shows how many lie in a place instead of each

# These stand for colours that the page's style sheet knows.
INK, LINE, FAINT = "#010203", "#040506", "#070809"
_IN_PAGE = {INK: "currentColor", LINE: "var(--line)", FAINT: "var(--faint)"}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.facecolor": "none",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "lines.solid_capstyle": "round",
}
_LOG_TICKS = FuncFormatter(lambda value, _: f"{value:,.0f}")


def svg(name: str, width_px: int, height_px: int, draw: Callable[[Axes], None]) -> Markup:
    """The axes that *draw* fills, as SVG with the same bytes every time.

    *name* keeps the chart's ids apart from those of other charts.
    """
    with rc_context(cast(Any, _STYLE | {"svg.hashsalt": name})):  # its names are typed one by one
        figure = Figure(figsize=(width_px / 72, height_px / 72), layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(
            file,
            format="svg",
            dpi=144,
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    drawn = file.getvalue()
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn[drawn.index("<svg") :])
    view, label = f'viewBox="0 0 {width_px} {height_px}"', f'role="img" aria-label="{escape(name)}"'
    tag = f'<svg {view} width="{width_px}" {label}>'
    drawn = re.sub(r"<svg[^>]*>", lambda _: tag, drawn)  # no template: a name may hold a backslash
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    for colour, in_page in _IN_PAGE.items():
        drawn = drawn.replace(colour, in_page)
    return Markup(drawn)  # safe, because matplotlib escapes what it writes


def intervals(
    name: str, values: Mapping[str, float], spans: Mapping[str, Mapping[str, Interval]], shown: str
) -> Markup:
    """A metric by way, with its intervals, if it has any, over fields (broad) and wells (thin)."""

    def draw(axes: Axes) -> None:
        for row, (way, value) in enumerate(values.items()):
            colour = WAY_COLOURS[row % len(WAY_COLOURS)]
            for drawn_anew, width, opacity in (("wells", 2, 1), ("fields", 9, 0.35)):
                if drawn_anew in spans[way]:
                    axes.plot(
                        spans[way][drawn_anew],
                        (row, row),
                        color=colour,
                        linewidth=width,
                        alpha=opacity,
                    )
            axes.plot(value, row, "o", color=colour, markersize=8 if way == shown else 5)
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.set_xlim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0)

    return svg(name, 330, 42 + 24 * len(values), draw)


def feature_bars(name: str, errors: Mapping[str, float], groups: Mapping[str, str]) -> Markup:
    """Errors of features from worst to best.

    The axis grows with the root, so that small errors are seen beside large ones.
    """
    ordered = sorted(errors, key=lambda feature: (-errors[feature], feature))
    values = np.array([errors[feature] for feature in ordered])

    def draw(axes: Axes) -> None:
        rows = np.arange(len(ordered))
        bars = axes.barh(
            rows,
            np.sqrt(values),
            color=[GROUP_COLOURS[groups[feature]] for feature in ordered],
            height=0.72,
        )
        axes.bar_label(
            bars,
            [f"{value:.3f}" if value < 10 else f"{value:.3g}" for value in values],
            padding=3,
            fontsize=9,
        )
        axes.set_yticks(rows, [_short(feature) for feature in ordered], fontsize=10)
        axes.set_ylim(len(ordered) - 0.4, -0.6)
        axes.set_xlim(0, 1.12 * max(np.sqrt(values).max(), 1e-3))
        roots = np.linspace(0, np.sqrt(values.max()), 5)
        axes.set_xticks(roots, [f"{root**2:.2g}" for root in roots])
        axes.xaxis.tick_top()
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0)

    return svg(name, 720, 40 + 16 * len(ordered), draw)


def _short(feature: str) -> str:
    """A feature's name without what all of its kind have in common."""
    return re.sub(r"_no_edge(?=_)|_AreaShape|_Intensity(?=_)", "", feature).replace("_", " ")


def object_sizes(name: str, pairs: ObjectPairs, colour: str, *, log: bool) -> Markup:
    """Painted against true areas of the objects that were found, with the line of equal areas."""

    def draw(axes: Axes) -> None:
        sizes = np.concatenate([pairs.truth_px, pairs.painted_px])
        low, high = (sizes.min() / 1.3, sizes.max() * 1.3) if log else (0, sizes.max() * 1.05)
        if len(pairs.truth_px) > MANY_OBJECTS:
            scale = "log" if log else "linear"
            first, last = np.log10([low, high]) if log else (low, high)
            axes.hexbin(
                pairs.truth_px,
                pairs.painted_px,
                gridsize=45,
                bins="log",
                xscale=scale,
                yscale=scale,
                extent=(first, last, first, last),
                mincnt=1,
                cmap="viridis",
                rasterized=True,
                linewidths=0.1,
            )
        else:
            axes.scatter(
                pairs.truth_px,
                pairs.painted_px,
                s=14,
                color=colour,
                alpha=0.7,
                linewidths=0,
                rasterized=len(sizes) > 800,
            )
        if log:
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.plot((low, high), (low, high), color=INK, linewidth=1, dashes=(4, 3))
        axes.set(
            xlim=(low, high),
            ylim=(low, high),
            aspect="equal",
            xlabel="true area (px)",
            ylabel="painted area (px)",
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(numticks=6) if log else MaxNLocator(5))
            axis.set_major_formatter(_LOG_TICKS)
            axis.set_minor_formatter(NullFormatter())
        axes.grid()
        axes.set_axisbelow(True)

    return svg(name, 340, 320, draw)


def reliability(name: str, bins: Sequence[tuple[float, float, int]]) -> Markup:
    """The share that is real against the probability that was given, with the line of equality.

    *bins* are (mean probability, share, number of objects); many objects are a large point.
    """

    def draw(axes: Axes) -> None:
        given, real, counts = np.array(bins).T
        axes.plot((0, 1), (0, 1), color=INK, linewidth=1, dashes=(4, 3))
        axes.plot(given, real, color=WAY_COLOURS[0], linewidth=1)
        axes.scatter(given, real, s=20 + 180 * counts / counts.max(), color=WAY_COLOURS[0])
        axes.set(
            xlim=(0, 1.03),
            ylim=(0, 1.03),
            aspect="equal",
            xlabel="probability",
            ylabel="share real",
        )

    return svg(name, 300, 300, draw)


def expected_errors(name: str, pairs: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """The true against the expected error of each field, by target, with the line of equality.

    *pairs* are (expected, true), MAE over the median.
    """

    def draw(axes: Axes) -> None:
        both = np.array([pair for of_target in pairs.values() for pair in of_target])
        low, high = 0.8 * both.min(), 1.25 * both.max()
        axes.plot((low, high), (low, high), color=INK, linewidth=1, dashes=(4, 3), zorder=1)
        for target, of_target in pairs.items():
            colour = TARGET_COLOURS[target]
            axes.scatter(*np.array(of_target).T, s=22, color=colour, label=target, zorder=2)
        axes.set(
            xscale="log",
            yscale="log",
            xlim=(low, high),
            ylim=(low, high),
            xlabel="expected MAE / median",
            ylabel="true MAE / median",
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.grid()
        axes.set_axisbelow(True)

    return svg(name, 300, 260, draw)


def distributions(
    name: str,
    truth: NDArray[np.int64],
    painted: Mapping[str, NDArray[np.int64]],
    colours: Mapping[str, str],
) -> Markup:
    """How many pixels have which counts: the truth's as an area, each way's as a line.

    truth, painted: (65536,) each. Both axes are logarithmic.
    """
    edges = np.concatenate([[0], np.unique(np.geomspace(1, 65536, 140).astype(np.int64))])
    octaves = np.diff(np.log2(np.maximum(edges, 0.5)))  # a count of 0 stands at 1/2

    def share(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.add.reduceat(counts, edges[:-1]) / max(counts.sum(), 1) / octaves

    def draw(axes: Axes) -> None:
        at, of_truth = np.maximum(edges, 0.5), share(truth)
        lines = {way: share(counts) for way, counts in painted.items()}
        present = np.flatnonzero(np.sum([of_truth, *lines.values()], axis=0))
        first, last = (present[0], present[-1]) if len(present) else (0, len(octaves) - 1)
        axes.stairs(of_truth, at, fill=True, baseline=1e-7, color=FAINT)
        for way, line in lines.items():
            axes.stairs(line, at, baseline=1e-7, color=colours[way], linewidth=1.6)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="counts",
            ylabel="share per doubling",
            ylim=(1e-6, 3),
            xlim=(at[first], at[last + 1]),
        )
        subs = (1, 3) if at[last + 1] < 300 * at[first] else (1,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: "0" if value < 1 else f"{value:,.0f}")
        )
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(FixedLocator([1e-6, 1e-4, 1e-2, 1]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid()
        axes.set_axisbelow(True)

    return svg(name, 350, 220, draw)


def plate_map(name: str, wells: Mapping[str, float], highest: float) -> Markup:
    """The plate from above, a disc for each well, its colour from 0 to *highest*.

    Wells without data are rings.
    """
    named = {well: row_and_column(well) for well in wells}
    places = {well: (ROWS.index(row), column - 1) for well, (row, column) in named.items()}
    n_rows, n_columns = (max(axis) + 1 for axis in zip(*places.values(), strict=True))
    pitch = min(44, 300 / n_columns)

    def draw(axes: Axes) -> None:
        rows, columns = np.divmod(np.arange(n_rows * n_columns), n_columns)
        size = (0.8 * pitch) ** 2
        axes.scatter(columns, rows, s=size, facecolors="none", edgecolors=LINE, linewidths=1)
        at = np.array(list(places.values()))
        values, scale = np.array(list(wells.values())), Normalize(0, highest)
        discs = axes.scatter(
            at[:, 1],
            at[:, 0],
            s=size,
            c=values,
            cmap="YlOrRd",
            norm=scale,
            edgecolors=LINE,
            linewidths=1,
        )
        for (row, column), value in zip(at, values, strict=True):
            if pitch > 30:
                tone = "white" if scale(value) > 0.6 else "black"
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", fontsize=9.5, color=tone
                )
        numbers = [str(column + 1) for column in range(n_columns)]
        axes.set_xticks(range(n_columns), numbers, fontsize=min(11, 0.62 * pitch))
        axes.set_yticks(range(n_rows), ROWS[:n_rows], fontsize=min(11, 0.8 * pitch))
        axes.set(xlim=(-0.55, n_columns - 0.45), ylim=(n_rows - 0.45, -0.55), aspect="equal")
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        colours = axes.figure.colorbar(
            discs, ax=axes, fraction=0.05, shrink=0.9, ticks=MaxNLocator(4)
        )
        colours.outline.set_visible(False)

    width_px = 340 if n_columns > 5 else 120 + round(44 * n_columns)
    return svg(name, width_px, round(40 + pitch * n_rows), draw)


def way_colours(ways: Sequence[str]) -> dict[str, str]:
    """The colour of each way, in every chart."""
    return {way: WAY_COLOURS[place % len(WAY_COLOURS)] for place, way in enumerate(ways)}
