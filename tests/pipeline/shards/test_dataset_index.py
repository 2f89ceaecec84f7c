"""The index of a dataset: read as it was written, and refused with the field that was edited or left out."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_shards import make_schema, write_whole_dataset

from pipeline.errors import ArtifactError
from pipeline.shards.manifest import INDEX_NAME, DatasetIndex, check_schema, read_index


@pytest.fixture
def written(tmp_path: Path) -> DatasetIndex:
    return write_whole_dataset(tmp_path)


def test_an_index_is_read_as_it_was_written(tmp_path: Path, written: DatasetIndex) -> None:
    assert read_index(tmp_path) == written
    assert written.num_rows("train") == 42
    assert written.of_split("test") == []


def test_a_folder_without_an_index_holds_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no complete dataset \(index.json is not there\). Run `preprocess`"):
        read_index(tmp_path)


def set_at(*path: str | int, value: Any) -> Callable[[Any], None]:
    def change(index: Any) -> None:
        for part in path[:-1]:
            index = index[part]
        index[path[-1]] = value

    return change


EDITS: list[tuple[str, tuple[str | int, ...], Any]] = [
    ("format_version", ("format_version",), 1),
    ("schema_fingerprint", ("schema_fingerprint",), "0" * 64),
    ("schema_fingerprint", ("data_schema", "features", 0, "name"), "usr"),
    ("schema_fingerprint", ("data_schema", "tasks", 0, "label"), "clicked"),
    ("data_schema.features.0", ("data_schema", "features", 0, "kind"), "count"),
    ("data_schema", ("data_schema",), None),
    ("vocabulary_version", ("vocabulary_version",), 7),
    ("table_rows.user", ("table_rows", "user"), 0),
    ("table_rows.user", ("table_rows", "user"), "many"),
    ("table_rows", ("table_rows",), {"user": 10_000}),
    ("table_rows", ("table_rows", "item"), 5),
    ("label_statistics.click.rows", ("label_statistics", "click", "rows"), -1),
    ("label_statistics.click.mean", ("label_statistics", "click", "mean"), float("nan")),
    ("label_statistics.click.deviation", ("label_statistics", "click", "deviation"), float("inf")),
    ("label_statistics.click.deviation", ("label_statistics", "click", "deviation"), -0.5),
    ("label_statistics", ("label_statistics",), {}),
    ("time_range.1", ("time_range",), ["2025-01-01"]),
    ("shards", ("shards",), None),
    ("shards.0.split", ("shards", 0, "split"), "dev"),
    ("shards.1.rows", ("shards", 1, "rows"), -12),
    ("shards.1.rows", ("shards", 1, "rows"), 0),
    ("shards.1.rows", ("shards", 1, "rows"), 1.5),
    ("shards.1.bytes", ("shards", 1, "bytes"), 0),
    ("shards.1.sha256", ("shards", 1, "sha256"), "none"),
    ("shards.1.owner", ("shards", 1, "owner"), "me"),
    ("owner", ("owner",), "me"),
    ("vocabulary_version", ("vocabulary_version",), "0" * 64),
    ("table_rows", ("table_rows", "user"), 10_001),
    ("label_statistics", ("label_statistics", "click", "mean"), 0.25),
    ("shards", ("shards", 0, "split"), "test"),
    ("shards.1.path", ("shards", 1, "path"), "train-00000.arrow"),
    ("digests", ("digests",), None),
    ("time_range", ("digests", "time_range"), "0" * 64),
    *(
        ("shards.1.path", ("shards", 1, "path"), path)
        for path in (
            "../train-00000.arrow",
            "/etc/passwd",
            "a/b.arrow",
            "a\x00.arrow",
            "",
            ".",
            "..",
            ".hidden",
            "~",
            "..\\a.arrow",
            "a.arrow\n",
        )
    ),
]


@pytest.mark.parametrize(("field", "path", "value"), EDITS)
def test_an_edited_field_of_the_index_is_named(
    tmp_path: Path, written: DatasetIndex, field: str, path: tuple[str | int, ...], value: Any
) -> None:
    content = json.loads((tmp_path / INDEX_NAME).read_text())
    set_at(*path, value=value)(content)
    (tmp_path / INDEX_NAME).write_text(json.dumps(content))
    with pytest.raises(ArtifactError) as caught:
        read_index(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / INDEX_NAME}: field {field}")
    assert str(caught.value).endswith(". Run `preprocess` again.")


def test_a_missing_field_of_the_index_is_named(tmp_path: Path, written: DatasetIndex) -> None:
    whole = json.loads((tmp_path / INDEX_NAME).read_text())
    for field in sorted(whole.keys() - {"format_version"}):
        content = copy.deepcopy(whole)
        del content[field]
        (tmp_path / INDEX_NAME).write_text(json.dumps(content))
        with pytest.raises(ArtifactError, match=f"field {field}: Field required"):
            read_index(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"[" * 100_000, b"1" * 5000, b'{"a": NaN}'],
    ids=["empty", "cut", "list", "null", "no text", "deep", "long number", "nan"],
)
def test_an_index_that_is_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / INDEX_NAME).write_bytes(content)
    with pytest.raises(ArtifactError, match=INDEX_NAME):
        read_index(tmp_path)


def test_a_truncated_index_is_refused_wherever_it_is_cut(tmp_path: Path, written: DatasetIndex) -> None:
    content = (tmp_path / INDEX_NAME).read_bytes().rstrip()
    for length in range(0, len(content), 37):
        (tmp_path / INDEX_NAME).write_bytes(content[:length])
        with pytest.raises(ArtifactError, match="is not JSON"):
            read_index(tmp_path)


def test_a_dataset_of_another_schema_is_refused_with_the_difference(tmp_path: Path, written: DatasetIndex) -> None:
    check_schema(written, make_schema(), tmp_path)
    with pytest.raises(ArtifactError, match="made with another schema: task 'click': positive was None, is 'yes'"):
        check_schema(written, make_schema(positive="yes"), tmp_path)
