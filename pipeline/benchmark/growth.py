"""`gatehouse benchmark preprocess --growth`: the cost as rows and distinct values grow, and its plot."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.benchmark.log import VALIDATION_FROM, LogSpec
from pipeline.benchmark.preprocess import MIN_COUNT, gatehouse, prepare_job
from pipeline.benchmark.rounds import Frame, StartStage, record, take_rounds
from pipeline.evaluate.page.plots import BLUE, INK, MUTED, ORANGE

GROWTH = "preprocess-growth"
# Of the rows that are asked for.
ROW_FACTORS = (0.2, 1, 4)
VALUE_FACTORS = (0.002, 0.2, 2)
GB, MILLION = 1e9, 1e6

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "growth",
    "font.size": 9,
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


def grow(frame: Frame, num_rows: int, start_stage: StartStage) -> dict[str, Any]:
    """Gatehouse on logs that grow: the record of all figures, as of a comparison of logs instead of engines.

    The wide log has a fifth of `num_rows`, as many, and four times as many. Beside it logs of one categorical, all of
    two and a half times `num_rows`, have 0.002, 0.2 and 2 times as many distinct values, each in the training rows.
    """
    row_counts = [round(num_rows * factor) for factor in ROW_FACTORS]
    value_counts = [round(num_rows * factor) for factor in VALUE_FACTORS]
    # The values take turns: so many rows that the training rows have the largest number of values once.
    tall_rows = round(value_counts[-1] / VALIDATION_FROM)
    logs = [(f"{rows:,} rows", "wide", LogSpec.wide(rows), MIN_COUNT) for rows in row_counts]
    logs += [
        (f"{values:,} values", f"even-{values}", LogSpec(tall_rows, (values,), 0, is_even=True), 1)
        for values in value_counts
    ]
    contestants = []
    for title, name, spec, min_count in logs:
        job = prepare_job(frame.work, name, spec, min_count, frame.num_threads, start_stage(f"log of {title}"))
        contestants.append(gatehouse(frame.work / "growth" / job.log.name, job, title))
    usages = take_rounds(contestants, frame, start_stage("preprocess"))
    settings = {"row_counts": row_counts, "value_counts": value_counts, "tall_rows": tall_rows}
    return record(GROWTH, settings, contestants, usages, frame)


def draw_growth(found: dict[str, Any], path: Path) -> None:
    """Speed and memory against rows and against distinct values, medians and ranges of the rounds, as an SVG file."""
    settings, points = found["settings"], found["contestants"]
    row_counts, value_counts = settings["row_counts"], settings["value_counts"]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.4, 5.0), layout="constrained")
        (row_speed, value_speed), (row_memory, value_memory) = figure.subplots(2, 2)
        row_speed.set_title(f"26 categoricals, min_count {MIN_COUNT}, and 13 numbers", loc="left", fontsize=9)
        tall = f"1 categorical, min_count 1, in {settings['tall_rows'] / MILLION:g} M rows"
        value_speed.set_title(tall, loc="left", fontsize=9)
        for axes, label in ((row_memory, "rows"), (value_memory, "distinct values")):
            axes.set_xlabel(label)
        # Where a legend covers nothing: memory does not grow with the rows, and it does with the values.
        for counts, own, speed, memory, free_corner in (
            (row_counts, points[: len(row_counts)], row_speed, row_memory, "lower right"),
            (value_counts, points[len(row_counts) :], value_speed, value_memory, "upper left"),
        ):
            rates = [[p["num_rows"] / run["seconds"] / MILLION for run in p["runs"]] for p in own]
            _draw_line(speed, counts, rates, BLUE)
            speed.set_ylabel("million rows/s")
            for name, color, label in (
                ("peak_rss_bytes", ORANGE, "resident, with mapped files"),
                ("peak_anonymous_bytes", BLUE, "anonymous"),
            ):
                _draw_line(memory, counts, [[run[name] / GB for run in p["runs"]] for p in own], color, label)
            memory.set_ylabel("peak memory, GB")
            memory.legend(loc=free_corner)
        figure.savefig(path, metadata={"Date": None})


def _draw_line(
    axes: Axes, counts: Sequence[int], values: Sequence[Sequence[float]], color: str, label: str | None = None
) -> None:
    """The median of each point's rounds, with bars to the lowest and the highest."""
    middles = [median(own) for own in values]
    below = [middle - min(own) for middle, own in zip(middles, values, strict=True)]
    above = [max(own) - middle for middle, own in zip(middles, values, strict=True)]
    axes.errorbar(counts, middles, yerr=[below, above], fmt="o-", markersize=4, elinewidth=1, color=color, label=label)
    axes.set(xscale="log", ylim=(0, max(axes.get_ylim()[1], 1.15 * max(map(max, values)))))
    axes.set_xticks(list(counts), [f"{count:,}" for count in counts])
    axes.minorticks_off()
