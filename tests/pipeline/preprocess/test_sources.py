"""Files, partitions and reading in every format, and the messages when that fails."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_logs import log_columns, write_rows

from pipeline.errors import DataError
from pipeline.preprocess.config import SourceConfig
from pipeline.preprocess.raw_files.sources import count_rows, list_files, plan_partitions, read_partition, read_table

ROWS = {"a": [1, 2, 3, None, 5], "b": ["x", None, "é,", '"q"', "z\nz"]}


def source(path: Path | str, **options: Any) -> SourceConfig:
    return SourceConfig(path=str(path), **options)


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.csv", "x.csv.gz", "x.jsonl", "x.jsonl.gz"])
def test_every_format_reads_the_wanted_columns_in_the_wanted_order(tmp_path: Path, name: str) -> None:
    file = write_rows(tmp_path / name, ROWS, group_rows=2)
    table = read_table(source(file), ["b", "a"])
    assert table.column_names == ["b", "a"]
    assert table["b"].to_pylist() == ROWS["b"]
    assert table["a"].cast(pa.int64()).to_pylist() == ROWS["a"]
    assert sum(map(count_rows, plan_partitions(source(file), 2))) == 5


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_groups_are_taken_together_up_to_the_size_of_a_partition(tmp_path: Path, name: str) -> None:
    file = write_rows(tmp_path / name, {"a": list(range(10))}, group_rows=2)
    partitions = plan_partitions(source(file), 5)
    assert [(partition.first_row, partition.num_rows) for partition in partitions] == [(0, 4), (4, 4), (8, 2)]
    assert [read_partition(partition, ["a"])["a"].to_pylist() for partition in partitions][2] == [8, 9]
    assert len(plan_partitions(source(file), 1)) == 5


def test_a_folder_and_a_glob_are_read_by_name(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", ".hidden.csv", "_SUCCESS", "README.txt"):
        write_rows(tmp_path / name, {"a": [name]}) if name.endswith(".csv") else (tmp_path / name).write_text("")
    assert [Path(file).name for file in list_files(source(tmp_path))] == ["a.csv", "b.csv"]
    assert [Path(file).name for file in list_files(source(tmp_path / "*.csv"))] == ["a.csv", "b.csv"]


def test_csv_without_a_header_with_blanks_and_its_own_nulls(tmp_path: Path) -> None:
    file = tmp_path / "x.data"
    file.write_text("1; ?;x \n 2;b ; \n")
    options = {"format": "csv", "delimiter": ";", "column_names": ("n", "v", "w"), "null_values": ("", "?")}
    table = read_table(source(file, strip_blanks=True, **options), ["w", "v", "n"])
    assert table.to_pydict() == {"w": ["x", None], "v": [None, "b"], "n": ["1", "2"]}
    assert read_table(source(file, **options), ["v"])["v"].to_pylist() == [" ?", "b "]


def test_blanks_and_a_byte_order_mark_in_a_header_are_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("\ufeffa, b\n1, 2\n".encode())
    assert read_table(source(tmp_path / "x.csv", strip_blanks=True), ["b", "a"]).to_pydict() == {"b": ["2"], "a": ["1"]}


def test_a_json_text_that_looks_like_a_time_stays_text(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "x.jsonl", {"day": ["2022-04-10", "2022-04-11"]})
    assert read_table(source(file), ["day"])["day"].to_pylist() == ["2022-04-10", "2022-04-11"]


def test_column_names_with_dots_and_lists_are_read(tmp_path: Path) -> None:
    rows = {"a.b": [1], "a": [2], "list": [[1, 2]]}
    for name in ("x.parquet", "x.arrow"):
        assert read_table(source(write_rows(tmp_path / name, rows)), ["list", "a.b"]).to_pydict() == {
            "list": [[1, 2]],
            "a.b": [1],
        }


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.csv", "x.jsonl"])
def test_a_missing_column_is_named_with_the_nearest_one(tmp_path: Path, name: str) -> None:
    file = write_rows(tmp_path / name, log_columns())
    with pytest.raises(DataError, match=rf"column 'clik' is not in .*{name}. Did you mean 'click'"):
        read_table(source(file), ["user", "clik"])


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(DataError, match=r"column 'a' is in .*x\.csv twice"):
        read_table(source(tmp_path / "x.csv"), ["a"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.parquet", b"PAR1 not parquet"),
        ("x.arrow", b"ARROW1 not arrow"),
        ("x.csv", b""),
        ("x.csv.gz", b"not gzip"),
        ("x.jsonl", b'{"a": 1}\n{"a": oops}\n'),
        ("x.jsonl", b""),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} cannot be read: .+\. Restore the file"):
        read_table(source(tmp_path / name), ["a"])


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.csv.gz"])
def test_a_file_that_was_cut_short_is_named(tmp_path: Path, name: str) -> None:
    file = write_rows(tmp_path / name, {"a": list(range(1000))})
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"{name} cannot be read"):
        read_table(source(file), ["a"])


def test_places_without_data_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.dat").write_text("1")
    write_rows(tmp_path / "two" / "a.csv", ROWS)
    write_rows(tmp_path / "two" / "a.parquet", ROWS)
    for path, message in (
        ("nowhere.csv", "there is no file, folder or match for .*nowhere.csv"),
        ("*.parquet", r"there is no file, folder or match for .*\*\.parquet"),
        ("empty", "the folder .*empty holds no data file"),
        ("x.dat", "the ending of .*x.dat tells no format. Add `format"),
        ("two", "two holds files of several formats: csv, parquet"),
    ):
        with pytest.raises(DataError, match=message):
            list_files(source(tmp_path / path))


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"x\.csv holds no row"):
        read_table(source(tmp_path / "x.csv"), ["a"])


def test_files_of_a_table_with_different_types_are_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.parquet", {"a": [1]})
    write_rows(tmp_path / "b.parquet", {"a": ["x"]})
    with pytest.raises(DataError, match="have columns of different types"):
        read_table(source(tmp_path), ["a"])


CELLS = st.text(st.sampled_from('ab,"\n '), max_size=4)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=30), st.integers(1, 12), st.booleans())
def test_a_text_file_is_cut_where_rows_end(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], rows_per_partition: int, is_csv: bool
) -> None:
    file = tmp_path_factory.mktemp("cut") / ("x.csv" if is_csv else "x.jsonl")
    write_rows(file, {"a": [row[0] for row in rows], "b": [row[1] for row in rows]})
    whole = read_table(source(file), ["b", "a"])
    partitions = plan_partitions(source(file), rows_per_partition)
    parts = [read_partition(partition, ["b", "a"]) for partition in partitions]
    assert pa.concat_tables(parts).to_pylist() == whole.to_pylist()
    assert sum(map(count_rows, partitions)) == len(whole)
    first_row = 0
    for partition, part in zip(partitions, parts, strict=True):
        if partition.num_rows is not None:
            assert (partition.first_row, partition.num_rows) == (first_row, len(part))
        first_row += len(part)
        if any('"' in cell for row in rows for cell in row):
            break


def test_a_long_text_file_is_many_partitions(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "x.csv", {"a": list(range(1000))})
    assert len(plan_partitions(source(file), 100)) in (9, 10, 11)
    assert len(plan_partitions(source(write_rows(tmp_path / "x.csv.gz", {"a": list(range(1000))})), 100)) == 1
    file.write_text('a\n"never ends\n' + "1\n" * 1000)
    assert len(plan_partitions(source(file), 100)) == 1
