"""The summary of the page: a sentence on each task, and a table of its metrics with intervals and comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluate.metrics.catalogue import METRICS, definition_of, explain
from pipeline.evaluate.report.compare import SIGNIFICANCE
from pipeline.evaluate.report.report import metric_names
from pipeline.evaluate.report.wording import (
    UNDEFINED,
    format_difference,
    format_fraction,
    format_p_value,
    format_value,
    label_of,
    measured_on,
)

OTHER_EXPLANATIONS = {
    "has_best": ("best", "The same metric with the true probability or expected value of each row as the prediction."),
    "has_fraction": ("reached", "The part of the way from chance to the best."),
    "has_baseline": (
        "p",
        "How often a difference at least as large would come by chance alone between two models of equal quality, from "
        "the same rows; not corrected for the number of metrics that are looked at.",
    ),
}


def summary_section(report: Mapping[str, Any]) -> dict[str, Any]:
    """Sentences, what all tasks gain together, a table per task, and a sentence on each metric and each column."""
    tasks = report["tasks"]
    tables = [_task_table(task, report["baseline"] is not None) for task in tasks]
    explanations = {}
    for kind in METRICS:
        for name in metric_names([task for task in tasks if task["kind"] == kind]):
            explanations[label_of(name), explain(kind, name)] = True
    others = [words for flag, words in OTHER_EXPLANATIONS.items() if any(table[flag] for table in tables)]
    return {
        "sentences": [
            {"text": sentence, "verdict": verdict(task, name, task["metrics"][name])}
            for sentence, task in zip(report["summary"], tasks, strict=True)
            for name in (task["main_metric"],)
        ],
        "gain": _gain(report["gain"]),
        "tables": tables,
        "explanations": [pair for pair in explanations if pair[1]] + others,
        "intervals": _intervals(report),
    }


def verdict(task: Mapping[str, Any], name: str, cell: Mapping[str, Any], p_value: str = "p_value") -> str:
    """Whether a metric is significantly "better" or "worse" than the baseline's; empty if it is neither."""
    metric, p = definition_of(task["kind"], name), cell[p_value]
    if metric is None or p is None or p >= SIGNIFICANCE:
        return ""
    if metric.better == "nearer 1":
        if (cell["value"] > 1) != (cell["baseline"] > 1):
            # They differ, which does not say that one is nearer.
            return ""
        is_better = abs(cell["value"] - 1) < abs(cell["baseline"] - 1)
    else:
        is_better = (cell["difference"] > 0) == (metric.better == "higher")
    return "better" if is_better else "worse"


def format_interval(low: float | None, high: float | None) -> str:
    return UNDEFINED if low is None else f"{format_difference(low)} to {format_difference(high)}"


def _task_table(task: Mapping[str, Any], has_baseline: bool) -> dict[str, Any]:
    """The rows of the metrics that are defined for some model, and the names of the others by the reason."""
    cells: Sequence[Mapping[str, Any]] = list(task["metrics"].values())
    undefined: dict[str, list[str]] = {}
    for name, cell in task["metrics"].items():
        if cell["value"] is None and cell["baseline"] is None:
            undefined.setdefault(cell["reason"], []).append(label_of(name))
    counts = [f"{task['rows']:,} rows"]
    if task["positives"] is not None:
        share = f" ({format_fraction(task['positives'] / task['rows'])})" if task["rows"] else ""
        counts.append(f"{task['positives']:,} positives{share}")
    return {
        "name": task["name"],
        "about": ", ".join([measured_on(task), *counts]),
        "has_best": any(cell["best"] is not None for cell in cells),
        "has_fraction": any(cell["fraction_of_best"] is not None for cell in cells),
        "has_baseline": has_baseline,
        "rows": [
            _metric_row(task, name, cell)
            for name, cell in task["metrics"].items()
            if cell["value"] is not None or cell["baseline"] is not None
        ],
        "undefined": [f"{', '.join(names)}: undefined, {reason}" for reason, names in undefined.items()],
    }


def _metric_row(task: Mapping[str, Any], name: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "label": label_of(name),
        "value": format_value(cell["value"]),
        "interval": format_interval(cell["low"], cell["high"]),
        "reason": cell["reason"],
        "best": format_value(cell["best"]),
        "fraction": "" if cell["fraction_of_best"] is None else format_fraction(cell["fraction_of_best"]),
        "baseline": format_value(cell["baseline"]),
        "baseline_reason": cell["baseline_reason"],
        "difference": format_difference(cell["difference"]),
        "difference_interval": format_interval(cell["difference_low"], cell["difference_high"]),
        "p": format_p(cell["p_value"]),
        "verdict": verdict(task, name, cell),
    }


def format_p(p: float | None) -> str:
    """For a column of p-values."""
    return UNDEFINED if p is None else format_p_value(p).removeprefix("p ").removeprefix("= ")


def _gain(gain: Mapping[str, Any] | None) -> str:
    if gain is None or gain["multi_task_gain"] is None:
        return ""
    ends = [gain["multi_task_gain"], gain["low"], gain["high"]]
    value, *interval = (UNDEFINED if end is None else f"{end:+.2%}".replace("-", "\N{MINUS SIGN}") for end in ends)
    known = "" if gain["low"] is None else f" (95% interval {interval[0]} to {interval[1]}"
    if known:
        known += ")" if gain["p_value"] is None else f", {format_p_value(gain['p_value'])})"
    paying = ", ".join(gain["seesaw"])
    seesaw = f"; significantly worse while others are better (seesaw): {paying}" if paying else ""
    return f"all tasks: mean relative gain of the main metrics over the baseline {value}{known}{seesaw}"


def _intervals(report: Mapping[str, Any]) -> str:
    units = report["units"]
    compared = (
        ", and a difference from the baseline compares both models on the same rows" if report["baseline"] else ""
    )
    return (
        f"Intervals are 95% intervals from {report['num_replicates']:,} bootstrap replicates over "
        f"{units['count']:,} {units['kind']}s{compared}."
    )
