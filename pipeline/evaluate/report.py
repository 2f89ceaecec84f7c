"""The evaluation report: what it holds, and how it is written as `report.json` and shown as `report.html`."""

import inspect
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.evaluate.metrics import (
    BINARY_METRICS,
    REGRESSION_METRICS,
    Predictions,
    binary_metrics,
    calibration_curve,
    regression_metrics,
)
from pipeline.evaluate.plots import draw_calibration, draw_gates, draw_training
from pipeline.files import write_text

REPORT_VERSION = 1
UNDEFINED = "\N{EN DASH}"
_LABELS = {"auc": "AUC", "gauc": "GAUC", "mae": "MAE", "rmse": "RMSE", "r2": "R²"}

Kind = Literal["binary", "regression"]
Scope = Literal["own space", "all impressions"]


def measure_task(
    name: str, kind: Kind, predictions: Predictions, *, space: str | None = None, scope: Scope = "own space"
) -> dict[str, Any]:
    """One entry of a report's `tasks`: every metric of a task on the rows it is given.

    `space` is the binary task whose positive rows the task is defined on. A conditional task may be measured twice, on
    its own space and, under the name `joint_<task>`, on all impressions.
    """
    is_binary = kind == "binary"
    metrics = binary_metrics(predictions) if is_binary else regression_metrics(predictions)
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
    gates: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The report as plain values that JSON can hold.

    `tasks` are results of `measure_task`. `gates` is {"tasks": T names, "experts": E names, "mean_weight": T lists of
    E floats, or None where a task's gate does not see an expert}; None for a model without gates.
    """
    return {
        "report_version": REPORT_VERSION,
        "title": title,
        "split": split,
        "rows": num_rows,
        "checkpoint": {"step": checkpoint_step, "path": checkpoint_path},
        "schema_fingerprint": schema_fingerprint,
        "tasks": list(tasks),
        "gates": gates,
    }


def summary_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headers and one row per measured task, as text for a terminal; a dash is undefined, and empty does not apply.

    The best reachable AUC and the fraction of it follow the AUC where a truth is known for some task.
    """
    names = _metric_names(report["tasks"])
    has_best = any(task["metrics"].get("auc", {}).get("best") is not None for task in report["tasks"])
    headers = ["task", "measured on", "rows", "positives"]
    for name in names:
        headers += [_label(name), "best", "reached"] if name == "auc" and has_best else [_label(name)]
    rows = []
    for task in report["tasks"]:
        row = [task["name"], _measured_on(task), f"{task['rows']:,}", _format_count(task["positives"])]
        for name in names:
            metric = task["metrics"].get(name)
            row.append(_format_value(metric["value"]) if metric else "")
            if name == "auc" and has_best:
                row.append(_format_value(metric["best"]) if metric else "")
                row.append(_format_fraction(metric["fraction_of_best"]) if metric else "")
        rows.append(row)
    return headers, rows


def write_report_json(report: Mapping[str, Any], path: Path) -> None:
    """Writes the report, whole or not at all.

    Raises:
        ValueError: the report holds NaN or an infinity, which JSON cannot.
    """
    write_text(path, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def render_html(
    report: Mapping[str, Any],
    path: Path,
    training_history: Sequence[Mapping[str, Any]],
    ranked_sample: Mapping[str, Any] | None,
) -> None:
    """Writes the report as one page that needs no other file and no network; equal input gives equal bytes.

    `training_history` has one record per measured step: {"step", "epoch", "kind": "train" or "validation", "losses":
    {task: loss}, "total"}; a later record of the same step and kind replaces an earlier one. `ranked_sample` is
    {"columns", "rows"}, with the request in the first column.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    tables = []
    for kind, title in (("binary", "Binary tasks"), ("regression", "Regression tasks")):
        tasks = [task for task in report["tasks"] if task["kind"] == kind]
        if tasks:
            tables.append({"title": title, **_table(tasks)})
    page = environment.get_template("report.html.j2").render(
        report=report,
        tables=tables,
        calibration=[_calibration_figure(task) for task in report["tasks"] if task["calibration_curve"]],
        training=[_training_figure(name, curves) for name, curves in _loss_curves(training_history).items()],
        gates=Markup(draw_gates(report["gates"])) if report["gates"] else None,
        ranked_sample=ranked_sample,
        format_value=_format_value,
        format_fraction=_format_fraction,
        format_cell=_format_cell,
    )
    write_text(path, page)


def _table(tasks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The summary of tasks of one kind: headers, rows of cells, and a sentence on each metric."""
    names = _metric_names(tasks)
    headers = ["rows", *([] if tasks[0]["positives"] is None else ["positives"]), *map(_label, names)]
    rows = []
    for task in tasks:
        counts = [f"{count:,}" for count in (task["rows"], task["positives"]) if count is not None]
        cells = [task["metrics"][name] for name in names]
        rows.append({"name": task["name"], "measured_on": _measured_on(task), "counts": counts, "cells": cells})
    return {
        "headers": headers,
        "rows": rows,
        "explanations": [(_label(name), _explain(name)) for name in names],
        "has_best": any(cell["best"] is not None for row in rows for cell in row["cells"]),
        "has_fraction": any(cell["fraction_of_best"] is not None for row in rows for cell in row["cells"]),
    }


def _calibration_figure(task: Mapping[str, Any]) -> dict[str, str]:
    caption = (
        f"A dot above the dashed line means that {task['name']} happened more often than predicted; each dot stands "
        f"for about the same number of rows, and its bar is a 95% interval."
    )
    return {
        "title": task["name"],
        "about": _measured_on(task),
        "svg": Markup(draw_calibration(task)),
        "caption": caption,
    }


def _training_figure(name: str, curves: Mapping[str, Mapping[int, float]]) -> dict[str, str]:
    caption = (
        "Lower is better, and validation rising while train (averaged over neighbouring steps) falls is overfitting; "
        "train losses of the first tenth of the steps may lie above the frame."
    )
    svg = Markup(draw_training(name, curves["train"], curves["validation"]))
    return {"title": name, "about": "", "svg": svg, "caption": caption}


def _loss_curves(history: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[int, float]]]:
    """Loss by name, kind and step, in order of step; the total only where there are several tasks."""
    curves: dict[str, dict[str, dict[int, float]]] = {}
    for record in sorted(history, key=lambda record: record["step"]):
        losses = dict(record["losses"])
        if len(losses) > 1:
            losses["all tasks"] = record["total"]
        for name, loss in losses.items():
            if loss is not None and math.isfinite(loss):
                curves.setdefault(name, {"train": {}, "validation": {}})[record["kind"]][record["step"]] = loss
    return curves


def _metric_names(tasks: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for task in tasks for name in task["metrics"]))


def _label(name: str) -> str:
    return _LABELS.get(name, name.replace("_", " "))


def _explain(name: str) -> str:
    """The first line of the metric's docstring; empty for a metric of another version."""
    function = (BINARY_METRICS | REGRESSION_METRICS).get(name)
    return (inspect.getdoc(function) or "").split("\n")[0] if function else ""


def _measured_on(task: Mapping[str, Any]) -> str:
    return f"rows with {task['space']}" if task["space"] and task["scope"] == "own space" else "all impressions"


def _format_value(value: float | None) -> str:
    """About four significant digits."""
    if value is None:
        return UNDEFINED
    if value != 0 and not 5e-4 <= abs(value) < 1e6:
        return f"{value:.3e}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def _format_fraction(fraction: float | None) -> str:
    return UNDEFINED if fraction is None else f"{fraction:.1%}"


def _format_count(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _format_cell(value: object) -> str:
    return UNDEFINED if value is None else _format_value(value) if isinstance(value, float) else str(value)
