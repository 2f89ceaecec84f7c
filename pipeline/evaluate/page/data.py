"""The data section of the page: what statistics.json tells of each feature and task, as cells of tables.

A statistics.json of an earlier version has less in it, and its page has fewer columns.
"""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipeline.evaluate.page.plots import draw_bars
from pipeline.evaluate.report.wording import UNDEFINED, format_fraction, format_value
from pipeline.preprocess.checks.drift import PSI, Finding
from pipeline.shards.manifest import SPLITS

MAX_BARS = 20
NUM_TOP_VALUES = 3
MAX_TEXT = 24
SHOWN_QUANTILES = ("0", "5", "50", "95", "100")


def data_section(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Drift and quarantine in words, a row of cells per feature and per task, and which columns have content."""
    findings = [Finding(**finding) for finding in statistics.get("drift", {}).get("findings", ())]
    over = [str(finding) for finding in findings if finding.is_over]
    indices = {one.name: one for one in findings if (one.of, one.measure) == ("feature", PSI)}
    features = [_feature_row(name, statistics, indices.get(name)) for name in statistics["features"]]
    return {
        "previous": statistics.get("drift", {}).get("previous"),
        "drift": over,
        "num_compared": sum(finding.value is not None for finding in findings),
        "num_undefined": sum(finding.value is None and not finding.is_over for finding in findings),
        "quarantine": statistics.get("quarantine"),
        "features": features,
        "has_profiles": any(row["bars"] for row in features),
        "tasks": [_task_row(name, task) for name, task in statistics["tasks"].items()],
        "splits": SPLITS,
    }


def _feature_row(name: str, statistics: Mapping[str, Any], index: Finding | None) -> dict[str, Any]:
    """The cells of a feature, of the training rows where no split is named."""
    feature = statistics["features"][name]
    num_rows = statistics["rows"]["train"]
    row: dict[str, Any] = {"name": name, "about": feature["kind"].replace("_", "-")}
    row |= {"bars": "", "content": [], "more_content": "", "drift": None, "unseen": [""] * len(SPLITS)}
    if index is not None:
        row["drift"] = (format_value(index.value), index.is_over)
    if feature["kind"] == "numeric":
        return row | _numeric_cells(name, feature, num_rows)
    return row | _sparse_cells(name, feature, statistics["tables"][feature["table"]], num_rows)


def _numeric_cells(name: str, feature: Mapping[str, Any], num_rows: int) -> dict[str, Any]:
    nulls, non_finite = feature["nulls"]["train"], feature["non_finite"]["train"]
    cells: dict[str, Any] = {
        "values": f"{num_rows - nulls - non_finite:,}",
        "nulls": format_fraction(nulls / num_rows),
        "more_nulls": f"{non_finite:,} not finite" if non_finite else "",
        "distinct": UNDEFINED,
    }
    profile = feature.get("profile", {}).get("train")
    if not profile or not profile["histogram"]:
        return cells
    quantiles = {level: f"{profile['quantiles'][level]:.3g}" for level in SHOWN_QUANTILES}
    cells["distinct"] = f"{'≥ ' if profile['distinct'] is None else ''}{profile['distinct_in_sample']:,}"
    described = f"from {quantiles['0']} to {quantiles['100']}, the median is {quantiles['50']}"
    cells["bars"] = Markup(draw_bars(f"distribution of {name}", profile["histogram"]["counts"], described))
    cells["content"] = [(f"{level} %", value) for level, value in quantiles.items()]
    return cells


def _sparse_cells(name: str, feature: Mapping[str, Any], table: Mapping[str, Any], num_rows: int) -> dict[str, Any]:
    is_list, is_hashed = "null_lists" in feature, "distinct_values" not in table
    values, nulls = feature["values"]["train"], feature["nulls"]["train"]
    empty = feature["empty_lists"]["train"] / num_rows if is_list else 0
    about = [] if feature["table"] == name else [f"table of {feature['table']}"]
    lengths = feature.get("lengths", {}).get("train") or {}
    if lengths.get("mean") is not None:
        about.append(f"{lengths['mean']:.1f} per row, at most {lengths['quantiles']['100']}")
    cells: dict[str, Any] = {
        "values": f"{values - nulls:,}",
        "nulls": format_fraction(feature["null_lists"]["train"] / num_rows if is_list else nulls / max(values, 1)),
        "more_nulls": f"{format_fraction(empty)} empty" if empty else "",
        "distinct": "hashed" if is_hashed else f"{table['distinct_values']:,}",
        "more_content": ", ".join(about),
    }
    if not is_hashed:
        cells["unseen"] = [format_fraction(feature["unseen_fraction"][split]) for split in SPLITS]
    top, total = table.get("top_values"), table.get("num_values")
    if top and total:
        first = [(_cut(value), f"{count / total:.1%}") for value, count in top[:NUM_TOP_VALUES]]
        described = "the most frequent values are " + ", ".join(" ".join(pair) for pair in first)
        cells["bars"] = Markup(draw_bars(f"values of {name}", [count for _, count in top[:MAX_BARS]], described))
        cells["content"] = first
    return cells


def _task_row(name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """Rows by split and, by split, the mean label or the share of each class."""
    rows = [task["rows"].get(split, 0) for split in SPLITS]
    if "classes" in task:
        means = [
            [f"{label} {format_fraction(counts[split] / count)}" for label, counts in task["classes"].items()]
            if count
            else [UNDEFINED]
            for split, count in zip(SPLITS, rows, strict=True)
        ]
    else:
        means = [[format_value(task.get("mean", {}).get(split))] for split in SPLITS]
    return {"name": name, "cells": [(f"{count:,}", mean) for count, mean in zip(rows, means, strict=True)]}


def _cut(text: str) -> str:
    return (text or "(empty)") if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
