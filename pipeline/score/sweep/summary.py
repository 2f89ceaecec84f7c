"""What a person reads of a sweep: its table, for a terminal and for the page, and the line to paste."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.evaluate.page.summary import format_interval, format_p
from pipeline.evaluate.report.compare import SIGNIFICANCE
from pipeline.evaluate.report.wording import format_difference, format_value
from pipeline.score.sweep.results import label_of
from pipeline.score.sweep.trials import CURRENT

NUM_SHOWN = 5
MAX_TRIALS_ON_PAGE = 60


def sweep_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows, as text for a terminal: the references, then the best trials in the order of the choice."""
    metrics = metrics_of(report)
    headers = ["ranking", "formula", *(label_of(name, report["k"]) for name in metrics), "to score.fusion", "p"]
    rows = []
    for entry in [*report["references"], *best_first(report)[:NUM_SHOWN]]:
        difference = difference_of(report, entry)
        values = [format_value(entry["metrics"][name]["value"]) for name in metrics]
        compared = [format_difference(difference["difference"]), format_p(difference["p_value"])] if difference else []
        rows.append([name_of(report, entry), entry["formula"], *values, *(compared or ["", ""])])
    return headers, rows


def paste_line(report: Mapping[str, Any]) -> str:
    """The best trial's formula as a line of YAML, for the section `score`."""
    return yaml.safe_dump({"fusion": report["fusion"]}, width=1 << 16).rstrip()


def metrics_of(report: Mapping[str, Any]) -> list[str]:
    return list(report["trials"][0]["metrics"])


def best_first(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trials by what the best one is chosen by, those without it last."""

    def order(entry: Mapping[str, Any]) -> tuple[bool, float]:
        chosen_by = entry["metrics"][report["metric"]]["chosen_by"]
        return (True, 0.0) if chosen_by is None else (False, -chosen_by)

    return sorted(report["trials"], key=order)


def name_of(report: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    if entry["name"] == CURRENT:
        return "in use"
    if not entry["parameters"]:
        return f"{entry['name']} alone"
    return "best trial" if is_best(report, entry) else f"trial {entry['name']}"


def is_best(report: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    return report["trials"][report["best"]] is entry


def difference_of(report: Mapping[str, Any], entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """From the formula in use, by what the best trial is chosen by; None where there is none to compare with."""
    differences: Mapping[str, Any] = entry["differences"]
    return differences[CURRENT][report["metric"]] if CURRENT in differences else None


def table_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the page's table: the best trial, the references, and the next trials."""
    first, *others = best_first(report)
    entries = [first, *report["references"], *others[: MAX_TRIALS_ON_PAGE - 1]]
    return [_row(report, entry, metrics_of(report)) for entry in entries]


def verdict_of(difference: Mapping[str, Any] | None) -> str:
    """Whether a difference is significantly "better" or "worse"; empty if it is neither."""
    if difference is None or difference["p_value"] is None or difference["p_value"] >= SIGNIFICANCE:
        return ""
    return "better" if difference["difference"] > 0 else "worse"


def _row(report: Mapping[str, Any], entry: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    difference = difference_of(report, entry)
    parameters = ", ".join(
        f"{name}\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{value:g}" for name, value in entry["parameters"].items()
    )
    cells = [entry["metrics"][name] for name in metrics]
    return {
        "name": name_of(report, entry),
        "formula": parameters or entry["formula"],
        "is_best": is_best(report, entry),
        "on_front": entry["on_front"],
        "reason": next((cell["reason"] for cell in cells if cell["reason"]), None),
        "cells": [(format_value(cell["value"]), format_interval(cell["low"], cell["high"])) for cell in cells],
        "chosen_by": format_value(entry["metrics"][report["metric"]]["chosen_by"]),
        "difference": format_difference(difference["difference"]) if difference else "",
        "interval": format_interval(difference["difference_low"], difference["difference_high"]) if difference else "",
        "p": format_p(difference["p_value"]) if difference else "",
        "verdict": verdict_of(difference),
    }
