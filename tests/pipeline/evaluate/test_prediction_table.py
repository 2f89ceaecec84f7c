"""What a prediction table holds, and how a finished one from anywhere becomes one."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from pipeline.config import build
from pipeline.errors import ConfigError, DataError
from pipeline.evaluate import scoring
from pipeline.evaluate.finished_table import open_finished_table
from pipeline.evaluate.prediction_table import (
    Impressions,
    PartSummary,
    PredictionTable,
    map_part,
    measured_things,
    read_summary,
    write_part,
)
from pipeline.evaluate.scoring import PREDICTIONS_FOLDER, read_finished_table
from pipeline.executor import InProcessExecutor
from pipeline.preprocess.columns.hashing import hash64
from pipeline.run_config import RunConfig
from pipeline.schema import KeyColumns, Schema

NAN = float("nan")
SCHEMA: dict[str, Any] = {
    "keys": {"user": "user", "request": "request", "time": "time"},
    "features": [{"name": "age", "kind": "numeric"}],
    "tasks": [
        {"name": "click", "kind": "binary", "label": "clicked"},
        {"name": "buy", "kind": "binary", "label": "bought", "space": "click"},
        {"name": "mood", "kind": "multiclass", "label": "mood", "classes": {"bad": "b", "good": "g"}},
        {"name": "watch", "kind": "watch_time", "label": "seconds", "space": "buy"},
    ],
}


# --- what is measured


def test_a_task_is_measured_where_its_whole_chain_is_1_and_a_joint_where_it_is_known() -> None:
    things = {one.name: one for one in measured_things(build(Schema, SCHEMA, "the tests").tasks)}
    assert {name: one.outputs for name, one in things.items()} == {
        "click": ("click",),
        "buy": ("buy",),
        "joint_buy": ("joint_buy",),
        "mood": ("mood_bad", "mood_good"),
        "watch": ("watch",),
    }
    labels = {
        "click": np.array([1, 1, 1, 0, 0, NAN, NAN]),
        "buy": np.array([1, 0, NAN, 1, NAN, 1, 0]),
        "watch": np.array([5, 6, 7, 8, 9, 10, 11.0]),
    }
    expected = {
        "click": [1, 1, 1, 0, 0, NAN, NAN],
        "buy": [1, 0, NAN, NAN, NAN, NAN, NAN],
        # A 0 decides it, wherever it stands.
        "joint_buy": [1, 0, NAN, 0, 0, NAN, 0],
        "watch": [5, NAN, NAN, NAN, NAN, NAN, NAN],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(things[name].select_labels(labels), values)


# --- parts


def impressions(num_rows: int = 6, first_row: int = 0, **changes: Any) -> Impressions:
    rows = np.arange(num_rows, dtype=np.float64)
    fields: dict[str, Any] = {
        "keys": {"user": pa.chunked_array([pa.array(np.arange(num_rows) % 3)])},
        "weight": np.ones(num_rows),
        "labels": {"click": np.where(rows == 1, NAN, rows % 2)},
        "predictions": {"click": rows / 10},
        "slices": {"day": pa.DictionaryArray.from_arrays(pa.array(np.arange(num_rows) % 2, pa.int32()), ["a", "b"])},
    }
    return Impressions(first_row, **(fields | changes))


def written(folder: Path, rows: Impressions, keys: KeyColumns, **seen: Any) -> pa.RecordBatch:
    assert write_part(folder / "part.arrow", rows, keys, **seen) == len(rows.weight)
    return map_part(folder / "part.arrow")


def test_a_part_is_one_batch_in_the_order_of_its_units_whose_rows_keep_their_order(tmp_path: Path) -> None:
    part = written(tmp_path, impressions(), KeyColumns(user="u"))
    assert part.schema.names == ["unit_hash", "user", "weight", "label_click", "prediction_click", "slice_day"]
    assert part["unit_hash"].type == part["user"].type == pa.uint64()
    hashes = part["unit_hash"].to_pylist()
    assert hashes == sorted(hashes)
    assert part["user"].to_pylist() == hashes
    of_user: dict[int, list[float]] = {}
    for user, value in zip(hashes, part["prediction_click"].to_pylist(), strict=True):
        of_user.setdefault(user, []).append(value)
    assert sorted(of_user.values()) == [[0.0, 0.3], [0.1, 0.4], [0.2, 0.5]]
    assert part["label_click"].null_count == 1
    assert part["slice_day"].to_pylist() == [
        "ab"[round(10 * value) % 2] for value in part["prediction_click"].to_pylist()
    ]


def test_a_user_is_one_unit_whatever_type_its_key_has(tmp_path: Path) -> None:
    keys = KeyColumns(user="u")
    hashes = []
    for column in (
        pa.array([7, 8]),
        pa.array(["7", "8"]),
        pa.array([7.0, 8.0]),
        pa.array(["7", "8"]).dictionary_encode(),
    ):
        rows = impressions(2, keys={"user": pa.chunked_array([column])})
        hashes.append(sorted(written(tmp_path, rows, keys)["unit_hash"].to_pylist()))
    assert hashes[0] == hashes[1] == hashes[2] == hashes[3]
    assert len(set(hashes[0])) == 2


def test_a_row_without_the_key_is_a_unit_of_its_own(tmp_path: Path) -> None:
    rows = impressions(4, keys={"user": pa.chunked_array([["a", None, "a", None]])})
    part = written(tmp_path, rows, KeyColumns(user="u"))
    assert len(set(part["unit_hash"].to_pylist())) == 3
    assert part["user"].null_count == 2


def test_without_a_user_key_the_unit_is_the_request_and_without_both_the_row(tmp_path: Path) -> None:
    request = pa.chunked_array([["q", "q", "r", "s"]])
    part = written(tmp_path, impressions(4, keys={"request": request}), KeyColumns(request="r"))
    assert part["unit_hash"].equals(part["request"])
    first = written(tmp_path, impressions(4, keys={}), KeyColumns())["unit_hash"].to_pylist()
    second = written(tmp_path, impressions(4, first_row=4, keys={}), KeyColumns())["unit_hash"].to_pylist()
    assert len({*first, *second}) == 8


def test_the_units_of_a_split_by_their_hash_still_fill_all_hashes(tmp_path: Path) -> None:
    users = pa.array([str(user) for user in range(20_000)])
    of_test = users.filter(pa.array(hash64(users) / 2.0**64 < 0.1))
    part = written(
        tmp_path, impressions(len(of_test), keys={"user": pa.chunked_array([of_test])}), KeyColumns(user="u")
    )
    shares = np.bincount((np.asarray(part["unit_hash"]) >> np.uint64(61)).astype(int), minlength=8) / len(of_test)
    assert shares == pytest.approx([1 / 8] * 8, rel=0.25)


def test_summaries_merge_to_what_all_rows_say(tmp_path: Path) -> None:
    summaries = []
    for place, (rows, mean, newer) in enumerate([(2, 0.25, 1), (6, 0.75, 0)]):
        mixtures = {"level": {"experts": ["a", "b"], "mean_weight": [[mean, 1 - mean], [None, 1.0]]}}
        path = tmp_path / f"{place}.arrow"
        write_part(
            path,
            impressions(rows),
            KeyColumns(),
            mixtures=mixtures,
            newer_values={"f": {"values": rows, "newer": newer}},
        )
        summaries.append(read_summary(path))
    merged = summaries[0].merge(summaries[1])
    assert merged == PartSummary(
        8,
        {"level": {"experts": ["a", "b"], "mean_weight": [[0.625, 0.375], [None, 1.0]]}},
        {"f": {"values": 8, "newer": 1}},
    )


# --- finished tables

NUM_ROWS = 40


def finished_columns() -> dict[str, list[Any]]:
    rows = range(NUM_ROWS)
    return {
        "user": [row % 7 for row in rows],
        "request": [row // 4 for row in rows],
        "time": [1_736_121_600 + 6 * 3600 * row for row in rows],
        "age": [None if row == 5 else row for row in rows],
        "city": [["york", "bath"][row % 2] for row in rows],
        "clicked": [row % 2 for row in rows],
        "bought": [row % 4 == 1 for row in rows],
        "mood": [None if row == 3 else "bg"[row % 2] for row in rows],
        "seconds": [row / 2 if row % 4 == 1 else None for row in rows],
        "prediction_click": [row / 64 for row in rows],
        "prediction_buy": [row / 128 for row in rows],
        "prediction_mood_bad": [0.25] * NUM_ROWS,
        "prediction_mood_good": [0.75] * NUM_ROWS,
        "prediction_watch": [float(row) if row % 4 == 1 else None for row in rows],
    }


def finished_config(folder: Path, schema: Any = SCHEMA, columns: Any = None, **evaluate: Any) -> RunConfig:
    table = pa.table({name: pa.array(values) for name, values in (columns or finished_columns()).items()})
    pq.write_table(table, folder / "table.parquet", row_group_size=16)
    predictions = {"path": "table.parquet", **evaluate.pop("predictions", {})}
    settings = {
        "workspace": str(folder / "run"),
        "inputs": str(folder),
        "schema": schema,
        "preprocess": {"log": {"path": "log"}, "split": {"kind": "order"}},
        "evaluate": {"predictions": predictions, **evaluate},
    }
    return build(RunConfig, settings, "the tests")


def read(config: RunConfig) -> PredictionTable:
    return read_finished_table(config, open_finished_table(config), InProcessExecutor(), None)


def rows_of(table: PredictionTable) -> dict[str, list[Any]]:
    """The columns of all parts, in the order of the predictions of clicks, with null for NaN."""
    rows = pa.Table.from_batches(map(map_part, table.parts)).sort_by("prediction_click").to_pydict()
    return {name: [None if value != value else value for value in column] for name, column in rows.items()}


def test_a_finished_table_has_the_labels_keys_and_predictions_of_the_schema(tmp_path: Path) -> None:
    table, log = read(finished_config(tmp_path)), finished_columns()
    rows = rows_of(table)
    assert (table.num_rows, table.dimensions, table.has_baseline) == (NUM_ROWS, ("day",), False)
    assert len(table.parts) == 1
    assert rows["prediction_click"] == log["prediction_click"]
    assert rows["label_click"] == log["clicked"]
    assert rows["label_buy"] == [float(bought) for bought in log["bought"]]
    assert rows["label_mood"] == [None if mood is None else "bg".index(mood) for mood in log["mood"]]
    assert rows["label_watch"] == log["seconds"]
    assert rows["weight"] == [1.0] * NUM_ROWS
    assert rows["slice_day"] == [f"2025-01-{6 + row // 4:02d}" for row in range(NUM_ROWS)]
    joint = np.multiply(log["prediction_click"], log["prediction_buy"])
    assert rows["prediction_joint_buy"] == joint.tolist(), "it is the product, as the table does not have it"
    assert rows["prediction_watch"] == log["prediction_watch"]


def write_arrow(table: pa.Table, path: str) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def test_a_table_in_several_files_and_formats_is_the_same(tmp_path: Path) -> None:
    config = finished_config(tmp_path)
    expected = rows_of(read(config))
    table = pq.read_table(tmp_path / "table.parquet")
    for ending, write in (("csv", pyarrow.csv.write_csv), ("arrow", write_arrow), ("parquet", pq.write_table)):
        (tmp_path / ending).mkdir()
        for place, (first, num) in enumerate([(0, 9), (9, 31)]):
            write(table.slice(first, num), str(tmp_path / ending / f"{place}.{ending}"))
        found = read(finished_config(tmp_path, predictions={"path": ending}))
        assert len(found.parts) == 2
        assert rows_of(found) == expected


def test_columns_are_found_under_the_names_that_the_configuration_gives(tmp_path: Path) -> None:
    columns = finished_columns()
    renamed = {"clicked": "y", "user": "uid", "prediction_click": "p", "time": "ts"}
    other = {renamed.get(name, name): values for name, values in columns.items()}
    other["p_old"], other["joint"] = [0.5] * NUM_ROWS, [0.125] * NUM_ROWS
    for name in ("buy", "mood_bad", "mood_good", "watch"):
        other[f"baseline_{name}"] = [0.25] * NUM_ROWS
    mapping = {**renamed, "baseline_click": "p_old", "prediction_joint_buy": "joint"}
    plain = rows_of(read(finished_config(tmp_path)))
    table = read(finished_config(tmp_path, columns=other, predictions={"columns": mapping}))
    found = rows_of(table)
    assert table.has_baseline
    assert all(found[name] == values for name, values in plain.items() if name != "prediction_joint_buy")
    assert found["prediction_joint_buy"] == [0.125] * NUM_ROWS
    assert found["baseline_click"] == [0.5] * NUM_ROWS
    assert found["baseline_joint_buy"] == [0.125] * NUM_ROWS


def test_slices_of_a_finished_table_are_its_columns(tmp_path: Path) -> None:
    slices = ["city", {"column": "age", "buckets": 2}, {"column": "user", "top": 2}, "day"]
    rows = rows_of(read(finished_config(tmp_path, slices=slices)))
    assert rows["slice_city"] == finished_columns()["city"]
    ages = [row if row != 5 else None for row in range(NUM_ROWS)]
    assert rows["slice_age"] == [
        "(none)" if age is None else "below 20" if age < 20 else "20 and above" for age in ages
    ]
    assert rows["slice_user"] == [str(row % 7) if row % 7 < 2 else "(other)" for row in range(NUM_ROWS)]


def test_the_weight_of_the_schema_counts_unless_the_configuration_says_otherwise(tmp_path: Path) -> None:
    schema = {**SCHEMA, "weight": "importance"}
    columns = {**finished_columns(), "importance": [row / 4 for row in range(NUM_ROWS)]}
    assert rows_of(read(finished_config(tmp_path, schema, columns)))["weight"] == columns["importance"]
    assert rows_of(read(finished_config(tmp_path, schema, columns, weighted=False)))["weight"] == [1.0] * NUM_ROWS
    with pytest.raises(DataError, match="has no column 'importance'"):
        read(finished_config(tmp_path, schema))


def test_a_restart_reads_only_what_is_missing_and_another_table_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MAX_PART_ROWS", 16)
    config = finished_config(tmp_path)
    table = read(config)
    assert len(table.parts) == 3
    before = [path.read_bytes() for path in table.parts]
    table.parts[1].unlink()
    kept = table.parts[0].stat().st_mtime_ns
    assert [path.read_bytes() for path in read(config).parts] == before
    assert table.parts[0].stat().st_mtime_ns == kept
    changed = finished_columns()
    changed["prediction_click"][0] = 0.9
    config = finished_config(tmp_path, columns=changed)
    assert [path.read_bytes() for path in read(config).parts] != before
    assert (config.report_dir / PREDICTIONS_FOLDER).is_dir()


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("clicked", "has no column 'clicked'. Name the column that has it under evaluate.predictions.columns"),
        ("prediction_watch", "has no column 'prediction_watch'"),
        ("user", "has no column 'user'"),
    ],
)
def test_a_column_that_is_not_there_is_named(drop: str, message: str, tmp_path: Path) -> None:
    columns = {name: values for name, values in finished_columns().items() if name != drop}
    with pytest.raises(DataError, match=message):
        read(finished_config(tmp_path, columns=columns))


def test_a_column_with_another_name_is_suggested(tmp_path: Path) -> None:
    columns = finished_columns()
    columns["click_prediction"] = columns.pop("prediction_click")
    with pytest.raises(DataError, match=r"has no column 'prediction_click'\. Did you mean .*\? If so, name the column"):
        read(finished_config(tmp_path, columns=columns))


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        (
            "prediction_click",
            7,
            1.5,
            r"prediction_click 1.5 in .*table.parquet, row 8: a prediction of a binary task is",
        ),
        ("prediction_mood_bad", 0, -0.1, "prediction_mood_bad -0.1 in .*row 1: a prediction of a multiclass task is a"),
        ("clicked", 39, 3, "task 'click': label 3 in .*row 40: a binary label is 0, 1 or null"),
        ("mood", 20, "x", "task 'mood': label 'x' in .*row 21: a multiclass label"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_row(
    column: str, row: int, value: Any, message: str, tmp_path: Path
) -> None:
    columns = finished_columns()
    columns[column][row] = value
    with pytest.raises(DataError, match=message):
        read(finished_config(tmp_path, columns=columns))


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"slices": ["new_user"]}, "what the table's model has learnt is not known"),
        (
            {"predictions": {"columns": {"predicion_click": "p"}}},
            r"'predicion_click', which is not needed\. Did you mean",
        ),
    ],
)
def test_a_setting_that_does_not_fit_a_finished_table_is_a_clear_error(
    evaluate: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        read(finished_config(tmp_path, **evaluate))


def test_a_slice_that_no_column_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no column 'citty'\. Did you mean 'city'\?"):
        read(finished_config(tmp_path, slices=["citty"]))
    with pytest.raises(ConfigError, match="names 'day', and the schema has no key `time`"):
        read(finished_config(tmp_path, {**SCHEMA, "keys": {"user": "user"}}, slices=["day"]))


def test_a_checkpoint_and_a_finished_table_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has the model to compare with in its columns baseline_<output>"):
        finished_config(tmp_path, baseline="runs/a/checkpoints/step-1")


def test_a_table_without_rows_is_one_message(tmp_path: Path) -> None:
    config = finished_config(tmp_path)
    pq.write_table(pq.read_table(tmp_path / "table.parquet").slice(0, 0), tmp_path / "table.parquet")
    with pytest.raises(DataError, match=r"table\.parquet holds no row"):
        read(config)
