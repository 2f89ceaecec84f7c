"""Names and numbers as the report writes them for people."""

import math
from collections.abc import Mapping
from typing import Any

UNDEFINED = "\N{EN DASH}"
_LABELS = {
    "auc": "AUC",
    "average_precision": "PR-AUC",
    "gauc": "GAUC",
    "gauc_unweighted": "GAUC, unweighted",
    "request_gauc": "GAUC of requests",
    "mrr": "MRR",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "xauc": "XAUC",
}


def label_of(name: str) -> str:
    """A metric's name as people write it."""
    return _LABELS.get(name, name.replace("ndcg", "NDCG").replace("_", " "))


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


def format_difference(value: float | None) -> str:
    """A difference of two values: as many decimals as they have, or two digits of it, and a minus sign, no hyphen."""
    if value is None:
        return UNDEFINED
    size = abs(value)
    if 1e-6 <= size < 5e-5:
        text = f"{size:.{1 - math.floor(math.log10(size))}f}"
    else:
        text = f"{size:.4f}" if size == 0 or 5e-5 <= size < 5e-4 else format_value(size)
    return f"\N{MINUS SIGN}{text}" if value < 0 else text


def format_fraction(fraction: float | None) -> str:
    """A percentage with one decimal."""
    return UNDEFINED if fraction is None else f"{fraction:.1%}"


def format_p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
