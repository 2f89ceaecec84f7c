"""The data contract on whole columns: another type, one that is gone, one that was added."""

from datetime import datetime

import pyarrow as pa
import pytest
from small_contracts import make_contract

from pipeline.errors import DataError
from pipeline.preprocess.checks.contract import check_types, describe_added
from pipeline.preprocess.raw_files.sources import JOINED_FROM

TYPES = {
    "integer": pa.array([1], pa.int16()),
    "number": pa.array([1.5], pa.float32()),
    "text": pa.array(["a"], pa.large_string()),
    "boolean": pa.array([True]),
    "time": pa.array([datetime(2025, 1, 1)]),
    "list": pa.array([["a"]]),
}


@pytest.mark.parametrize("wanted", TYPES)
@pytest.mark.parametrize("found", TYPES)
def test_a_column_of_another_type_is_an_error_with_column_and_file(wanted: str, found: str) -> None:
    columns = make_contract({"v": {"type": wanted}}).columns
    table = pa.table({"v": TYPES[found]})
    if wanted == found or (wanted, found) == ("number", "integer"):
        check_types(columns, table, "log.parquet", ())
        return
    with pytest.raises(DataError) as caught:
        check_types(columns, table, "log.parquet", ())
    assert str(caught.value) == (
        f"column 'v' of log.parquet has type {TYPES[found].type}, and the contract says {wanted}. "
        f"Write the column as {wanted}, or change preprocess.contract.columns.v.type."
    )


def test_texts_of_a_text_file_may_be_of_any_type_and_so_may_nulls() -> None:
    columns = make_contract({"v": {"type": "integer"}}).columns
    texts = pa.table({"v": ["1"]})
    check_types(columns, texts, "log.csv", {"log.csv"})
    check_types(columns, pa.table({"v": pa.nulls(1)}), "log.parquet", ())
    with pytest.raises(DataError, match=r"column 'v' of log\.parquet has type string"):
        check_types(columns, texts, "log.parquet", {"log.csv"})
    joined = pa.table(texts.columns, schema=pa.schema([texts.schema.field("v").with_metadata({JOINED_FROM: "users"})]))
    with pytest.raises(DataError, match=r"column 'v' of users has type string, and the contract says integer"):
        check_types(columns, joined, "log.csv", {"log.csv"})


def test_a_column_that_is_gone_is_an_error_and_the_order_of_columns_is_free() -> None:
    columns = make_contract({"price": {"type": "number"}, "city": {"type": "text"}}).columns
    table = pa.table({"city": ["york"], "price": [1.0]})
    check_types(columns, table, "log.parquet", ())
    check_types(columns, table.select(["price", "city"]), "log.parquet", ())
    with pytest.raises(DataError) as caught:
        check_types(columns, table.rename_columns(["city", "prices"]), "log.parquet", ())
    assert str(caught.value) == (
        "column 'price', which preprocess.contract lists, is not in log.parquet. Did you mean 'prices'."
    )


def test_an_added_column_is_one_warning_however_many_files_have_it() -> None:
    files = {f"log-{place:03d}.csv": ["a", "b"] if place else ["a", "b", "c"] for place in range(200)}
    assert describe_added(["a"], files) == [
        "column 'b' of log-000.csv and 199 more files is not in the contract",
        "column 'c' of log-000.csv is not in the contract",
    ]
    assert describe_added([], files) == []
