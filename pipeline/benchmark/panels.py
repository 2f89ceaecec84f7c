"""The plot of a growth benchmark: panels with the medians of points against their sizes, and bars over the rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from pipeline.evaluate.page.plots import INK, MUTED

INCHES = (3.7, 2.6)  # of a panel
MILLION = 1_000_000

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "growth",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#aab4bf",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6eaee",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Line:
    """The values of all rounds at each size, in ascending order of sizes."""

    values: Mapping[int, Sequence[float]]
    color: str
    label: str | None = None
    style: str = "o-"


@dataclass(frozen=True)
class Panel:
    """Sizes are on a logarithmic axis. Values are on one too if `is_log`, with the limits of all such panels, and
    otherwise start at 0."""

    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    title: str = ""
    is_log: bool = False


def draw_panels(panels: Sequence[Panel], num_columns: int, path: Path) -> None:
    """Draws panels row by row into an SVG file, with one legend for all; equal figures give equal bytes."""
    num_rows = -(-len(panels) // num_columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(INCHES[0] * num_columns, INCHES[1] * num_rows), layout="constrained")
        legend: dict[str, Any] = {}
        for place, panel in enumerate(panels, start=1):
            axes = figure.add_subplot(num_rows, num_columns, place, xlabel=panel.x_label, ylabel=panel.y_label)
            axes.set_title(panel.title)
            _draw(axes, panel)
            legend |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        _share_limits([axes for axes, panel in zip(figure.axes, panels, strict=True) if panel.is_log])
        figure.legend(list(legend.values()), list(legend), loc="outside lower center", ncols=4)
        figure.savefig(path, metadata={"Date": None})


def _draw(axes: Axes, panel: Panel) -> None:
    highest = 0.0
    for line in panel.lines:
        middles = [median(own) for own in line.values.values()]
        below = [middle - min(own) for middle, own in zip(middles, line.values.values(), strict=True)]
        above = [max(own) - middle for middle, own in zip(middles, line.values.values(), strict=True)]
        axes.errorbar(
            list(line.values),
            middles,
            yerr=[below, above],
            fmt=line.style,
            markersize=4,
            linewidth=1.3,
            elinewidth=1,
            color=line.color,
            label=line.label,
        )
        highest = max(highest, *map(max, line.values.values()))
    sizes = sorted({size for line in panel.lines for size in line.values})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [_brief(size) for size in sizes])
    axes.minorticks_off()
    if panel.is_log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.15 * highest)


def _share_limits(panels: Sequence[Axes]) -> None:
    if not panels:
        return
    limits = [axes.get_ylim() for axes in panels]
    for axes in panels:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_minor_locator(NullLocator())


def _brief(size: int) -> str:
    """In millions from one on, with at most three digits: 2.71 M."""
    return f"{size / MILLION:.3g} M" if size >= MILLION else f"{size:,}"
