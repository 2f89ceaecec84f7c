"""The report's plots: each takes a part of the report and returns one inline SVG with a text alternative.

Equal input gives equal bytes: the ids are salted with the plot's name, and nothing is dated.
"""

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from html import escape, unescape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

# Text has a contrast of at least 4.5 with the white behind it, and a line that carries meaning of at least 3.
INK, MUTED, BLUE, ORANGE, PALE = "#1f2933", "#5b6673", "#1f5a96", "#b8500a", "#5b8fc4"
# Lines are told apart by colour first and then by dashes; the names of the dashes are those of CSS too.
LINE_COLORS = (BLUE, ORANGE, "#1b8a7a", "#8250a8", "#9c7700", "#c2457d", "#3d8fcc", "#6f5b4b")
DASHES = ("solid", "dashed", "dotted")
MAX_TRAIN_POINTS = 120
MAX_LINE_POINTS = 60
# A factor from which small values would lie on the axis if the scale were not logarithmic.
LOG_FROM = 30

STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#aab4bf",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6eaee",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}


def draw_calibration(task: Mapping[str, Any]) -> str:
    """The rate of positives against the prediction, from a task's non-empty `calibration_curve`."""
    curve = task["calibration_curve"]
    x, y, low, high = (np.array([b[key] for b in curve]) for key in ("mean_prediction", "mean_label", "low", "high"))
    inside = int(((low <= x) & (x <= high)).sum())
    top = min(1.0, 1.05 * float(max(x.max(), high.max())))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.5, 3.2), layout="constrained")
        axes = figure.add_subplot(xlabel="mean prediction", ylabel="share of positives")
        axes.plot([0, top], [0, top], "--", color=MUTED, linewidth=1)
        axes.errorbar(x, y, yerr=[y - low, high - y], fmt="o", color=BLUE, ecolor=PALE, markersize=3.5, elinewidth=1.4)
        axes.set(xlim=(0, top * 1.02), ylim=(0, top * 1.02))
        return to_svg(
            figure,
            f"calibration of {task['name']}",
            f"{len(curve)} buckets with mean predictions from {x.min():.4f} to {x.max():.4f}; in {inside} of them the "
            f"mean prediction lies inside the 95% interval of the share of positives.",
        )


def draw_training(name: str, train: Mapping[int, float], validation: Mapping[int, float]) -> str:
    """The loss called `name` against the step; each curve maps steps, in order, to losses."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.5, 2.7), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel="loss")
        if train:
            steps, losses = _thin(train, MAX_TRAIN_POINTS)
            axes.plot(steps, losses, color=BLUE, linewidth=1.2, label="train", marker="" if len(steps) > 1 else ".")
        if validation:
            axes.plot(list(validation), list(validation.values()), "o-", color=ORANGE, markersize=4, label="validation")
        # The fall of the first steps would flatten everything after it.
        later = [*validation.values(), *list(train.values())[len(train) // 10 :]]
        low = min([*validation.values(), *train.values()])
        margin = 0.05 * (max(later) - low) or 0.05 * abs(low) or 0.05
        axes.set_ylim(low - margin, max(later) + margin)
        axes.ticklabel_format(axis="y", useOffset=False)
        _mark_steps(axes)
        axes.legend()
        curves = (("train", train), ("validation", validation))
        return to_svg(figure, f"loss of {name}", "; ".join(_describe(*curve) for curve in curves if curve[1]) + ".")


def line_styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a kind of dash for each name, by its place, so that plots of the same names agree."""
    dashes = [dash for dash in DASHES for _ in LINE_COLORS]
    return dict(zip(names, itertools.cycle(zip(LINE_COLORS * len(DASHES), dashes, strict=True))))


def draw_lines(
    name: str,
    lines: Mapping[str, Mapping[int, float]],
    *,
    styles: Mapping[str, tuple[str, str]],
    limits: tuple[float, float] | None = None,
    reference: float | None = None,
    is_panel: bool = False,
) -> str:
    """Lines over steps, each a mapping from steps, in order, to finite values; at least one holds something.

    `reference` is drawn as a dashed grey line. Without `limits`, positive values that span a factor of `LOG_FROM` have
    a logarithmic scale. A panel is small and has no legend.
    """
    lines = {label: line for label, line in lines.items() if line}
    values = [value for line in lines.values() for value in line.values()]
    num_columns = max(1, 46 // (max(map(len, lines)) + 7))
    num_legend_rows = -(-len(lines) // num_columns)
    with matplotlib.rc_context(STYLE):
        size_inches = (2.5, 1.9) if is_panel else (3.5, 2.4 + 0.19 * num_legend_rows)
        figure = Figure(figsize=size_inches, layout="constrained")
        axes = figure.add_subplot(xlabel="step")
        axes.ticklabel_format(axis="y", useOffset=False)
        if reference is not None:
            axes.axhline(reference, color=MUTED, linestyle="--", linewidth=1)
        for label, line in lines.items():
            color, dash = styles[label]
            axes.plot(
                *_thin(line, MAX_LINE_POINTS),
                color=color,
                label=label,
                linestyle=dash,
                linewidth=1.3,
                marker="" if len(line) > 1 else ".",
            )
        if limits is not None:
            axes.set_ylim(limits)
        elif 0 < LOG_FROM * min(values) <= max(values):
            axes.set(yscale="log", ylabel="logarithmic scale")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        _mark_steps(axes, 3 if is_panel else 5)
        if not is_panel:
            figure.legend(loc="outside lower center", ncols=num_columns, columnspacing=1.2)
        described = (_describe_ends(label, line) for label, line in lines.items())
        return to_svg(figure, name, "; ".join(described) + ".")


def draw_mean_weights(name: str, mixture: Mapping[str, Any]) -> str:
    """A heat map of the mean gate weights, tasks down and experts across; None leaves a cell empty."""
    tasks, experts = mixture["tasks"], mixture["experts"]
    weights_TE = np.array(mixture["mean_weight"], dtype=np.float64)
    darkest = float(np.nanmax(weights_TE))
    label_inches = 0.08 * max(map(len, experts))
    is_slanted = label_inches > 1
    cell_inches = 0.55 if is_slanted else max(0.55, label_inches)
    margins_inches = (0.6 + 0.08 * max(map(len, tasks)), 0.4 + 0.6 * label_inches if is_slanted else 0.5)
    size_inches = (margins_inches[0] + cell_inches * len(experts), margins_inches[1] + 0.36 * len(tasks))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size_inches, layout="constrained")
        axes = figure.add_subplot()
        # The paler half of the colours, on all of which the numbers can be read.
        axes.pcolormesh(weights_TE, cmap="Blues", vmin=0, vmax=2 * darkest, edgecolors="white", linewidth=2)
        for row, column in np.argwhere(~np.isnan(weights_TE)):
            axes.text(column + 0.5, row + 0.5, f"{weights_TE[row, column]:.2f}", ha="center", va="center")
        slant: Any = {"rotation": 35, "ha": "left", "rotation_mode": "anchor"} if is_slanted else {}
        axes.set_xticks(np.arange(len(experts)) + 0.5, experts, **slant)
        axes.set_yticks(np.arange(len(tasks)) + 0.5, tasks)
        axes.tick_params(length=0, labelcolor=INK)
        axes.xaxis.tick_top()
        axes.invert_yaxis()
        axes.grid(False)
        axes.spines[:].set_visible(False)
        rows = (
            f"{task}: " + ", ".join(f"{e} {w:.2f}" for e, w in zip(experts, row, strict=True) if not math.isnan(w))
            for task, row in zip(tasks, weights_TE, strict=True)
        )
        return to_svg(figure, name, "; ".join(rows) + ".")


def draw_bars(name: str, counts: Sequence[int], description: str) -> str:
    """One bar per count, with no axes: small enough for a cell of a table, where a page may have hundreds."""
    width, height = 100.0, 28.0
    step = min(width / len(counts), 12.0)
    tallest = max(1, *counts)
    # A count that is not 0 is never invisible.
    heights = [max(1.0, height * count / tallest) if count else 0.0 for count in counts]
    bar_width = step - min(1.0, step / 4)
    bars = "".join(
        f"M{place * step:.2f} {height:g}v{-bar:.2f}h{bar_width:.2f}V{height:g}z"
        for place, bar in enumerate(heights)
        if bar
    )
    title = escape(f"{name[:1].upper()}{name[1:]}: {description}.")
    return (
        f'<svg role="img" aria-label="{title}" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}"><title>{title}</title><path fill="{BLUE}" d="{bars}"/></svg>'
    )


def _describe(kind: str, curve: Mapping[int, float]) -> str:
    best = min(curve, key=lambda step: curve[step])
    last = list(curve)[-1]
    return f"{kind} ends at {curve[last]:.4f} at step {last:,} and is lowest, {curve[best]:.4f}, at step {best:,}"


def _describe_ends(label: str, line: Mapping[int, float]) -> str:
    steps = list(line)
    first, last = steps[0], steps[-1]
    return f"{label} from {line[first]:.3g} at step {first:,} to {line[last]:.3g} at step {last:,}"


def _mark_steps(axes: Axes, num_intervals: int = 5) -> None:
    axes.locator_params(axis="x", nbins=num_intervals, integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _thin(line: Mapping[int, float], num_points: int) -> tuple[list[float], list[float]]:
    """Steps and values of at most `num_points` points, each the mean of as many neighbours."""
    steps, values = list(line), list(line.values())
    if len(steps) <= num_points:
        return [float(step) for step in steps], values
    parts = (np.array_split(np.asarray(column, dtype=np.float64), num_points) for column in (steps, values))
    mean_steps, mean_values = ([float(part.mean()) for part in column] for column in parts)
    return mean_steps, mean_values


def to_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element that announces "name: description" and has the name as its tooltip."""
    output = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(output, format="svg", metadata=no_metadata)
    text = output.getvalue()
    svg = text[text.index("<svg ") :]
    # Every plot numbers its groups from 1, and nothing refers to them; the other ids are salted, so they stay unique.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    # A hundredth of a point is finer than any screen, and matplotlib writes a ten-thousandth of that.
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    title = f"{name[:1].upper()}{name[1:]}"
    words = escape(f"{title}: {description}")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{words}" ', 1)
    return svg.replace(">", f"><title>{escape(title)}</title>", 1)


def words_of(svg: str) -> str:
    """What a plot announces, as plain text."""
    return unescape(svg.partition(' aria-label="')[2].partition('"')[0])


def width_of(svg: str) -> float:
    """The width of a plot in CSS pixels."""
    return float(svg.partition(' width="')[2].partition('pt"')[0]) * 96 / 72
