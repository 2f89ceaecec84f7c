"""The whole stage with a data contract: the quarantine, types of columns, and drift from an earlier dataset."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_logs import fails, log_columns, prepare, read_split, run, statistics

from pipeline.errors import ArtifactError, DataError
from pipeline.preprocess.log import RawLog


def bad_log() -> dict[str, list[Any]]:
    """A label that is none in row 3, a price below 0 in row 9, a like without a click in row 12."""
    columns = log_columns()
    columns["click"][2] = 2
    columns["price"][8] = -5.0
    columns["like"][11], columns["click"][11] = 1, 0
    return columns


CONTRACT = {
    "columns": {"price": {"type": "number", "range": [0, None]}},
    "bad_rows": "quarantine",
    "labels": "quarantine",
    "max_quarantine_fraction": 0.2,
}


def test_bad_rows_go_to_a_file_with_their_reasons_and_the_rest_is_as_if_they_had_never_been(tmp_path: Path) -> None:
    config = prepare(tmp_path / "bad", bad_log(), contract=CONTRACT)
    index = run(config)
    found = statistics(config)
    assert found["rows"] == {"train": 11, "validation": 3, "test": 3}
    assert found["quarantine"]["quarantined"] == 3
    assert [entry["rows"] for entry in found["quarantine"]["reasons"]] == [1, 1, 1]
    quarantined = pa.concat_tables(map(pq.read_table, sorted(config.dataset_dir.glob("quarantine-*.parquet"))))
    assert quarantined["quarantine_row"].to_pylist() == [3, 9, 12]
    assert quarantined["quarantine_reason"].to_pylist() == [
        "task 'click': a binary label is 0, 1 or null",
        "column 'price' is below 0",
        "task 'like' has label 1 outside its space 'click', whose label is 0",
    ]
    good = {name: [v for row, v in enumerate(values) if row not in (2, 8, 11)] for name, values in bad_log().items()}
    clean_config = prepare(tmp_path / "clean", good)
    clean = run(clean_config)
    for split in ("train", "validation", "test"):
        assert read_split(config, index, split).equals(read_split(clean_config, clean, split))


def test_more_bad_rows_than_allowed_stop_the_run_with_one_message(tmp_path: Path) -> None:
    contract = CONTRACT | {"max_quarantine_fraction": 0.1}
    message = r"3 of 20 rows are bad \(15\.00%\), and preprocess\.contract\.max_quarantine_fraction is 0\.1: .*row 12"
    fails(tmp_path, DataError, message, bad_log(), contract=contract)


def test_an_impossible_label_is_an_error_unless_the_contract_says_otherwise(tmp_path: Path) -> None:
    columns = log_columns()
    columns["like"][11], columns["click"][11] = 1, 0
    message = r"task 'like' has label 1 outside its space 'click', whose label is 0: 1 in .*log\.parquet, row 12"
    fails(tmp_path, DataError, message, columns)
    assert run(prepare(tmp_path, columns, contract={"labels": "ignore"})).num_rows("train") == 14


def test_a_retyped_column_is_named_and_an_added_one_told(tmp_path: Path) -> None:
    typed: dict[str, Any] = {"columns": {"price": {"type": "text"}, "user": {"type": "integer"}}}
    fails(
        tmp_path, DataError, r"column 'price' of .*log\.parquet has type double, and the contract says", contract=typed
    )
    typed["columns"]["price"] = {"type": "number"}
    config = prepare(tmp_path, contract=typed)
    run(config)
    assert any(
        "column 'item' of" in line and "is not in the contract" in line for line in statistics(config)["warnings"]
    )


def test_drift_from_the_dataset_before_is_told_or_stops_the_run(tmp_path: Path) -> None:
    split = {"kind": "order", "validation_fraction": 0.1, "test_fraction": 0.1}
    sections: dict[str, Any] = {"split": split, "rows_per_partition": 500}
    columns = {name: values * 100 for name, values in log_columns().items()}
    before = prepare(tmp_path / "before", columns, **sections)
    run(before)
    columns["price"] = [value and value + 15 for value in columns["price"]]
    drift = {"previous": str(before.dataset_dir)}
    config = prepare(tmp_path / "after", columns, **sections, contract={"drift": drift})
    run(config)
    found = statistics(config)
    assert [line for line in found["warnings"] if "feature 'price': population stability index is" in line]
    assert len(found["warnings"]) == 1
    stopping = {"drift": drift | {"action": "stop"}}
    fails(tmp_path / "stopped", DataError, "the log has drifted from", columns, **sections, contract=stopping)


def test_what_a_run_is_compared_with_is_read_before_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RawLog, "read", None)
    contract = {"drift": {"previous": str(tmp_path / "nowhere")}}
    fails(tmp_path, ArtifactError, "the statistics of the previous dataset", contract=contract)
