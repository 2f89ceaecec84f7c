"""The page of a report, `report.html`: one file that opens offline, with every table and plot in it."""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.evaluate.data import data_section
from pipeline.evaluate.inspections import cosine_panels, expert_levels, gradient_figures
from pipeline.evaluate.metrics import METRICS
from pipeline.evaluate.plots import draw_calibration, draw_training
from pipeline.evaluate.report import UNDEFINED, format_fraction, format_value, label_of, measured_on, metric_names
from pipeline.files import write_text
from pipeline.train.checkpoints.lineage import describe_newer_values

MAX_ALARMS = 8


def render_html(
    report: Mapping[str, Any],
    path: Path,
    training_history: Sequence[Mapping[str, Any]],
    inspections: Sequence[Mapping[str, Any]],
    ranked_sample: Mapping[str, Any] | None,
    statistics: Mapping[str, Any] | None = None,
) -> None:
    """Writes the report as one page that needs no other file and no network; equal input gives equal bytes.

    `training_history` has one record per measured step: {"step", "epoch", "kind": "train" or "validation", "losses":
    {task: loss}, "total"}; a later record of the same step and kind replaces an earlier one. `inspections` are the
    records of inspections.jsonl, in order of steps. `ranked_sample` is {"columns", "rows"}, with the request in the
    first column. `statistics` is the content of the dataset's statistics.json.
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
    for kind in METRICS:
        tasks = [task for task in report["tasks"] if task["kind"] == kind]
        if tasks:
            tables.append({"title": f"{kind.replace('_', ' ').capitalize()} tasks", **_table(kind, tasks)})
    page = environment.get_template("report.html.j2").render(
        report=report,
        tables=tables,
        calibration=[_calibration_figure(task) for task in report["tasks"] if task["calibration_curve"]],
        training=[_training_figure(name, curves) for name, curves in _loss_curves(training_history).items()],
        levels=expert_levels(report["mixtures"], inspections, report["split"]),
        alarms=report["alarms"][:MAX_ALARMS],
        num_more_alarms=max(0, len(report["alarms"]) - MAX_ALARMS),
        gradients=gradient_figures(inspections),
        cosines=cosine_panels(inspections),
        ranked_sample=ranked_sample,
        data=data_section(statistics) if statistics else None,
        newer_values=describe_newer_values(report["newer_values"]),
        format_value=format_value,
        format_fraction=format_fraction,
        format_cell=_format_cell,
    )
    write_text(path, page)


def _table(kind: str, tasks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The summary of tasks of one kind: headers, rows of cells, and a sentence on each metric."""
    names = metric_names(tasks)
    headers = ["rows", *([] if tasks[0]["positives"] is None else ["positives"]), *map(label_of, names)]
    rows = []
    for task in tasks:
        counts = [f"{count:,}" for count in (task["rows"], task["positives"]) if count is not None]
        cells = [task["metrics"][name] for name in names]
        rows.append({"name": task["name"], "measured_on": measured_on(task), "counts": counts, "cells": cells})
    return {
        "headers": headers,
        "rows": rows,
        "explanations": [(label_of(name), _explain(kind, name)) for name in names],
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
        "about": measured_on(task),
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


def _explain(kind: str, name: str) -> str:
    """The first line of the metric's docstring; empty for a metric of another version."""
    function = METRICS[kind].get(name)
    return (inspect.getdoc(function) or "").split("\n")[0] if function else ""


def _format_cell(value: object) -> str:
    return UNDEFINED if value is None else format_value(value) if isinstance(value, float) else str(value)
