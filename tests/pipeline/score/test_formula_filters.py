"""Filters against a row-by-row evaluation by Python; types, nulls, and everything that is refused."""

import ast
import inspect
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refused_texts import refusal_of

from pipeline.errors import ConfigError
from pipeline.score import formula, grammar
from pipeline.score.formula import bind, parse_filter, parse_fusion

NAMES = ["click", "price", "stock", "category", "author", "time"]
COLUMNS: dict[str, Any] = {
    "click": np.array([0.1, 0.5, 0.9, 0.5]),
    "price": np.array([10.0, np.nan, 200.0, 100.0]),
    "stock": pa.array([3, 0, None, 5]),
    "category": pa.array(["toys", None, "adult", "to'ys"]),
    "author": pa.array(["b", "a", "adult", None]).dictionary_encode(),
    "time": pa.array([1, 2, 3, 4], pa.timestamp("s")),
}


def kept(text: str, columns: Mapping[str, Any] = COLUMNS) -> list[bool]:
    found: list[bool] = parse_filter(text, ["click"], NAMES)(columns).tolist()
    return found


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("price < 150", [0, 3]),
        ("price <= 100 and click > 0.2", [3]),
        ("price > 150 or click == 0.5", [1, 2, 3]),
        ("click == .5 or price > 150 and stock < 1", [1, 3]),
        ("(click == .5 or price > 150) and stock < 1", [1]),
        ("not price < 150", [1, 2]),
        ("not not price < 150", [0, 3]),
        ("category != 'adult'", [0, 3]),
        ('category == "to\'ys"', [3]),
        ("category in ('toys', 'adult')", [0, 2]),
        ("category not in ('toys', 'adult')", [3]),
        ("not category in ('toys', 'adult')", [1, 3]),
        ("stock in (0, 3.0, -5)", [0, 1]),
        ("stock not in (0)", [0, 3]),
        ("price is null", [1]),
        ("category is not null", [0, 2, 3]),
        ("price / stock is null", [1, 2]),
        ("category == author", [2]),
        ("'b' <= author", [0]),
        ("(price + 1) * 2 < 30", [0]),
        ("((price)) < (1 + 2) ** 4 * 2", [0, 3]),
        ("100 * click >= stock * 10", [1, 3]),
        ("-price < -150", [2]),
        ("exp(click) > 2", [2]),
        ("click != 0.5", [0, 2]),
    ],
)
def test_a_filter_keeps_the_rows_that_it_says(text: str, rows: list[int]) -> None:
    assert np.flatnonzero(kept(text)).tolist() == rows


def test_a_filter_says_which_columns_it_reads() -> None:
    assert parse_filter("price < 3 and not (category in ('a'))", [], NAMES).names == {"price", "category"}


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
NUMBER_NAMES, TEXT_NAMES = ["click", "price"], ["category", "author"]
TEXTS = ["", "a", "b", "ab", "é", "not"]
SMALL_NUMBERS = [0.0, 1.0, 2.0, 0.5]

# A filter is drawn with what Python makes of it in one row: its text, and a function from the row to true or false.
Drawn = tuple[str, Callable[[Mapping[str, Any]], bool]]


def compared(left: str, mark: str, right: str | float) -> Drawn:
    """A column compared with a constant or, if it is a name, with another column."""
    shown = repr(right) if right not in (*NUMBER_NAMES, *TEXT_NAMES) else str(right)

    def evaluate(row: Mapping[str, Any]) -> bool:
        a, b = row[left], row.get(str(right), right)
        return a is not None and b is not None and COMPARISONS[mark](a, b)

    return f"{left} {mark} {shown}", evaluate


def listed(left: str, is_inverted: bool, constants: list[Any]) -> Drawn:
    text = f"{left} {'not in' if is_inverted else 'in'} ({', '.join(map(repr, constants))})"
    return text, lambda row: row[left] is not None and (row[left] in constants) != is_inverted


def null(left: str, is_inverted: bool) -> Drawn:
    return f"{left} is {'not ' if is_inverted else ''}null", lambda row: (row[left] is None) != is_inverted


def joined(word: str, one: Drawn, other: Drawn) -> Drawn:
    if word == "and":
        return f"({one[0]}) and ({other[0]})", lambda row: one[1](row) and other[1](row)
    return f"({one[0]} or {other[0]})", lambda row: one[1](row) or other[1](row)


def inverted(one: Drawn) -> Drawn:
    return f"not ({one[0]})", lambda row: not one[1](row)


MARKS = st.sampled_from(sorted(COMPARISONS))
LEAVES: st.SearchStrategy[Drawn] = st.one_of(
    st.builds(compared, st.sampled_from(NUMBER_NAMES), MARKS, st.sampled_from([*SMALL_NUMBERS, *NUMBER_NAMES])),
    st.builds(compared, st.sampled_from(TEXT_NAMES), MARKS, st.sampled_from([*TEXTS, *TEXT_NAMES])),
    st.builds(
        listed,
        st.sampled_from(NUMBER_NAMES),
        st.booleans(),
        st.lists(st.sampled_from(SMALL_NUMBERS), min_size=1, max_size=3),
    ),
    st.builds(
        listed, st.sampled_from(TEXT_NAMES), st.booleans(), st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3)
    ),
    st.builds(null, st.sampled_from([*NUMBER_NAMES, *TEXT_NAMES]), st.booleans()),
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(joined, st.sampled_from(["and", "or"]), inner, inner), st.builds(inverted, inner)
    ),
    max_leaves=6,
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {name: st.sampled_from([None, *SMALL_NUMBERS]) for name in NUMBER_NAMES}
        | {name: st.sampled_from([None, *TEXTS]) for name in TEXT_NAMES}
    ),
    max_size=8,
)


@settings(max_examples=300)
@given(FILTERS, ROWS)
def test_a_filter_keeps_what_python_keeps_row_by_row(drawn: Drawn, rows: list[dict[str, Any]]) -> None:
    text, evaluate = drawn
    columns = {
        **{name: np.array([math.nan if row[name] is None else row[name] for row in rows]) for name in NUMBER_NAMES},
        **{name: pa.array([row[name] for row in rows], pa.string()) for name in TEXT_NAMES},
    }
    assert kept(text, columns) == [evaluate(row) for row in rows]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "ends too early"),
        ("price", "ends without a comparison"),
        ("price <", "ends too early"),
        ("price = 3", "'=', which is not in its grammar"),
        ("price < 1 < 2", "'<' where an operator or the end should be"),
        ("1 < 2", "compares constants only"),
        ("'a' in ('a')", "compares constants only"),
        ("prise < 2", "names 'prise', which is not an output of the model or a column"),
        ("price < 2 and", "ends too early"),
        ("and price < 2", "'and' where a number or a name should be"),
        ("price and stock", "'and' where a comparison should be"),
        ("price not 3", "'not' where a comparison should be"),
        ("price in", "no list in parentheses after 'in'"),
        ("price in ()", "')' in a list"),
        ("price in (1", "a list that is not closed"),
        ("price in (1,)", "')' in a list"),
        ("price in (1, 'a')", "a list of both texts and numbers"),
        ("price in (stock)", "'stock' in a list"),
        ("price in (-'a')", "in a list"),
        ("price is", "'is' without 'null'"),
        ("price is not 3", "'is' without 'null'"),
        ("category == 'a", '"\'", which is not in its grammar'),
        ("category == 'a\n'", "a character that cannot be printed"),
        ("category == '\ud800'", "a character that cannot be printed"),
        ("'a' + 1 < price", "the text 'a' where numbers should be"),
        ("exp('a') < price", "the text 'a' where numbers should be"),
        ("(price < 3", "a parenthesis that is not closed"),
        ("(price < 3) * 2 < 1", "'*' where an operator or the end should be"),
        ("exp(price < 3) < 1", "a parenthesis that is not closed"),
        ("price < 9007199254740993", "the number 9.0072e+15, above"),
        ("price < 1e999", "the number inf"),
        ("price ** 999 < 1", "the exponent 999"),
        ("category.__class__ == 'a'", "'.', which is not in its grammar"),
        ("__import__('os').system('true') == 0", "'.', which is not in its grammar"),
        ("__import__('os') == 0", "names '__import__'"),
        ("eval('1') < price", "names 'eval'"),
        ("category[0] == 'a'", "'['"),
        ("lambda: price < 3", "':', which is not in its grammar"),
        ("price < 3; stock < 3", "';'"),
        ("category == f'{price}'", "names 'f'"),
        ("not " * 100 + "price < 3", "nested more than 30 deep"),
        ("(" * 100 + "price < 3" + ")" * 100, "nested more than 30 deep"),
        ("(" * 10_000, "10,000 characters"),
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_what_is_no_filter_is_refused_at_once(text: str, what: str) -> None:
    error = refusal_of(lambda: parse_filter(text, ["click"], NAMES))
    assert what in error.what
    assert error.what.startswith("score.filters ")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("category < 3", "compares the texts of 'category' with a number"),
        ("price == 'cheap'", "compares the numbers of 'price' with the text 'cheap'"),
        ("author == stock", "compares the texts of 'author' with the numbers of 'stock'"),
        ("price in ('a')", "compares the numbers of 'price' with a list of texts"),
        ("category in (1)", "compares the texts of 'category' with a list of numbers"),
        ("category + 1 < 3", "'category', which holds texts, where numbers should be"),
        ("log(category) < 3", "'category', which holds texts, where numbers should be"),
        ("time < 3", "'time', which holds timestamp[s], neither numbers nor texts"),
    ],
)
def test_texts_and_numbers_are_not_mixed_even_where_there_is_no_row(text: str, what: str) -> None:
    for columns in (COLUMNS, {name: column[:0] for name, column in COLUMNS.items()}):
        with pytest.raises(ConfigError) as caught:
            kept(text, columns)
        assert f"score.filters {text!r} {'compares' if 'compares' in what else 'has'}" in caught.value.what
        assert what in caught.value.what


def test_the_grammar_has_nothing_that_could_run_a_text() -> None:
    for module in (formula, grammar):
        tree = ast.parse(inspect.getsource(module))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not names & {"eval", "exec", "compile", "getattr", "globals", "vars", "__import__", "__builtins__"}


TOKENS = [*NAMES, "and", "or", "not", "in", "is", "null", "<", ">=", "==", "!=", "(", ")", ",", "'a'", '""', "1", "-",
          "*", "exp", "2", "'"]  # fmt: skip


@settings(max_examples=600)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(TOKENS), max_size=14).map(" ".join)))
def test_any_text_is_refused_or_keeps_some_rows(text: str) -> None:
    try:
        found = parse_filter(text, ["click"], NAMES)(COLUMNS)
    except ConfigError:
        return
    assert found.shape == (4,)
    assert found.dtype == bool


def test_a_fusion_reads_columns_of_numbers_and_no_others() -> None:
    fusion = parse_fusion("click * stock", ["click"], NAMES)
    np.testing.assert_allclose(fusion(COLUMNS), [0.3, 0, np.nan, 2.5])
    with pytest.raises(ConfigError, match="has 'category', which holds texts, where numbers should be"):
        parse_fusion("click * category", ["click"], NAMES)(COLUMNS)


@pytest.mark.parametrize(
    ("text", "values", "bound"),
    [
        ("click ** a * b", {"a": 0.5, "b": 2.0}, "click ** 0.5 * 2"),
        ("click ** a - a", {"a": -0.5}, "click ** (-0.5) - (-0.5)"),
        ("a*click**ab", {"a": 1e-7, "ab": 3}, "1e-07*click**3"),
        ("exp(a * click)", {"a": 0.1}, "exp(0.1 * click)"),
    ],
)
def test_parameters_become_numbers(text: str, values: dict[str, float], bound: str) -> None:
    assert bind(text, values) == bound
    columns = {"click": np.array([0.2, 0.7])}
    free = parse_fusion(text, ["click"], values, others="parameter")
    expected = free({**columns, **{name: np.full(2, value) for name, value in values.items()}})
    np.testing.assert_allclose(parse_fusion(bound, ["click"])(columns), expected, rtol=1e-15)
