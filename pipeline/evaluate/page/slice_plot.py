"""The plot of slices: a dot and an interval for each of them, against all rows."""

from collections.abc import Mapping
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.evaluate.page.diagnostic_plots import CHARACTER_INCHES, ROW_INCHES, name_rows
from pipeline.evaluate.page.plots import BLUE, MUTED, ORANGE, PALE, STYLE, to_svg
from pipeline.evaluate.report.wording import format_difference

MAX_NAME, MIN_DIMENSION = 22, 6


class Span(NamedTuple):
    """A value and the ends of its interval, None where there is none."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        value, low, high = map(format_difference, self)
        return value if self.low is None else f"{value} ({low} to {high})"


def draw_slices(
    name: str, quantity: str, slices: Mapping[tuple[str, str], Span], whole: Span, *, has_zero: bool = False
) -> str:
    """One row per slice, a dimension and a value, in their order, at least one; and a band for that of all rows.

    `has_zero` draws a line at 0, for differences.
    """
    names = [_short_name(*one) for one in slices]
    with matplotlib.rc_context(STYLE):
        size_inches = (1.75 + CHARACTER_INCHES * max(map(len, names)), 0.75 + ROW_INCHES * len(names))
        figure = Figure(figsize=size_inches, layout="constrained")
        axes = figure.add_subplot(xlabel=quantity)
        if whole.low is not None and whole.high is not None:
            axes.axvspan(whole.low, whole.high, color=ORANGE, alpha=0.15, linewidth=0)
        axes.axvline(whole.value, color=ORANGE, linewidth=1.2)
        if has_zero:
            axes.axvline(0, color=MUTED, linewidth=1, linestyle="--")
        for place, span in enumerate(slices.values()):
            if span.low is not None and span.high is not None:
                axes.plot([span.low, span.high], [place, place], color=PALE, linewidth=2.5, solid_capstyle="butt")
            axes.plot([span.value], [place], "o", color=BLUE, markersize=4)
        name_rows(axes, names)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.grid(False, axis="y")
        rows = (f"{dimension}: {value} {span}" for (dimension, value), span in slices.items())
        return to_svg(figure, name, "; ".join([f"all rows {whole}", *rows]) + ".")


def _short_name(dimension: str, value: str) -> str:
    """Both at a length that a phone has room for; the dimension gives way first."""
    room = max(MIN_DIMENSION, MAX_NAME - 2 - len(value))
    kept = _cut(dimension, room)
    return f"{kept}: {_cut(value, MAX_NAME - 2 - len(kept))}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
