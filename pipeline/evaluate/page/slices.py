"""The slices of the page: a table of every task in every slice, worst first, and plots of slices against all rows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.evaluate.metrics.catalogue import definition_of
from pipeline.evaluate.page.slice_plot import Span, draw_slices
from pipeline.evaluate.page.summary import format_interval, format_p, verdict
from pipeline.evaluate.report.wording import format_difference, format_fraction, format_value, label_of

MAX_DRAWN = 16
# Of each task on paper, where nothing filters.
MAX_PRINTED = 12
VALUES_CAPTION = (
    "A dot is a slice, its bar a 95% interval; the band is the interval of all rows. A bar that misses the band is a "
    "slice that differs by more than chance, be it by the model or because its rows are harder to tell apart."
)
DIFFERENCES_CAPTION = (
    "The difference from the baseline in each slice, with its 95% interval: a bar that misses the dashed line at 0 is "
    "a difference beyond chance in that slice alone. The band is the difference on all rows."
)


def slices_section(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rows of the table, what to filter them by, the figures, and the slices that became worse; None of no slices.

    The rows come by task: first slices that are significantly worse than the baseline, then the others by their value,
    the worst first; small slices come last.
    """
    if not report["slices"]:
        return None
    ordered = {task["name"]: _worst_first(task, report["slices"]) for task in report["tasks"]}
    rows = [
        {**_row(task, one), "is_printed": place < MAX_PRINTED}
        for task in report["tasks"]
        for place, one in enumerate(ordered[task["name"]])
    ]
    return {
        "rows": rows,
        "tasks": list(ordered),
        "dimensions": list(dict.fromkeys(one["dimension"] for one in report["slices"])),
        "has_baseline": report["baseline"] is not None,
        "max_printed": MAX_PRINTED,
        "num_small": sum(row["small"] for row in rows),
        "groups": _groups(report["tasks"], ordered),
        "worse": [f"{row['task']} in {row['dimension']} {row['value']}" for row in rows if row["verdict"] == "worse"],
    }


def _worst_first(task: Mapping[str, Any], slices: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    name = task["main_metric"]
    metric = definition_of(task["kind"], name)
    sign = -1 if metric and metric.better == "lower" else 1

    def order(one: Mapping[str, Any]) -> tuple[bool, bool, float]:
        told = one["tasks"][task["name"]]
        cell = told["metrics"][name]
        is_worse = verdict(task, name, cell, "adjusted_p_value") == "worse"
        return told["small"], not is_worse, math.inf if cell["value"] is None else sign * cell["value"]

    return sorted((one for one in slices if one["tasks"][task["name"]]["rows"]), key=order)


def _row(task: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a slice; those to sort by are pairs of a number, None if undefined, and a text."""
    name = task["main_metric"]
    told, whole = one["tasks"][task["name"]], task["metrics"][name]["value"]
    cell, calibration = told["metrics"][name], told["metrics"].get("calibration", {"value": None})
    to_whole = None if cell["value"] is None or whole is None else cell["value"] - whole
    if to_whole is not None and abs(to_whole) < 1e-4 * abs(whole):
        to_whole = 0.0
    return {
        "task": task["name"],
        "dimension": one["dimension"],
        "value": one["value"],
        "small": told["small"],
        "metric": label_of(name),
        "rows": (told["rows"], f"{told['rows']:,}"),
        "share": format_fraction(told["rows"] / task["rows"]),
        "positives": (told["positives"], "" if told["positives"] is None else f"{told['positives']:,}"),
        "main": (cell["value"], format_value(cell["value"])),
        "interval": format_interval(cell["low"], cell["high"]) if cell["reason"] is None else cell["reason"],
        "to_whole": (to_whole, format_difference(to_whole)),
        "calibration": (calibration["value"], format_value(calibration["value"])),
        "difference": (cell["difference"], format_difference(cell["difference"])),
        "difference_interval": format_interval(cell["difference_low"], cell["difference_high"]),
        "p": (cell["adjusted_p_value"], format_p(cell["adjusted_p_value"])),
        "verdict": verdict(task, name, cell, "adjusted_p_value"),
    }


def _groups(
    tasks: Sequence[Mapping[str, Any]], ordered: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Figures of the worst large slices of each task and, with a baseline, of the same ones' differences."""
    groups = []
    for about, fields, caption in (
        ("", ("value", "low", "high"), VALUES_CAPTION),
        ("difference in ", ("difference", "difference_low", "difference_high"), DIFFERENCES_CAPTION),
    ):
        figures = [_figure(task, ordered[task["name"]], about, fields) for task in tasks]
        groups.append({"caption": caption, "figures": [figure for figure in figures if figure]})
    return [group for group in groups if group["figures"]]


def _figure(
    task: Mapping[str, Any], ordered: Sequence[Mapping[str, Any]], about: str, fields: Sequence[str]
) -> dict[str, Any] | None:
    name = task["main_metric"]
    whole, quantity = task["metrics"][name], about + label_of(name)
    told = {(one["dimension"], one["value"]): one["tasks"][task["name"]] for one in ordered}
    cells = {key: own["metrics"][name] for key, own in told.items() if not own["small"]}
    spans = {
        key: Span(*(cell[field] for field in fields)) for key, cell in cells.items() if cell[fields[0]] is not None
    }
    if not spans or whole[fields[0]] is None:
        return None
    title = f"{quantity[:1].upper()}{quantity[1:]} of {task['name']}"
    drawn, of_all = dict(list(spans.items())[:MAX_DRAWN]), Span(*(whole[field] for field in fields))
    svg = draw_slices(f"{title} by slice", quantity, drawn, of_all, has_zero=bool(about))
    caption = f"The first {MAX_DRAWN} of {len(spans)} slices that are not small." if len(spans) > MAX_DRAWN else ""
    return {"title": title, "about": "", "svg": Markup(svg), "caption": caption}
