"""How a finished table from anywhere becomes a prediction table."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from finished_tables import NUM_ROWS, SCHEMA, finished_columns, finished_config, read, rows_of

from pipeline.errors import DataError
from pipeline.evaluate import scoring
from pipeline.evaluate.scoring import PREDICTIONS_FOLDER


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
