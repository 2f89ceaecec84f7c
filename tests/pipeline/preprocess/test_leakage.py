"""What is known of validation and test rows does not reach training: no shared keys, no statistic of their rows."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_logs import NUM_ROWS, log_columns, make_config, run, write_rows

from pipeline.errors import ConfigError, DataError
from pipeline.files import sha256_of
from pipeline.preprocess.features import distinct
from pipeline.run_config import RunConfig

TRAIN_ROWS = 14
BY_TIME = {"kind": "time", "column": "minute", "validation_from": 14, "test_from": 17}


def prepare(folder: Path, users: list[Any], split: dict[str, Any], **sections: Any) -> RunConfig:
    write_rows(folder / "log.parquet", log_columns() | {"user": users})
    return make_config(folder, split=split | {"disjoint": ["user"]}, **sections)


def message(config: RunConfig) -> str:
    with pytest.raises(DataError) as raised:
        run(config)
    return str(raised.value)


def test_a_value_that_stands_in_two_splits_is_named_where_the_splits_are_to_be_disjoint(tmp_path: Path) -> None:
    users = [f"u{row}" for row in range(NUM_ROWS)]
    run(prepare(tmp_path, users, BY_TIME))
    users[18] = "u3"
    told = message(prepare(tmp_path / "again", users, BY_TIME))
    assert "user 'u3' stands in rows of the splits train and test; 1 of its 19 values stand in several" in told
    assert "preprocess.split.disjoint" in told


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=NUM_ROWS, max_size=NUM_ROWS), st.integers(1, 5))
def test_the_values_in_two_splits_are_counted_however_the_log_is_divided(
    tmp_path_factory: pytest.TempPathFactory, users: list[str], rows_per_partition: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    splits = [users[:14], users[14:17], users[17:]]
    shared = {user for user in users if sum(user in split for split in splits) > 1}
    config = prepare(folder, users, BY_TIME, rows_per_partition=rows_per_partition)
    if not shared:
        run(config)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distinct, "MAX_MERGED_VALUES", 3)
        told = message(config)
    assert re.search(rf" {len(shared)} of its {len(set(users))} values", told), told


def test_null_may_stand_in_every_split(tmp_path: Path) -> None:
    run(prepare(tmp_path, [None] * NUM_ROWS, BY_TIME))


def test_a_split_by_the_hash_of_a_column_keeps_its_values_apart(tmp_path: Path) -> None:
    users = [f"u{row % 9}" for row in range(NUM_ROWS)]
    split = {"kind": "hash", "column": "user", "validation_fraction": 0.3, "test_fraction": 0.3}
    run(prepare(tmp_path, users, split))


def test_a_column_that_the_log_does_not_have_cannot_keep_splits_apart(tmp_path: Path) -> None:
    config = make_config(tmp_path, split=BY_TIME | {"disjoint": ["visitor"]})
    write_rows(tmp_path / "log.parquet", log_columns())
    with pytest.raises((DataError, ConfigError), match="column 'visitor'"):
        run(config)


def test_what_is_fitted_does_not_change_with_the_rows_of_the_other_splits(tmp_path: Path) -> None:
    def fitted(name: str, columns: dict[str, list[Any]]) -> dict[str, str]:
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "log.parquet", columns)
        config = make_config(tmp_path / name, split=BY_TIME)
        run(config)
        folder = config.dataset_dir / "vocabularies"
        return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}

    columns = log_columns()
    other = {name: list(values) for name, values in columns.items()}
    for name in set(other) - {"minute"}:
        # Each of those rows gets the values of a training row that differs from it.
        other[name][TRAIN_ROWS:] = columns[name][: NUM_ROWS - TRAIN_ROWS][::-1]
    assert other != columns
    assert fitted("other", other) == fitted("own", columns)
