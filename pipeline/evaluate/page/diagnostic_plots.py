"""The plots of the diagnostics: each takes a part of them and returns one inline SVG with a text alternative."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from pipeline.evaluate.page.plots import BLUE, INK, MUTED, ORANGE, PALE, STYLE, draw_mean_weights, to_svg

MAX_FEATURES = 15
MAX_TABLES = 20
MAX_NAMES = 16
MAX_SLICES = 12
ROW_INCHES, CHARACTER_INCHES = 0.21, 0.08
PROBABILITY_TICKS = (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
# Over a wider range of log odds only every other tick has room.
MAX_CLOSE_TICKS = 12
_UNITS = {"auc": "AUC lost", "mae": "mean absolute error added"}


def draw_importance(task: str, importance: Mapping[str, Any]) -> str:
    """What a task's main metric loses without each feature, with 95% intervals; the features in their common order.

    `importance` is the report's. The `MAX_FEATURES` first features are drawn.
    """
    unit = _UNITS[importance["tasks"][task]["metric"]]
    losses = [(f["name"], f["tasks"][task]["metric"]) for f in importance["features"][:MAX_FEATURES]]
    names = [name for name, _ in losses]
    values = np.array([loss["worsening"] if loss["worsening"] is not None else np.nan for _, loss in losses])
    halves = np.array([1.96 * (loss["standard_error"] or 0.0) for _, loss in losses])
    with matplotlib.rc_context(STYLE):
        size_inches = (1.9 + CHARACTER_INCHES * max(map(len, names)), 0.75 + ROW_INCHES * len(names))
        figure = Figure(figsize=size_inches, layout="constrained")
        axes = figure.add_subplot(xlabel=unit)
        places = np.arange(len(names))
        axes.barh(places, values, color=BLUE, height=0.62)
        axes.errorbar(values, places, xerr=halves, fmt="none", ecolor=INK, elinewidth=1)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        name_rows(axes, names)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.grid(False, axis="y")
        described = (
            f"{name} " + ("not defined" if np.isnan(value) else f"{value:.3g}" + (f" ± {half:.1g}" if half else ""))
            for name, value, half in zip(names, values, halves, strict=True)
        )
        return to_svg(figure, f"importance of features for {task}", f"{unit}: " + "; ".join(described) + ".")


def draw_tables(tables: Sequence[Mapping[str, Any]]) -> str:
    """The share of each table's rows that were trained, and the norms of these: the middle 90 % and the median.

    Of more than `MAX_TABLES` tables those with the most rows are drawn.
    """
    drawn = sorted(tables, key=lambda table: -table["rows"])[:MAX_TABLES]
    places = np.arange(len(drawn))
    with matplotlib.rc_context(STYLE):
        label_inches = CHARACTER_INCHES * max(len(table["name"]) for table in drawn)
        size_inches = (4.0 + label_inches, 0.75 + ROW_INCHES * len(drawn))
        figure = Figure(figsize=size_inches, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
        left.set(xlabel="rows trained, %", xlim=(0, 100))
        shares = [_trained_share(table) for table in drawn]
        left.barh(places, [100 * (share or 0.0) for share in shares], color=BLUE, height=0.62)
        right.set(xlabel="norm of a row", xscale="log")
        described = []
        for place, table, share in zip(places, drawn, shares, strict=True):
            low, middle, high = (table["norms"][level] for level in ("5", "50", "95"))
            about = "not known how many were trained" if share is None else f"{share:.1%} trained"
            if share is None:
                left.text(2, place, "not known", va="center", color=MUTED)
            if middle is not None and low > 0:
                right.plot([low, high], [place, place], color=PALE, linewidth=4, solid_capstyle="butt")
                right.plot([middle], [place], "o", color=BLUE, markersize=4)
                about += f", norms {low:.2g} to {high:.2g}, median {middle:.2g}"
            described.append(f"{table['name']}: {table['rows']:,} rows, {about}")
        name_rows(left, [table["name"] for table in drawn])
        right.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        right.xaxis.set_major_formatter("{x:g}")
        right.xaxis.set_minor_formatter(NullFormatter())
        right.tick_params(axis="y", length=0)
        for axes in (left, right):
            axes.grid(False, axis="y")
        return to_svg(figure, "embedding tables", "; ".join(described) + ".")


def draw_scores(name: str, scores: Mapping[str, Any]) -> str:
    """How the predictions of the rows with each label are distributed, over log odds; each label's bars sum to 1.

    `scores` are what `ScoreDistribution.describe` gives of at least one row.
    """
    edges = np.asarray(scores["edges"])
    positives, negatives = (np.asarray(scores[label], np.float64) for label in ("positives", "negatives"))
    filled = np.flatnonzero(positives + negatives)
    first, last = int(filled[0]), int(filled[-1]) + 1
    # The outermost bins reach to 0 and 1: they are drawn as wide as the others.
    inner = np.log(edges[1:-1]) - np.log1p(-edges[1:-1])
    step = inner[1] - inner[0]
    log_odds = np.concatenate([[inner[0] - step], inner, [inner[-1] + step]])[first : last + 1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.5, 2.5), layout="constrained")
        axes = figure.add_subplot(xlabel="prediction", ylabel="share of the rows")
        described = []
        for label, counts, color, hatch in (
            ("negative", negatives, BLUE, None),
            ("positive", positives, ORANGE, "///"),
        ):
            total = counts.sum()
            if total:
                shares = counts[first:last] / total
                axes.stairs(shares, log_odds, fill=True, color=color, alpha=0.25, hatch=hatch)
                axes.stairs(shares, log_odds, color=color, linewidth=1.4, label=f"{label} ({total:,.0f})")
                middle = edges[int(np.searchsorted(np.cumsum(counts), total / 2)) + np.array([0, 1])]
                described.append(f"half of the {total:,.0f} {label} rows lie below {middle.mean():.3g}")
        ticks = {math.log(tick / (1 - tick)): f"{tick:g}" for tick in PROBABILITY_TICKS}
        if log_odds[-1] - log_odds[0] > MAX_CLOSE_TICKS:
            ticks = dict(list(ticks.items())[::2])
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xlim(log_odds[0] - step, log_odds[-1] + step)
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper center", ncols=2)
        return to_svg(figure, f"predictions of {name} by label", "; ".join(described) + ".")


def draw_matrix(name: str, names: Sequence[str], matrix: Sequence[Sequence[float | None]]) -> str:
    """A symmetric matrix of correlations, one of two names at least, below its diagonal; None leaves a cell empty.

    Names without a correlation are left out, and of the others the first `MAX_NAMES` are drawn.
    """
    values = np.array([[np.nan if value is None else value for value in row] for row in matrix])
    values[np.diag_indices(len(names))] = np.nan
    kept = np.flatnonzero(~np.isnan(values).all(axis=1))[:MAX_NAMES]
    names, size = [names[place] for place in kept], len(kept)
    values = values[np.ix_(kept, kept)]
    values[np.triu_indices(size)] = np.nan
    # The first row and the last column have no cell below the diagonal.
    values, rows, columns = values[1:, :-1], names[1:], names[:-1]
    label_inches = CHARACTER_INCHES * max(map(len, names))
    side_inches = 0.5 * (size - 1) + label_inches
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(0.3 + side_inches, 0.3 + 0.34 * (size - 1) + 0.75 * label_inches), layout="constrained"
        )
        axes = figure.add_subplot()
        # The paler half of the colours, on all of which the numbers can be read.
        axes.pcolormesh(values, cmap="PuOr_r", vmin=-2, vmax=2, edgecolors="white", linewidth=2)
        described = []
        for row, column in np.argwhere(~np.isnan(values)):
            value = values[row, column]
            axes.text(column + 0.5, row + 0.5, _signed(value), ha="center", va="center")
            described.append(f"{rows[row]} and {columns[column]} {_signed(value)}")
        axes.set_xticks(np.arange(size - 1) + 0.5, columns, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(size - 1) + 0.5, rows)
        axes.tick_params(length=0, labelcolor=INK)
        axes.invert_yaxis()
        axes.grid(False)
        axes.spines[:].set_visible(False)
        return to_svg(figure, name, "; ".join(described) + ".")


def draw_slice_weights(level: str, task: str, told: Mapping[str, Any]) -> str:
    """The mean weight of each expert in one task's gate: of all rows, and of the slices that differ most from these.

    `told` is what the report tells of the level, with at least one slice; `MAX_SLICES` are drawn.
    """
    whole = told["mean_weight"][task]

    def distance(weights: Sequence[float | None]) -> float:
        return float(sum(abs(one - other) for one, other in zip(weights, whole, strict=True) if one is not None))

    slices = sorted(told["slices"], key=lambda one: -distance(one["mean_weight"][task]))[:MAX_SLICES]
    mixture = {
        "tasks": ["all rows", *(f"{one['dimension']}: {one['value']}" for one in slices)],
        "experts": told["experts"],
        "mean_weight": [whole, *(one["mean_weight"][task] for one in slices)],
    }
    return draw_mean_weights(f"mean gate weight of {task} in {level} by slice", mixture)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Names at the places 0, 1, ..., the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _trained_share(table: Mapping[str, Any]) -> float | None:
    return None if table["untrained_rows"] is None else 1.0 - table["untrained_rows"] / max(table["used_rows"], 1)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
