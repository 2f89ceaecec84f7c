"""What the correlation study says: statements of the papers with intervals, the page and the plot.

Shapes: S seeds, P correlations.
"""

import argparse
import math
import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

CORRELATIONS = (0.0, 0.5, 0.9, 1.0)
NAMES = {
    "single_task": "Single-task", "shared_bottom": "Shared-Bottom", "omoe": "OMoE", "mmoe": "MMoE", "cgc": "CGC",
    "ple": "PLE",
}  # fmt: skip
NUM_RESAMPLES = 10_000
COLORS = ("#6b7785", "#1f5a96", "#c2570c", "#2a7f62", "#8a4fae", "#b03a5b")

Losses = NDArray[np.float64]  # [S, P]


def interval(statistic: Callable[[NDArray[np.int64]], float], num_seeds: int) -> tuple[float, float, float]:
    """A statistic of a sample of seeds, and its 95% bootstrap interval over seeds."""
    random = np.random.default_rng(0)
    samples = random.integers(0, num_seeds, (NUM_RESAMPLES, num_seeds))
    values = np.array([statistic(sample) for sample in samples])
    low, high = np.quantile(values, (0.025, 0.975))
    return statistic(np.arange(num_seeds)), float(low), float(high)


def statements(losses: dict[str, Losses]) -> list[dict[str, Any]]:
    """What the papers say, each measured twice with a figure that is above 0 where it holds.

    `difference` is one of mean losses. `ratio` is the logarithm of one of geometric means: some seeds make tasks that
    are ten times as hard as those of others, and in a difference of means only the hard ones count.
    """
    at = {p: place for place, p in enumerate(CORRELATIONS)}
    num_seeds = len(losses["mmoe"])
    found: list[dict[str, Any]] = []

    def state(text: str, figure: Callable[[dict[str, Losses]], float], *, is_equality: bool = False) -> None:
        measures = {}
        for name, values in (("difference", losses), ("ratio", {body: np.log(loss) for body, loss in losses.items()})):

            def statistic(seeds: NDArray[np.int64], values: dict[str, Losses] = values) -> float:
                return figure({body: loss[seeds] for body, loss in values.items()})

            value, low, high = interval(statistic, num_seeds)
            if is_equality:
                verdict = "holds" if low <= 0 <= high else "does not hold"
            else:
                verdict = "holds" if low > 0 else "does not hold" if high < 0 else "not decided"
            measures[name] = {"value": value, "low": low, "high": high, "verdict": verdict}
        found.append({"statement": text, **measures})

    def rise(values: dict[str, Losses], body: str, p: float) -> float:
        return float((values[body][:, at[p]] - values[body][:, at[1.0]]).mean())

    for body in list(NAMES)[1:]:
        state(f"(a) {NAMES[body]} is worse at correlation 0 than at 1", partial(rise, body=body, p=0.0))
    for body in ("omoe", "shared_bottom"):
        state(
            f"(b) from correlation 1 to 0.5 {NAMES[body]} loses more than MMoE",
            lambda v, body=body: rise(v, body, 0.5) - rise(v, "mmoe", 0.5),  # type: ignore[misc]
        )
    state(
        "(b) OMoE equals MMoE at correlation 1",
        lambda v: float((v["omoe"] - v["mmoe"])[:, at[1.0]].mean()),
        is_equality=True,
    )
    for body in ("omoe", "mmoe"):
        state(
            f"(c) {NAMES[body]} is better than Shared-Bottom on average",
            lambda v, body=body: float((v["shared_bottom"] - v[body]).mean()),  # type: ignore[misc]
        )
        state(
            f"(c) {NAMES[body]} varies less from run to run than Shared-Bottom",
            lambda v, body=body: float((v["shared_bottom"].std(axis=0) - v[body].std(axis=0)).mean()),  # type: ignore[misc]
        )
    state(
        "(PLE) PLE's mean gain over single-task exceeds MMoE's",
        lambda v: float((v["mmoe"] - v["ple"]).mean()),
    )
    return found


def to_markdown(results: list[dict[str, Any]], found: list[dict[str, Any]], given: argparse.Namespace) -> str:
    """The report: the table of losses and the verdicts."""
    seconds = sum(result["seconds"] for result in results)
    lines = [
        "# Bodies on synthetic tasks of known correlation",
        "",
        "The study of the MMoE paper with the generator of the PLE paper; `correlation_study.py` says how it is made.",
        f"{given.seeds} seeds, {given.steps:,} steps of {given.rows} fresh rows, Adam, its learning rate falling to 0.",
        f"Made by `python infra/benchmarks/correlation_study.py --seeds {given.seeds} --steps {given.steps} --rows "
        f"{given.rows}` with torch {torch.__version__.split('+')[0]} on {os.cpu_count()} CPU cores "
        f"({platform.machine()}); {seconds / 60:.0f} minutes of one core.",
        "",
        "![losses](correlation_study.svg)",
        "",
        "Mean squared error on fresh rows, over both tasks, in thousandths of the label's variance: mean over seeds,",
        "and in brackets the standard deviation from run to run.",
        "",
        "| body | parameters | learning rate | " + " | ".join(f"p = {p}" for p in CORRELATIONS) + " | mean |",
        "|---|---|---|" + "---|" * (len(CORRELATIONS) + 1),
    ]
    for result in results:
        losses = 1000 * np.array(result["losses"])
        cells = [f"{m:.2f} ({s:.2f})" for m, s in zip(losses.mean(axis=0), losses.std(axis=0, ddof=1), strict=True)]
        cells.append(f"{losses.mean():.2f}")
        name, size = NAMES[result["body"]], f"{result['num_parameters']:,}"
        lines.append(f"| {name} | {size} | {result['learning_rate']} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "What the papers say, with 95% bootstrap intervals over seeds; all bodies of a seed see the same rows. Some",
        "seeds make tasks that are ten times as hard as others', and in a difference of means (in thousandths) only",
        "those count: the ratio is one of geometric means. A spread is compared by standard deviations, of the loss",
        "and of its logarithm.",
        "",
        "| statement | difference | verdict | ratio | verdict |",
        "|---|---|---|---|---|",
    ]
    for one in found:
        value, low, high = (1000 * one["difference"][key] for key in ("value", "low", "high"))
        cells = [one["statement"], f"{value:+.2f} ({low:+.2f} to {high:+.2f})", one["difference"]["verdict"]]
        value, low, high = (math.exp(one["ratio"][key]) for key in ("value", "low", "high"))
        cells += [f"{value:.2f} ({low:.2f} to {high:.2f})", one["ratio"]["verdict"]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Against the correlation: geometric mean of the loss, its ratio to that at 1, and the spread from run to run."""
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "correlation", "font.size": 9, "axes.spines.top": False,
                  "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6eaee"}  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10.5, 3.6), layout="constrained")
        mean_axes, ratio_axes, spread_axes = figure.subplots(1, 3)
        for place, (result, color) in enumerate(zip(results, COLORS, strict=True)):
            logs = np.log(1000 * np.array(result["losses"]))
            line: Any = {"color": color, "markersize": 3}
            mean_axes.plot(CORRELATIONS, np.exp(logs.mean(axis=0)), "o-", label=NAMES[result["body"]], **line)
            rises = logs - logs[:, -1:]
            ends = [interval(partial(_mean_at, rises, p), len(rises)) for p in range(len(CORRELATIONS))]
            value, low, high = np.exp(np.array(ends).T)
            # Side by side, so that no interval hides another.
            x = np.array(CORRELATIONS) + 0.012 * (place - 2.5)
            ratio_axes.errorbar(x, value, yerr=[value - low, high - value], fmt="o-", elinewidth=1, **line)
            spread_axes.plot(CORRELATIONS, np.exp(logs).std(axis=0, ddof=1), "o-", **line)
        for axes, title in (
            (mean_axes, "error in thousandths, geometric mean"),
            (ratio_axes, "error over that at correlation 1, 95% intervals"),
            (spread_axes, "its standard deviation from run to run"),
        ):
            axes.set_xlabel("correlation of the tasks")
            axes.set_title(title, fontsize=9, loc="left")
        mean_axes.set_ylim(bottom=0)
        spread_axes.set_ylim(bottom=0)
        figure.legend(loc="outside lower center", ncols=len(results), frameon=False)
        figure.savefig(path, metadata={"Date": None})


def _mean_at(values: NDArray[np.float64], place: int, seeds: NDArray[np.int64]) -> float:
    return float(values[seeds, place].mean())
