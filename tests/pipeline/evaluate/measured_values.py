"""Rows drawn at random, the values that are measured on them, and how closely these must agree with others."""

import math
from typing import Any

import pytest
from fabricated_parts import measure_rows
from hypothesis import strategies as st
from numpy.typing import NDArray

Array = NDArray[Any]
# A few shared values beside random ones, so that ties are common.
probabilities = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
# Multiples of 1/16: sums are exact, so that the two implementations compared round alike.
values = st.integers(-16_000, 16_000).map(lambda n: n / 16)
weights = st.sampled_from([0.0, 0.25, 1.0, 1.0, 3.0])
binary_rows = st.lists(st.tuples(probabilities, st.integers(0, 1), weights), min_size=1, max_size=60)
keys = st.one_of(st.none(), st.integers(0, 4))
grouped_rows = st.lists(st.tuples(probabilities, st.integers(0, 1), weights, keys), min_size=1, max_size=60)
value_rows = st.lists(st.tuples(values, values, weights), min_size=1, max_size=60)
odds = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
class_rows = st.lists(st.tuples(odds, st.integers(0, 2), weights), min_size=1, max_size=60)


def values_of(*given: Any, kind: str = "binary", **options: Any) -> dict[str, float | None]:
    return {name: cell["value"] for name, cell in measure_rows(kind, *given, **options).items()}


def close(expected: Any, rel: float = 1e-9, abs: float = 1e-9) -> Any:
    """Equal to nine digits; None equals None only."""
    return None if expected is None else pytest.approx(expected, rel=rel, abs=abs)


def mean(pairs: list[tuple[float, float]]) -> float | None:
    """Of values with weights."""
    total = math.fsum(weight for _, weight in pairs)
    return math.fsum(value * weight for value, weight in pairs) / total if total else None
