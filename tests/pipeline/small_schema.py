"""A small schema, and what it is with one value put in."""

from typing import Any

from pipeline.config import build
from pipeline.schema import Schema

FEELING = {"name": "feeling", "kind": "multiclass", "label": "felt", "classes": {"warm": 2, "cold": "two"}}


def section() -> dict[str, Any]:
    return {
        "keys": {"user": "user", "time": "at"},
        "features": [
            {"name": "user", "kind": "categorical", "min_count": 2},
            {"name": "item", "kind": "categorical"},
            {"name": "tags", "kind": "multi_valued", "delimiter": ","},
            {"name": "history", "kind": "history", "table": "item"},
            {"name": "age", "kind": "numeric", "null_indicator": True},
            {"name": "price", "kind": "numeric", "column": "item_price", "clip": [0, 10]},
        ],
        "tasks": [
            {"name": "click", "kind": "binary", "label": "clicked"},
            {"name": "like", "kind": "binary", "label": "liked", "space": "click"},
            {"name": "watch", "kind": "regression", "label": "seconds", "space": "like"},
        ],
    }


def put(path: str, value: Any) -> dict[str, Any]:
    """The section with one value put in, such as at `features.0.name`; a number past the end of a list appends."""
    data: Any = section()
    node, keys = data, path.split(".")
    for key in keys[:-1]:
        node = node[int(key)] if isinstance(node, list) else node[key]
    if isinstance(node, list) and int(keys[-1]) == len(node):
        node.append(value)
    elif isinstance(node, list):
        node[int(keys[-1])] = value
    else:
        node[keys[-1]] = value
    whole: dict[str, Any] = data
    return whole


def make_schema(data: dict[str, Any]) -> Schema:
    return build(Schema, data, "run.yaml")
