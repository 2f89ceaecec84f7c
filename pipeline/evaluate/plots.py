"""The report's plots: each takes a part of the report and returns one inline SVG with a text alternative.

Equal input gives equal bytes: the ids are salted with the plot's name, and nothing is dated.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

INK, MUTED, BLUE, ORANGE = "#1f2933", "#6b7785", "#1f5a96", "#c2570c"
MAX_TRAIN_POINTS = 120

_STYLE: Any = {
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
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.5, 3.2), layout="constrained")
        axes = figure.add_subplot(xlabel="mean prediction", ylabel="share of positives")
        axes.plot([0, top], [0, top], "--", color=MUTED, linewidth=1)
        axes.errorbar(
            x, y, yerr=[y - low, high - y], fmt="o", color=BLUE, ecolor="#8fb0d3", markersize=3.5, elinewidth=1.4
        )
        axes.set(xlim=(0, top * 1.02), ylim=(0, top * 1.02))
        return _to_svg(
            figure,
            f"calibration of {task['name']}",
            f"{len(curve)} buckets with mean predictions from {x.min():.4f} to {x.max():.4f}; in {inside} of them the "
            f"mean prediction lies inside the 95% interval of the share of positives.",
        )


def draw_training(name: str, train: Mapping[int, float], validation: Mapping[int, float]) -> str:
    """The loss called `name` against the step; each curve maps steps, in order, to losses."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.5, 2.7), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel="loss")
        if train:
            steps, losses = _thin(list(train), list(train.values()))
            axes.plot(steps, losses, color=BLUE, linewidth=1.2, label="train", marker="" if len(steps) > 1 else ".")
        if validation:
            axes.plot(list(validation), list(validation.values()), "o-", color=ORANGE, markersize=4, label="validation")
        # The fall of the first steps would flatten everything after it.
        later = [*validation.values(), *list(train.values())[len(train) // 10 :]]
        low = min([*validation.values(), *train.values()])
        margin = 0.05 * (max(later) - low) or 0.05 * abs(low) or 0.05
        axes.set_ylim(low - margin, max(later) + margin)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.locator_params(axis="x", nbins=5, integer=True)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.legend()
        curves = (("train", train), ("validation", validation))
        return _to_svg(figure, f"loss of {name}", "; ".join(_describe(*curve) for curve in curves if curve[1]) + ".")


def draw_gates(gates: Mapping[str, Any]) -> str:
    """A heat map of the mean gate weight, tasks down and experts across; None leaves a cell empty."""
    tasks, experts = gates["tasks"], gates["experts"]
    weights_TE = np.array(gates["mean_weight"], dtype=np.float64)
    darkest = float(np.nanmax(weights_TE))
    widest_label = max(len(expert) for expert in experts)
    size_inches = (1.5 + max(0.6, 0.09 * widest_label) * len(experts), 0.6 + 0.4 * len(tasks))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size_inches, layout="constrained")
        axes = figure.add_subplot()
        axes.pcolormesh(weights_TE, cmap="Blues", vmin=0, vmax=darkest, edgecolors="white", linewidth=2)
        for row, column in np.argwhere(~np.isnan(weights_TE)):
            weight = weights_TE[row, column]
            color = "white" if weight > 0.6 * darkest else INK
            axes.text(column + 0.5, row + 0.5, f"{weight:.2f}", ha="center", va="center", color=color)
        axes.set_xticks(np.arange(len(experts)) + 0.5, experts)
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
        return _to_svg(figure, "mean gate weight", "; ".join(rows) + ".")


def _describe(kind: str, curve: Mapping[int, float]) -> str:
    best = min(curve, key=lambda step: curve[step])
    last = list(curve)[-1]
    return f"{kind} ends at {curve[last]:.4f} at step {last:,} and is lowest, {curve[best]:.4f}, at step {best:,}"


def _thin(steps: Sequence[int], losses: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """At most `MAX_TRAIN_POINTS` points, each the mean of as many neighbours."""
    if len(steps) <= MAX_TRAIN_POINTS:
        return steps, losses
    parts = (np.array_split(np.asarray(values, dtype=np.float64), MAX_TRAIN_POINTS) for values in (steps, losses))
    mean_steps, mean_losses = ([float(part.mean()) for part in values] for values in parts)
    return mean_steps, mean_losses


def _to_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element that announces "name: description"."""
    output = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(output, format="svg", metadata=no_metadata)
    text = output.getvalue()
    svg = text[text.index("<svg ") :]
    # Every plot numbers its groups from 1, and nothing refers to them; the other ids are salted, so they stay unique.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    title = escape(f"{name[:1].upper()}{name[1:]}: {description}")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1).replace(">", f"><title>{title}</title>", 1)
