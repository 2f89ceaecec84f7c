"""Text files: delimiters of several characters, encodings, wrong rows, and `.gz` files that are cut into partitions."""

import gzip
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from small_logs import log_columns, make_config, run, write_rows

from pipeline.errors import DataError, StorageError, UsageError
from pipeline.executor import InProcessExecutor
from pipeline.preprocess.config import SourceConfig
from pipeline.preprocess.raw_files import csv_files, text_files, unzip
from pipeline.preprocess.raw_files.formats import read_column_names
from pipeline.preprocess.raw_files.sources import Partition, count_rows, plan_partitions, read_partition, read_table
from pipeline.preprocess.run import preprocess

DELIMITERS = ("::", ":a:", "aab", ", ", "¦")


def source(path: Path, **options: Any) -> SourceConfig:
    return SourceConfig(path=str(path), **{"format": "csv"} | options)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def planned(source: SourceConfig, rows_per_partition: int, folder: Path) -> list[Partition]:
    """The partitions of a log, for which a large `.gz` is unzipped."""
    return plan_partitions(source, rows_per_partition, InProcessExecutor(), folder)


# --- delimiters


@st.composite
def delimited_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A delimiter, and lines with some cells that may hold parts of it."""
    delimiter = draw(st.sampled_from(DELIMITERS))
    cell = st.text(st.sampled_from("abé:,¦\" '\t"), max_size=5)
    rows = draw(st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=30))
    return delimiter, [delimiter.join(row) for row in rows]


@given(delimited_lines(), st.sampled_from([1, 7, 100]))
def test_lines_are_split_at_a_delimiter_of_several_characters_as_python_splits_them(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[str, list[str]], rows_per_partition: int
) -> None:
    delimiter, lines = drawn
    rows = [line.split(delimiter) for line in lines if len(line.split(delimiter)) == 3]
    assume(rows)
    file = tmp_path_factory.mktemp("split") / "x.dat"
    file.write_text("".join(delimiter.join(row) + "\n" for row in rows))
    one = source(file, delimiter=delimiter, column_names=("a", "b", "c"), null_values=())
    with pytest.MonkeyPatch.context() as patch:
        # Blocks end within delimiters.
        patch.setattr(csv_files, "BLOCK_BYTES", 64)
        parts = [read_partition(part, ["a", "b", "c"]) for part in plan_partitions(one, rows_per_partition)]
    assert pa.concat_tables(parts).to_pylist() == [dict(zip("abc", row, strict=True)) for row in rows]


def test_the_header_is_split_at_a_delimiter_of_several_characters(tmp_path: Path) -> None:
    file = write(tmp_path / "x.csv", b'user::the title\r\n1::"A::B\r\n')
    one = source(file, delimiter="::", column_names=None)
    assert read_column_names(one, str(file)) == ["user", "the title"]
    with pytest.raises(DataError, match=r"x\.csv, row 1 has not 2 fields, one per column, but 3: '1::\"A::B'"):
        read_table(one, ["user"])


def test_a_character_that_stands_for_the_delimiter_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "x.csv", b"a::b\n1::\x1f\n")
    with pytest.raises(DataError, match=r"x\.csv cannot be read: .*cannot hold the character 0x1f"):
        read_table(source(file, delimiter="::"), ["a"])


@pytest.mark.parametrize("delimiter", [",", "::"])
@pytest.mark.parametrize("has_header", [True, False])
@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
@pytest.mark.parametrize("fault", [b"7", b"7\tx\tx"])
def test_a_row_with_another_number_of_fields_is_named(
    tmp_path: Path, delimiter: str, has_header: bool, name: str, fault: bytes
) -> None:
    rows = [b"%d\tx" % row for row in range(20)]
    rows[17] = fault
    content = b"\n".join([b"a\tb"] * has_header + rows).replace(b"\t", delimiter.encode())
    file = write(tmp_path / name, content)
    one = source(file, delimiter=delimiter, column_names=None if has_header else ("a", "b"))
    found = fault.count(b"\t") + 1
    message = rf"{name}, row 18 has not 2 fields, one per column, but {found}: '7.*'\. Correct the row, or `delim"
    for partitions in (plan_partitions(one, 100), planned(one, 5, tmp_path / "unzipped")):
        with pytest.raises(DataError, match=message):
            [read_partition(partition, ["a"]) for partition in partitions]


@pytest.mark.parametrize("content", [b'"a\nb",c\n1,2\n', b'\n\n"a\nb",c\n1,2', b'"a\nb",c\r1,2\r'])
def test_a_header_ends_where_a_line_ends_outside_quotes(tmp_path: Path, content: bytes) -> None:
    one = source(write(tmp_path / "x.csv", content))
    assert read_table(one, ["a\nb", "c"]).to_pydict() == {"a\nb": ["1"], "c": ["2"]}


def test_a_partition_with_blank_lines_counts_its_rows_anew(tmp_path: Path) -> None:
    file = write(tmp_path / "x.csv", b"a,b\n1,2\n\n3,4\r\n\r\n5,6\n")
    partitions = plan_partitions(source(file), 2)
    assert len(partitions) > 1
    assert sum(map(count_rows, partitions)) == 3


# --- encodings


@pytest.mark.parametrize("delimiter", [",", "::"])
def test_latin_1_is_read_where_the_source_says_so(tmp_path: Path, delimiter: str) -> None:
    content = "id,título\n1,Amélie\n2,Æon Flux\n".replace(",", delimiter)
    file = write(tmp_path / "x.csv", content.encode("latin-1"))
    one = source(file, delimiter=delimiter, encoding="latin-1")
    parts = [read_partition(partition, ["título"]) for partition in plan_partitions(one, 1)]
    assert pa.concat_tables(parts).to_pydict() == {"título": ["Amélie", "Æon Flux"]}


@pytest.mark.parametrize("delimiter", [",", "::"])
def test_bytes_that_are_not_utf_8_are_named_with_the_remedy(tmp_path: Path, delimiter: str) -> None:
    rows = [f"{row}{delimiter}film" for row in range(20)]
    rows[17] += "é"
    file = write(tmp_path / "x.csv", "\n".join([f"id{delimiter}title", *rows]).encode("latin-1"))
    one = source(file, delimiter=delimiter)
    for rows_per_partition in (5, 100):
        partitions = plan_partitions(one, rows_per_partition)
        with pytest.raises(DataError, match=r"x\.csv, row 18: column 'title' is not UTF-8\. Add `encoding: latin-1`"):
            [read_partition(partition, ["title", "id"]) for partition in partitions]
        assert sum(read_partition(partition, ["id"]).num_rows for partition in partitions) == 20


def test_a_header_that_is_not_utf_8_is_named_with_the_remedy(tmp_path: Path) -> None:
    file = write(tmp_path / "x.csv", "id,títle\n1,a\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"the header of .*x\.csv is not UTF-8\. Add `encoding: latin-1`"):
        read_table(source(file), ["id"])


# --- JSON lines


def test_a_key_of_the_last_row_only_is_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "x.jsonl", b'{"a": 1}\n' * 1000 + b'{"a": 1, "b": 2}\n')
    monkeypatch.setattr(text_files, "BLOCK_BYTES", 1000)
    assert read_column_names(source(file, format="jsonl"), str(file)) == ["a", "b"]


# --- gzip


CELLS = st.text(st.sampled_from('ab,"\n '), max_size=4)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=30), st.integers(1, 12), st.booleans())
def test_a_gzip_is_cut_as_the_text_in_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], rows_per_partition: int, is_csv: bool
) -> None:
    folder, format_ = tmp_path_factory.mktemp("gzip"), "csv" if is_csv else "jsonl"
    columns = {"a": [row[0] for row in rows], "b": [row[1] for row in rows]}
    plain = write_rows(folder / f"x.{format_}", columns)
    zipped = write_rows(folder / f"x.{format_}.gz", columns)
    parts = {}
    for file in (plain, zipped):
        partitions = planned(source(file, format=format_), rows_per_partition, folder / "unzipped")
        assert all(partition.path == str(file) for partition in partitions)
        assert sum(map(count_rows, partitions)) == len(rows)
        parts[file] = [(p.first_row, p.num_rows, read_partition(p, ["b", "a"]).to_pylist()) for p in partitions]
    assert [read for _, _, read in parts[zipped]] == [read for _, _, read in parts[plain]]
    if len(parts[plain]) > 1:
        assert parts[zipped] == parts[plain]


def test_a_gzip_of_one_partition_is_left_as_it_is(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "x.csv.gz", {"a": list(range(1000))})
    [partition] = planned(source(file), 2000, tmp_path / "unzipped")
    assert partition.text == text_files.WHOLE
    assert [path.suffix for path in (tmp_path / "unzipped").iterdir()] == [".json"]


def test_an_unzipped_file_is_used_again_until_its_gzip_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows(tmp_path / "x.csv.gz", {"a": list(range(1000))})
    before = planned(source(file), 100, tmp_path / "unzipped")
    assert len(before) > 5
    with monkeypatch.context() as patch:
        patch.delattr(unzip, "cut_text")
        assert planned(source(file), 100, tmp_path / "unzipped") == before
    write_rows(file, {"a": list(range(1000, 3000))})
    after = planned(source(file), 100, tmp_path / "unzipped")
    assert read_partition(after[0], ["a"])["a"][0].as_py() == "1000"


def test_a_gzip_that_was_cut_short_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "x.csv.gz", {"a": list(range(100_000))})
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=r"x\.csv\.gz cannot be read"):
        planned(source(file), 1000, tmp_path / "unzipped")
    assert list((tmp_path / "unzipped").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "x.csv.gz", {"a": list(range(1000))})
    (tmp_path / "work").write_text("a file")
    with pytest.raises(UsageError, match=r"work/unzipped cannot be written.*Choose a `workspace`"):
        planned(source(file), 100, tmp_path / "work" / "unzipped")


def test_no_partition_of_a_text_file_is_larger_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_RANGE_BYTES", 1000)
    rows = {"a": list(range(1000, 2000))}
    for name in ("x.csv", "x.csv.gz"):
        file = write_rows(tmp_path / name, rows)
        partitions = planned(source(file), 10**12, tmp_path / "unzipped")
        assert [count_rows(partition) for partition in partitions] == [199, 200, 200, 200, 200, 1]
        assert read_table(source(file), ["a"])["a"].cast(pa.int64()).to_pylist() == rows["a"]


def test_a_log_in_a_gzip_gives_the_dataset_of_the_plain_one(tmp_path: Path) -> None:
    digests = []
    for name in ("log.csv", "log.csv.gz"):
        write_rows(tmp_path / "in" / name, log_columns())
        config = make_config(tmp_path / "in", name, rows_per_partition=3)
        digests.append([shard.sha256 for shard in run(config).shards])
        assert not (config.dataset_dir / unzip.UNZIPPED_FOLDER).exists()
        shutil.rmtree(config.dataset_dir)
    assert digests[0] == digests[1]


def test_a_wrong_value_in_a_gzip_is_named_with_its_row(tmp_path: Path) -> None:
    columns = log_columns()
    columns["price"][16] = "dear"
    columns["price"] = [None if value is None else str(value) for value in columns["price"]]
    write_rows(tmp_path / "log.csv.gz", columns)
    config = make_config(tmp_path, "log.csv.gz", rows_per_partition=3)
    with pytest.raises(DataError, match=r"feature 'price': 'dear' in .*log\.csv\.gz, row 17 is not a number"):
        preprocess(config, InProcessExecutor())
    unzipped = sorted((config.dataset_dir / unzip.UNZIPPED_FOLDER).iterdir())
    assert [path.suffix for path in unzipped] == [".json", ".zst"]


def test_a_disk_that_is_too_small_for_an_unzipped_file_is_named(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "x.csv.gz", {"a": np.random.default_rng(1).integers(0, 1 << 40, 20_000)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StorageError, match=r"cannot be written: File too large; .*needed"):
            planned(source(file), 1000, tmp_path / "unzipped")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "unzipped").iterdir()) == []
