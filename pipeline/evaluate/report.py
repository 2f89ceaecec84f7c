"""The evaluation report: what it holds, how it is written as `report.json`, and its summary in a terminal."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pipeline.evaluate.calibration import calibration_curve
from pipeline.evaluate.metrics import Predictions, compute_metrics
from pipeline.files import write_text

REPORT_VERSION = 2
UNDEFINED = "\N{EN DASH}"
_LABELS = {"auc": "AUC", "gauc": "GAUC", "mae": "MAE", "rmse": "RMSE", "r2": "R²"}

Scope = Literal["own space", "all impressions"]


def measure_task(
    name: str, kind: str, predictions: Predictions, *, space: str | None = None, scope: Scope = "own space"
) -> dict[str, Any]:
    """One entry of a report's `tasks`: every metric of a task on the rows it is given.

    `space` is the binary task whose positive rows the task is defined on. A conditional task may be measured twice, on
    its own space and, under the name `joint_<task>`, on all impressions.
    """
    is_binary = kind == "binary"
    metrics = compute_metrics(kind, predictions)
    return {
        "name": name,
        "kind": kind,
        "space": space,
        "scope": scope,
        "rows": predictions.num_rows,
        "positives": predictions.num_positives if is_binary else None,
        "metrics": {metric: asdict(measured) for metric, measured in metrics.items()},
        "calibration_curve": calibration_curve(predictions) if is_binary else [],
    }


def build_report(
    *,
    title: str,
    split: str,
    num_rows: int,
    checkpoint_step: int,
    checkpoint_path: str,
    schema_fingerprint: str,
    tasks: Sequence[Mapping[str, Any]],
    mixtures: Mapping[str, Any],
    alarms: Sequence[str],
    newer_values: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
    """The report as plain values that JSON can hold.

    `tasks` are results of `measure_task`. `mixtures` is {level: {"tasks": T names, "experts": E names, "mean_weight":
    T lists of E floats, or None where a task's gate does not see an expert}}, empty for a model without experts.
    `alarms` are those of the last inspection of the training. `newer_values` is {feature: {"values", "newer"}} for the
    features whose tables have grown since: how many of their values the model does not know for that reason.
    """
    return {
        "report_version": REPORT_VERSION,
        "title": title,
        "split": split,
        "rows": num_rows,
        "checkpoint": {"step": checkpoint_step, "path": checkpoint_path},
        "schema_fingerprint": schema_fingerprint,
        "tasks": list(tasks),
        "mixtures": dict(mixtures),
        "alarms": list(alarms),
        "newer_values": dict(newer_values),
    }


def summary_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headers and one row per measured task, as text for a terminal; a dash is undefined, and empty does not apply.

    The best reachable AUC and the fraction of it follow the AUC where a truth is known for some task.
    """
    names = metric_names(report["tasks"])
    has_best = any(task["metrics"].get("auc", {}).get("best") is not None for task in report["tasks"])
    headers = ["task", "measured on", "rows", "positives"]
    for name in names:
        headers += [label_of(name), "best", "reached"] if name == "auc" and has_best else [label_of(name)]
    rows = []
    for task in report["tasks"]:
        row = [task["name"], measured_on(task), f"{task['rows']:,}", _format_count(task["positives"])]
        for name in names:
            metric = task["metrics"].get(name)
            row.append(format_value(metric["value"]) if metric else "")
            if name == "auc" and has_best:
                row.append(format_value(metric["best"]) if metric else "")
                row.append(format_fraction(metric["fraction_of_best"]) if metric else "")
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


def label_of(name: str) -> str:
    """A metric's name as people write it."""
    return _LABELS.get(name, name.replace("_", " "))


def measured_on(task: Mapping[str, Any]) -> str:
    """The rows that a task is measured on, in words."""
    return f"rows with {task['space']}" if task["space"] and task["scope"] == "own space" else "all impressions"


def format_value(value: float | None) -> str:
    """About four significant digits."""
    if value is None:
        return UNDEFINED
    if value != 0 and not 5e-4 <= abs(value) < 1e6:
        return f"{value:.3e}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def format_fraction(fraction: float | None) -> str:
    """A percentage with one decimal."""
    return UNDEFINED if fraction is None else f"{fraction:.1%}"


def _format_count(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
