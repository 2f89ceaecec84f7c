"""Two models on the same rows: differences with intervals and p-values, what all tasks gain, and a sentence per task.

The replicates of both models count every unit alike, so their difference varies only by where the models differ: a
paired comparison.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.evaluate.metrics.catalogue import definition_of
from pipeline.evaluate.metrics.resample import Estimate, adjust_p_values, around, p_value
from pipeline.evaluate.metrics.rows import Metric
from pipeline.evaluate.report.wording import format_difference, format_fraction, format_p_value, format_value, label_of

SIGNIFICANCE = 0.05


def describe(model: Estimate, baseline: Estimate | None) -> dict[str, Any]:
    """A metric in the report: its value with a 95% interval, and the difference from the baseline's."""
    interval = model.interval()
    return {
        "value": model.value,
        "low": interval and interval.low,
        "high": interval and interval.high,
        "reason": model.reason,
        **_describe_difference(model, baseline),
    }


def describe_best(metric: Metric, model: Estimate, truth: Estimate | None) -> dict[str, float | None]:
    """The same metric with the truth as the prediction, and the part of the way there from the value at chance."""
    value, best = model.value, truth and truth.value
    fraction = None
    if metric.chance is not None and value is not None and best is not None and best > metric.chance:
        fraction = (value - metric.chance) / (best - metric.chance)
    return {"best": best, "fraction_of_best": fraction}


def _describe_difference(model: Estimate, baseline: Estimate | None) -> dict[str, Any]:
    cell: dict[str, Any] = dict.fromkeys(
        ("baseline", "baseline_reason", "difference", "difference_low", "difference_high", "p_value")
    )
    if baseline is None:
        return cell
    cell |= {"baseline": baseline.value, "baseline_reason": baseline.reason}
    if model.value is None or baseline.value is None:
        return cell
    difference, replicates = model.value - baseline.value, model.replicates - baseline.replicates
    cell |= {"difference": difference, "p_value": p_value(difference, replicates)}
    interval = around(difference, replicates)
    if interval is not None:
        cell |= {"difference_low": interval.low, "difference_high": interval.high}
    return cell


def adjust_slices(slices: Sequence[Mapping[str, Any]]) -> None:
    """Gives every metric of every slice its `adjusted_p_value`: that of a task's large slices, tested together."""
    tested: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in slices:
        for name, task in one["tasks"].items():
            for metric, cell in task["metrics"].items():
                cell["adjusted_p_value"] = None
                if not task["small"] and cell["p_value"] is not None:
                    tested.setdefault((name, metric), []).append(cell)
    for cells in tested.values():
        adjusted = adjust_p_values([cell["p_value"] for cell in cells])
        for cell, p in zip(cells, adjusted, strict=True):
            cell["adjusted_p_value"] = p


class Compared(NamedTuple):
    """The main metric of a task, of both models."""

    task: str
    metric: Metric
    model: Estimate
    baseline: Estimate


def compute_gain(compared: Iterable[Compared]) -> dict[str, Any]:
    """The mean relative gain over the tasks with its interval, and the tasks that pay for the others (seesaw).

    A task's gain is the difference of its main metric over the baseline's value, positive where the model is better
    (Maninis et al. 2019, "Attentive single-tasking of multiple tasks"). A seesaw is a task that is significantly worse
    while another one is significantly better (Tang et al. 2020, "Progressive layered extraction").
    """
    gains, replicates = [], []
    better: list[str] = []
    worse: list[str] = []
    for task, metric, model, baseline in compared:
        if model.value is None or not baseline.value:
            continue
        sign = -1 if metric.better == "lower" else 1
        gains.append(sign * (model.value - baseline.value) / abs(baseline.value))
        with np.errstate(divide="ignore", invalid="ignore"):
            replicates.append(sign * (model.replicates - baseline.replicates) / np.abs(baseline.replicates))
        p = p_value(model.value - baseline.value, model.replicates - baseline.replicates)
        if p is not None and p < SIGNIFICANCE:
            (better if gains[-1] > 0 else worse).append(task)
    if not gains:
        return {"multi_task_gain": None, "low": None, "high": None, "p_value": None, "seesaw": []}
    gain, of_replicates = float(np.mean(gains)), np.mean(replicates, axis=0)
    interval = around(gain, of_replicates)
    return {
        "multi_task_gain": gain,
        "low": interval and interval.low,
        "high": interval and interval.high,
        "p_value": p_value(gain, of_replicates),
        "seesaw": worse if better else [],
    }


def summarise(task: Mapping[str, Any]) -> str:
    """One sentence on the main metric of a task of the report, whether it changed, and how near it is to the best."""
    return _summarise_change(task) + _near_best(task["metrics"][task["main_metric"]])


def _summarise_change(task: Mapping[str, Any]) -> str:
    name = task["main_metric"]
    cell = task["metrics"][name]
    start = f"{task['name']}: {label_of(name)}"
    if cell["value"] is None:
        return f"{start} is undefined: {cell['reason']}"
    start = f"{start} {format_value(cell['value'])}"
    if cell["baseline_reason"]:
        return f"{start}; that of the baseline is undefined: {cell['baseline_reason']}"
    if cell["baseline"] is None:
        return f"{start} ({_interval(cell['low'], cell['high'])})"
    difference, low, high, p = (cell[field] for field in ("difference", "difference_low", "difference_high", "p_value"))
    if p is None:
        return f"{start}, {format_difference(difference)} from the baseline, with too few units for an interval"
    if p >= SIGNIFICANCE:
        return (
            f"{start}, no significant difference from the baseline ({format_difference(difference)}, "
            f"{_interval(low, high)}, {format_p_value(p)})"
        )
    metric = definition_of(task["kind"], name)
    is_better = difference < 0 if metric and metric.better == "lower" else difference > 0
    if difference < 0:
        low, high = -high, -low
    verdict = "better" if is_better else "worse"
    return (
        f"{start}, {format_difference(abs(difference))} {verdict} than the baseline ({_interval(low, high)}, "
        f"{format_p_value(p)})"
    )


def _near_best(cell: Mapping[str, Any]) -> str:
    if cell["best"] is None or cell["value"] is None:
        return ""
    best = format_value(cell["best"])
    if cell["fraction_of_best"] is None:
        return f"; the best possible is {best}"
    return f"; {format_fraction(cell['fraction_of_best'])} of the way from chance to the best possible {best}"


def _interval(low: float | None, high: float | None) -> str:
    if low is None:
        return "too few units for an interval"
    return f"95% interval {format_difference(low)} to {format_difference(high)}"
