"""The diagnostics of the page: scores, correlations, gates and experts by slice, features, embedding tables.

`diagnostics` are those of the report; what they do not have is not drawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.evaluate.page.diagnostic_plots import (
    MAX_FEATURES,
    MAX_TABLES,
    draw_importance,
    draw_matrix,
    draw_scores,
    draw_slice_weights,
    draw_tables,
)
from pipeline.evaluate.report.wording import UNDEFINED, format_difference, format_fraction, format_value, label_of

Figure = dict[str, Any]
Diagnostics = Mapping[str, Any]

SCORES_CAPTION = (
    "Where the predictions of rows with and without the event lie; the bars of each colour sum to 1. The less the two "
    "overlap, the better the model tells them apart."
)
PREDICTIONS_CAPTION = (
    "Rank correlation of the predictions of two tasks over a sample of all rows: near 1, both order the rows alike, "
    "and one of them adds little to a ranking."
)
LABELS_CAPTION = (
    "Correlation of the labels of two tasks over the rows on which both are defined: what of the agreement on the left "
    "or above is in the data. Where a label is the same on all of these rows there is none."
)
SIMILARITY_CAPTION = (
    "How alike the outputs of two experts are: at 1 (or \N{MINUS SIGN}1) they say the same and one is wasted, near 0 "
    "they say different things."
)
SLICE_WEIGHTS_CAPTION = (
    "The mean weight of each expert in the gate, of all sampled rows and of the slices that differ most from them. "
    "Equal rows mean that the gate does not tell these slices apart."
)
IMPORTANCE_CAPTION = (
    "How much worse the task's main metric is when a feature's values are dealt anew to the rows, with 95% intervals: "
    "near 0, the model does not need the feature, or other features say the same."
)
TABLES_CAPTION = (
    "Left, the share of a table's rows that training has moved; right, the norms of these, median (dot) and middle 90% "
    "(bar). Rows that were never trained add noise; norms over many orders of magnitude point to a learning rate "
    "that is too high."
)


def score_figures(report: Mapping[str, Any]) -> list[Figure]:
    """Without captions, one figure per binary task that has rows."""
    scores = report["diagnostics"].get("scores", {})
    return [
        _figure(task["name"], draw_scores(task["name"], scores[task["name"]]))
        for task in report["tasks"]
        if sum(map(sum, (scores.get(task["name"], {}).get(label, ()) for label in ("positives", "negatives"))))
    ]


def correlation_figures(diagnostics: Diagnostics) -> list[Figure]:
    found = diagnostics.get("correlations")
    if not found:
        return []
    return [
        _figure(title, draw_matrix(title.lower(), found["names"], matrix), caption)
        for title, matrix, caption in (
            ("Correlation of the predictions", found["predictions"]["spearman"], PREDICTIONS_CAPTION),
            ("Correlation of the labels", found["labels"]["pearson"], LABELS_CAPTION),
        )
        if _has_pairs(matrix)
    ]


def similarity_figures(level: str, diagnostics: Diagnostics) -> list[Figure]:
    """How alike the experts of a level are on the sample."""
    told = diagnostics.get("experts", {}).get(level)
    if told is None or not _has_pairs(told["similarity"]):
        return []
    svg = draw_matrix(f"similarity of the experts in {level}", told["experts"], told["similarity"])
    return [_figure("Similarity of the experts", svg, SIMILARITY_CAPTION)]


def gates_by_slice(level: str, diagnostics: Diagnostics) -> dict[str, Any] | None:
    """A figure for each task whose gate sees several experts, under one caption."""
    told = diagnostics.get("experts", {}).get(level)
    figures = [
        _figure(f"Gate of {task} by slice", draw_slice_weights(level, task, told))
        for task, weights in (told["mean_weight"].items() if told and told["slices"] else ())
        if sum(weight is not None for weight in weights) > 1
    ]
    return {"caption": SLICE_WEIGHTS_CAPTION, "figures": figures} if figures else None


def importance_section(diagnostics: Diagnostics) -> dict[str, Any] | None:
    """A figure per task, and a table of all features, the most important one first."""
    importance = diagnostics.get("importance")
    if not importance:
        return None
    tasks, features = importance["tasks"], importance["features"]
    more = f" The first {MAX_FEATURES} of {len(features)} features." if len(features) > MAX_FEATURES else ""
    return {
        "caption": IMPORTANCE_CAPTION + more,
        "figures": [
            _figure(task, draw_importance(task, importance))
            for task in tasks
            if any(feature["tasks"][task]["metric"]["worsening"] is not None for feature in features)
        ],
        "headers": [
            f"{task}: {label_of(told['metric'])} {format_value(told['value'])}" for task, told in tasks.items()
        ],
        "rows": [
            {
                "name": feature["name"],
                "about": feature["kind"].replace("_", "-"),
                "cells": [_loss(feature["tasks"][task]["metric"], told["value"]) for task, told in tasks.items()],
            }
            for feature in features
        ],
        "num_rows": diagnostics["rows"],
    }


def tables_section(diagnostics: Diagnostics) -> dict[str, Any] | None:
    """A figure of all embedding tables, and what a person would act on of each of them and of each feature."""
    tables, features = diagnostics.get("tables"), diagnostics.get("features", ())
    if not tables:
        return None
    more = f" The {MAX_TABLES} largest of {len(tables)} tables." if len(tables) > MAX_TABLES else ""
    return {
        "figures": [_figure("Trained rows and norms", draw_tables(tables), TABLES_CAPTION + more)],
        "tables": [_table_row(table) for table in tables],
        "features": [
            {
                "name": feature["name"],
                "table": feature["table"],
                "values": f"{feature['values']:,}",
                "unseen": _share(feature["unseen"], feature["values"]),
                "untrained": _share(feature["untrained"], feature["values"]),
            }
            for feature in features
        ],
        "num_rows": diagnostics["rows"],
    }


def table_alarms(diagnostics: Diagnostics) -> list[str]:
    """Tables with rows that no model should have."""
    return [
        f"{table['name']}: {table['not_finite_rows']:,} rows hold values that are not finite"
        for table in diagnostics.get("tables", ())
        if table["not_finite_rows"]
    ]


def _figure(title: str, svg: str, caption: str = "") -> Figure:
    return {"title": title, "about": "", "svg": Markup(svg), "caption": caption}


def _has_pairs(matrix: Sequence[Sequence[float | None]]) -> bool:
    return any(value is not None for row, values in enumerate(matrix) for value in values[:row])


def _loss(loss: Mapping[str, Any], value: float | None) -> tuple[str, str]:
    """The worsening and half of its 95% interval, to a ten-thousandth of the metric's own value."""
    error, least = loss["standard_error"], 1e-4 * abs(value or 0.0)
    worsening, half = (
        None if one is None else one if abs(one) >= least else 0.0
        for one in (loss["worsening"], None if error is None else 1.96 * error)
    )
    return format_difference(worsening), "" if half is None else f"± {format_difference(half)}"


def _table_row(table: Mapping[str, Any]) -> dict[str, Any]:
    norms = table["norms"]
    counts = (table[field] for field in ("zero_rows", "repeated_rows", "not_finite_rows"))
    return {
        "name": table["name"],
        "about": ", ".join(name for name in table["features"] if name != table["name"]),
        "cells": [
            f"{table['rows']:,}",
            f"{table['used_rows']:,}",
            _share(table["untrained_rows"], table["used_rows"]),
            *(f"{count:,}" for count in counts),
            UNDEFINED if norms["50"] is None else f"{norms['50']:.3g}",
            UNDEFINED if norms["95"] is None else f"{norms['5']:.3g} to {norms['95']:.3g}",
            f"{UNDEFINED if table['abundance'] is None else format(table['abundance'], '.1f')} of {table['dim']}",
        ],
    }


def _share(part: int | None, whole: int) -> str:
    return UNDEFINED if part is None or not whole else format_fraction(part / whole)
