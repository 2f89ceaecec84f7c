"""Packed columns: elements of a text become columns of single values or lists, with their weights."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from small_logs import log_columns, read_split, run, write_rows

from pipeline.config import build, parse_yaml
from pipeline.errors import ConfigError, DataError
from pipeline.feature_kinds import NULL_ROW
from pipeline.preprocess.config import PackedConfig, SourceConfig
from pipeline.preprocess.raw_files.sources import plan_partitions, read_partition, read_table
from pipeline.run_config import RunConfig

SIMPLE = {"column": "p", "delimiter": " ", "field_delimiter": ":", "weight_delimiter": ":"}


def packed_source(path: Path, **options: Any) -> SourceConfig:
    settings = SIMPLE | {"fields": ["user", "7"], "list_fields": ["tags", "8_9"]} | options
    return build(SourceConfig, {"path": str(path), "packed": settings}, "test.yaml")


def write_packed(path: Path, *texts: str | None) -> Path:
    lines = [f"{number},{'' if text is None else text}\n" for number, text in enumerate(texts, start=1)]
    path.write_text("".join(["id,p\n", *lines]))
    return path


Element = tuple[str, str, float | None]
ELEMENTS = st.lists(
    st.tuples(
        st.sampled_from(["user", "7", "tags", "8_9", "use", "other"]),
        st.sampled_from(["a", "b c", "user", "77", "é"]),
        st.sampled_from([None, 1.0, -2.5, 1e-7]),
    ),
    max_size=8,
)


@given(st.lists(ELEMENTS, max_size=12), st.sampled_from([(" ", ":", ":"), ("\x01", "\x02", "\x03"), ("||", "=", "@")]))
def test_each_field_is_what_the_elements_of_its_rows_say(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[Element]], delimiters: tuple[str, str, str]
) -> None:
    between, after_field, before_weight = delimiters
    assume(between != " " or not any(" " in id_ for row in rows for _, id_, _ in row))
    for row in rows:
        earlier = [[one[0] for one in row[:place]] for place in range(len(row))]
        row[:] = [
            one for one, seen in zip(row, earlier, strict=True) if one[0] not in ("user", "7") or one[0] not in seen
        ]
    texts = [
        between.join(
            f"{field}{after_field}{id_}{'' if weight is None else f'{before_weight}{weight!r}'}"
            for field, id_, weight in row
        )
        for row in rows
    ]
    file = tmp_path_factory.mktemp("packed") / "x.parquet"
    pq.write_table(pa.table({"p": pa.array(texts, pa.string())}), file, row_group_size=5)
    one = packed_source(
        file, delimiter=between, field_delimiter=after_field, weight_delimiter=before_weight, list_fields=["tags"]
    )
    columns = ["tags_weight", "user", "p", "7_weight", "tags", "7"]
    parts = [read_partition(part, columns, keep_dictionaries=True) for part in plan_partitions(one, 4)]
    if not parts:
        return
    read = pa.concat_tables(parts)
    assert read.column_names == columns

    def of(field: str, place: int) -> list[list[Any]]:
        return [[(e[1], 1.0 if e[2] is None else e[2])[place] for e in row if e[0] == field] for row in rows]

    assert read["tags"].to_pylist() == of("tags", 0)
    assert read["tags_weight"].to_pylist() == of("tags", 1)
    for field in ("user", "7"):
        assert read[field].to_pylist() == [(values or [None])[0] for values in of(field, 0)]
    assert read["7_weight"].to_pylist() == [(values or [None])[0] for values in of("7", 1)]


def test_a_row_without_a_field_has_null_or_an_empty_list_and_without_a_text_null(tmp_path: Path) -> None:
    one = packed_source(write_packed(tmp_path / "x.csv", "7:x", None, "tags:y:2"))
    read = read_table(one, ["7", "7_weight", "tags", "tags_weight"])
    assert read.to_pydict() == {
        "7": ["x", None, None],
        "7_weight": [1.0, None, None],
        "tags": [[], None, ["y"]],
        "tags_weight": [[], None, [2.0]],
    }


def test_without_a_weight_delimiter_all_that_follows_the_field_is_the_id(tmp_path: Path) -> None:
    one = packed_source(write_packed(tmp_path / "x.csv", "7:x:3  tags:y "), weight_delimiter=None)
    assert read_table(one, ["7", "tags_weight", "tags"]).to_pylist() == [
        {"7": "x:3", "tags_weight": [1.0], "tags": ["y"]}
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7:x tags", r"element 'tags' of packed column 'p' has no field before ':'"),
        ("7:x :y:1", r"element ':y:1' .* has no field before"),
        ("tags::1", r"element 'tags::1' .* has no id"),
        ("tags:x:much", r"element 'tags:x:much' .* has a weight that is no number\. Correct it, or the delimiters"),
        ("tags:x:", r"element 'tags:x:' .* has a weight that is no number"),
        ("tags:x:nan", r"element 'tags:x:nan' .* has a weight that is no number"),
        (
            "7:x user:z 7:y",
            r"element '7:y' .* is the second one of field '7' in its row\. List '7' under `list_fields`",
        ),
        ("q" * 300, r"element 'q{80}\.\.\.' of"),
    ],
)
def test_an_element_that_cannot_be_used_is_named_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    file = write_packed(tmp_path / "x.csv", *["7:x user:y tags:1:0.5"] * 16, text, "7:y")
    for rows_per_partition in (3, 100):
        partitions = plan_partitions(packed_source(file), rows_per_partition)
        with pytest.raises(DataError, match=rf"x\.csv, row 17: {message}"):
            [read_partition(partition, ["7", "tags_weight", "tags"]) for partition in partitions]


def test_only_what_is_needed_is_taken_apart(tmp_path: Path) -> None:
    file = write_packed(tmp_path / "x.csv", "tags:x:much 7:a 7:b 8_9:z")
    assert read_table(packed_source(file), ["8_9", "id"]).to_pylist() == [{"8_9": ["z"], "id": "1"}]
    assert read_table(packed_source(file), ["tags"]).to_pylist() == [{"tags": ["x"]}]
    assert read_table(packed_source(write_packed(tmp_path / "y.csv", "no field")), ["id"]).num_rows == 1


def test_a_packed_column_that_holds_no_text_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"p": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"packed column 'p' of .*x\.parquet has type int64, not text"):
        read_table(packed_source(tmp_path / "x.parquet"), ["7"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": [], "list_fields": []}, "packed needs fields or list_fields"),
        ({"fields": ["a"], "list_fields": ["a"]}, "packed gives column 'a' twice"),
        ({"fields": ["a", "a_weight"]}, "packed gives column 'a_weight' twice"),
        ({"fields": ["a:b"]}, "field 'a:b' holds the field_delimiter"),
        ({"delimiter": ""}, "packed.delimiter is ''"),
    ],
)
def test_fields_that_cannot_be_columns_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        packed_source(tmp_path / "x.csv", **options)


def test_control_characters_are_written_as_escapes_in_yaml() -> None:
    section = parse_yaml(
        r'{column: p, delimiter: "\x01", field_delimiter: "\x02", weight_delimiter: "\x03", fields: ["205"]}', "x.yaml"
    )
    packed = build(PackedConfig, section, "x.yaml")
    assert (packed.delimiter, packed.field_delimiter, packed.weight_delimiter) == ("\x01", "\x02", "\x03")


# --- in a run


def packed_config(folder: Path, city: str = "city") -> RunConfig:
    """A run with a packed column in its log and another in a table; a feature reads the column `city`."""
    columns = log_columns()
    packed = [
        f"city:{name or 'none'} tags:{item}:2 tags:red:0.5"
        for name, item in zip(columns["city"], columns["item"], strict=True)
    ]
    packed[3] = "tags:x:3"
    write_rows(
        folder / "log.csv", {name: columns[name] for name in ("user", "item", "minute", "click")} | {"p": packed}
    )
    write_rows(folder / "users.csv", {"user": [0, 1, 2, 3], "p": ["who:a", "who:b age:40", "who:c", None]})
    features = [
        {"name": "city", "kind": "categorical", "column": city},
        {"name": "tags", "kind": "weighted_multi_valued", "weights": "tags_weight"},
        {"name": "who", "kind": "categorical"},
        {"name": "cross", "kind": "crossed", "columns": ["city", "who"], "num_hash_buckets": 10},
    ]
    tasks = [{"name": "click", "kind": "binary", "label": "click"}]
    preprocess = {
        "log": {"path": "log.csv", "packed": SIMPLE | {"fields": ["city"], "list_fields": ["tags"]}},
        "tables": [{"path": "users.csv", "key": "user", "packed": SIMPLE | {"fields": ["who", "age"]}}],
        "split": {"kind": "time", "column": "minute", "validation_from": 14, "test_from": 17},
    }
    schema = {"features": features, "tasks": tasks, "keys": {"user": "who"}}
    data = {"workspace": str(folder / "work"), "inputs": str(folder), "schema": schema, "preprocess": preprocess}
    return build(RunConfig, data, "test.yaml")


def test_fields_of_a_log_and_of_a_table_are_features_and_keys(tmp_path: Path) -> None:
    config = packed_config(tmp_path)
    train = read_split(config, run(config), "train")
    assert train["key_user"].to_pylist()[:5] == ["a", "b", "c", None, "a"]
    assert train["weights_tags"].to_pylist()[2:5] == [[2.0, 0.5], [3.0], [2.0, 0.5]]
    assert train["sparse_city"].to_pylist()[3] == NULL_ROW
    assert len(set(train["sparse_who"].to_pylist())) == 4


def test_a_field_that_is_not_listed_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column 'cty' is not in .*Did you mean 'city'"):
        run(packed_config(tmp_path, city="cty"))
