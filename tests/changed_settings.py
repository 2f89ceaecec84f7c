"""Settings with nested changes in them, and the type of the fixture that makes a configuration of such."""

from collections.abc import Callable
from typing import Any

from pipeline.run_config import RunConfig

MakeConfig = Callable[..., RunConfig]


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with nested changes in it."""
    both = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(both.get(key), dict)
        both[key] = merged(both[key], value) if nested else value
    return both
