"""The evaluation report: what it holds, how it is written as `report.json`, and its summary in a terminal."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluate.measure.measure import Measurement
from pipeline.evaluate.report.compare import summarise
from pipeline.evaluate.report.wording import (
    UNDEFINED,
    format_difference,
    format_fraction,
    format_p_value,
    format_value,
    label_of,
    measured_on,
)
from pipeline.files import write_text

REPORT_VERSION = 4
# What fits beside the names in a terminal; the page and report.json have the others.
SUMMARY_METRICS = ("auc", "log_loss", "calibration", "gauc", "accuracy", "mae", "r2")


def build_report(
    measurement: Measurement,
    *,
    title: str,
    split: str,
    model: Mapping[str, Any],
    baseline: Mapping[str, Any] | None,
    schema_fingerprint: str,
    mixtures: Mapping[str, Any],
    alarms: Sequence[str],
    newer_values: Mapping[str, Mapping[str, int]],
    diagnostics: Mapping[str, Any],
) -> dict[str, Any]:
    """The report as plain values that JSON can hold.

    `model` and `baseline` are {"step", "path"}; a finished table has no step. `mixtures` is {level: {"tasks": T names,
    "experts": E names, "mean_weight": T lists of E floats, or None where a task's gate does not see an expert}}, empty
    for a model without experts. `alarms` are those of the last inspection of the training. `newer_values` is {feature:
    {"values", "newer"}} for the features whose tables have grown since: how many of their values the model does not
    know for that reason.
    """
    return {
        "report_version": REPORT_VERSION,
        "title": title,
        "split": split,
        "rows": measurement.num_rows,
        "units": {"kind": measurement.unit, "count": measurement.num_units},
        "num_replicates": measurement.num_replicates,
        "model": dict(model),
        "baseline": None if baseline is None else dict(baseline),
        "schema_fingerprint": schema_fingerprint,
        "tasks": measurement.tasks,
        "slices": measurement.slices,
        "summary": [summarise(task) for task in measurement.tasks],
        "gain": measurement.gain,
        "mixtures": dict(mixtures),
        "alarms": list(alarms),
        "newer_values": dict(newer_values),
        "diagnostics": dict(diagnostics),
    }


def summary_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headers and one row per measured task, as text for a terminal; a dash is undefined, and empty does not apply.

    Where a truth is known for some task, the best reachable AUC and the fraction of it follow the AUC. Where there is a
    baseline, the difference of each task's main metric and its p-value come last.
    """
    tasks = report["tasks"]
    names = [name for name in metric_names(tasks) if name in SUMMARY_METRICS]
    has_best = any(task["metrics"].get("auc", {}).get("best") is not None for task in tasks)
    headers = ["task", "measured on", "rows", "positives"]
    for name in names:
        headers += [label_of(name), "best", "reached"] if name == "auc" and has_best else [label_of(name)]
    if report["baseline"]:
        headers += ["difference", "p"]
    rows = []
    for task in tasks:
        row = [task["name"], measured_on(task), f"{task['rows']:,}", _format_count(task["positives"])]
        for name in names:
            metric = task["metrics"].get(name)
            row.append(format_value(metric["value"]) if metric else "")
            if name == "auc" and has_best:
                row.append(format_value(metric["best"]) if metric else "")
                row.append(format_fraction(metric["fraction_of_best"]) if metric else "")
        if report["baseline"]:
            main = task["metrics"][task["main_metric"]]
            p = main["p_value"]
            without_name = UNDEFINED if p is None else format_p_value(p).removeprefix("p ").removeprefix("= ")
            row += [format_difference(main["difference"]), without_name]
        rows.append(row)
    return headers, rows


def write_report_json(report: Mapping[str, Any], path: Path) -> None:
    """Writes the report, whole or not at all.

    Raises:
        ValueError: the report holds NaN or an infinity, which JSON cannot.
    """
    write_text(path, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def metric_names(tasks: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics that some task has, in the order in which they come."""
    return list(dict.fromkeys(name for task in tasks for name in task["metrics"]))


def _format_count(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
