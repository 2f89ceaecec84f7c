"""The one rule that turns a raw value into its text."""

import decimal
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.preprocess.columns.text import as_codes


def texts_of(column: pa.Array | pa.ChunkedArray) -> list[str | None]:
    codes, texts = as_codes(column, "column 'x'")
    return [None if code < 0 else texts[int(code)].as_py() for code in codes]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([3, None], pa.int16()),
        pa.array([3, None], pa.uint64()),
        pa.array([3.0, None], pa.float32()),
        pa.array([3.0, float("nan")]),
        pa.array([decimal.Decimal("3.00"), None]),
        pa.array(["3", None]),
        pa.array(["3.0", None], pa.large_string()),
        pa.array(["3", None]).dictionary_encode(),
        pa.array(["3", None], pa.string_view()),
        pa.array([b"3", None]),
    ],
    ids=lambda values: str(values.type),
)
def test_three_is_one_text_in_every_type(values: pa.Array) -> None:
    assert texts_of(values) == ["3", None]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([True, False, None], ["true", "false", None]),
        (["True", "FALSE", "truely"], ["true", "false", "truely"]),
        ([-0.0, 0.1, 1e15, 1e300, float("inf")], ["0", "0.1", "1000000000000000", "1e+300", "inf"]),
        (["-0.0", "1.0.0", "1.50", "007", "", " 3.0"], ["0", "1.0.0", "1.50", "007", "", " 3.0"]),
        ([date(2022, 4, 10)], ["2022-04-10"]),
        ([None, None], [None, None]),
    ],
)
def test_odd_values_have_a_fixed_text(values: list[Any], texts: list[str | None]) -> None:
    assert texts_of(pa.array(values)) == texts


@given(st.lists(st.lists(st.none() | st.integers(-(2**60), 2**60))))
def test_chunks_do_not_matter(chunks: list[list[int | None]]) -> None:
    column = pa.chunked_array(chunks, pa.int64())
    assert texts_of(column) == [None if value is None else str(value) for chunk in chunks for value in chunk]


def test_a_list_has_no_text() -> None:
    with pytest.raises(DataError, match=r"column 'x' has type list.*one value per row"):
        as_codes(pa.array([[1]]), "column 'x'")


def test_bytes_that_are_not_utf8_have_no_text() -> None:
    with pytest.raises(DataError, match="column 'x' of type binary has no text"):
        as_codes(pa.array([b"\xff"]), "column 'x'")
