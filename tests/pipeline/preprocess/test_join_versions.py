"""Tables with several versions of a key: which one a row takes, by hand and by pandas; what is counted and refused."""

from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_joins import assert_same_rows, each_form, join_to, keep_tables, make_hashes_collide, make_table, random_keys
from small_logs import log_columns, make_config, read_split, run, schema_section, statistics, write_rows

from pipeline.errors import ConfigError, DataError
from pipeline.preprocess.config import TableConfig

BEFORE_ALL = pd.Timestamp("1700-01-01")


def versions(folder: Path, times: Any, **settings: Any) -> TableConfig:
    """User 7 in two versions and one that was always valid, user 3 in one."""
    columns = {"user": [7, 3, 7, 7], "since": times, "age": [71, 30, 70, 69]}
    return make_table(folder, columns, settings.pop("name", "users.parquet"), valid_from="since", **settings)


def test_a_row_takes_the_latest_version_that_is_not_after_its_own_time(tmp_path: Path) -> None:
    config = versions(tmp_path, [20, 20, 10, None])
    log = {"user": [7] * 5 + [3, 3, 8, None, 7], "at": [-(10**9), 10, 19, 20, 10**9, 19, 20, 20, 20, None]}
    found = join_to(log, [config], ["user", "at", "age"], "at")
    assert found.rows["age"].to_pylist() == [69, 70, 70, 71, 71, None, 30, None, None, None]
    assert np.flatnonzero(found.counts[0]["missing_keys"]).tolist() == [5, 7, 8, 9]
    assert np.flatnonzero(found.counts[0]["before_first_version"]).tolist() == [5]


@each_form
@pytest.mark.parametrize("num_hashes", [None, 1, 3])
@pytest.mark.parametrize("kind", ["integer", "text"])
def test_a_join_is_what_pandas_merges_as_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, num_hashes: int | None, kind: str
) -> None:
    keep_tables(form, monkeypatch)
    if num_hashes:
        make_hashes_collide(monkeypatch, num_hashes)
    start = pd.Timestamp("2024-01-01")
    for seed in range(3):
        rng = np.random.default_rng(seed)
        table = pd.DataFrame({"user": random_keys(rng, 200, 40, kind), "since": rng.integers(0, 60, 200)})
        table["since"] = (start + pd.to_timedelta(table["since"], "h")).mask(rng.random(200) < 0.05)
        table = table.drop_duplicates(["user", "since"], ignore_index=True)
        table["age"] = np.arange(len(table))
        log = pd.DataFrame({"user": random_keys(rng, 600, 50, kind), "at": rng.integers(-3, 70, 600)})
        log["at"] = start + pd.to_timedelta(log["at"], "h")
        expected = pd.merge_asof(
            log.reset_index().sort_values("at"),
            table.dropna(subset="user").fillna({"since": BEFORE_ALL}).sort_values("since"),
            left_on="at",
            right_on="since",
            by="user",
        ).sort_values("index")
        known = set(table["user"].dropna())
        config = make_table(tmp_path, pa.Table.from_pandas(table).to_pydict(), f"{seed}.parquet", valid_from="since")
        found = join_to(pa.Table.from_pandas(log), [config], ["age"], "at", tmp_path / str(seed))
        assert_same_rows(found, expected, ["age"])
        is_missing = expected["age"].isna()
        assert found.counts[0]["missing_keys"].tolist() == is_missing.tolist()
        assert found.counts[0]["before_first_version"].tolist() == (is_missing & expected["user"].isin(known)).tolist()
        assert found.counts[0]["before_first_version"].any()


@each_form
def test_no_value_is_of_a_version_after_the_time_of_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    keep_tables(form, monkeypatch)
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"user": rng.integers(0, 30, 500), "since": rng.integers(0, 10**9, 500)})
    columns: dict[str, Any] = table.drop_duplicates().to_dict("list")
    columns["known"] = columns["since"]  # each row brings in the time from which it is valid
    config = make_table(tmp_path, columns, valid_from="since", time_unit="milliseconds")
    log = pa.table({"user": rng.integers(0, 35, 5_000), "at": rng.integers(0, 10**9, 5_000)})
    found = join_to(log, [config], ["at", "known"], "at", tmp_path / "staging").rows.to_pandas()
    assert (found["known"].dropna() <= found["at"][found["known"].notna()]).all()
    assert found["known"].notna().mean() > 0.5


@pytest.mark.parametrize(
    ("times", "own", "unit"),
    [
        ([datetime(2024, 1, 3), datetime(2024, 1, 3), datetime(2024, 1, 2), None], datetime(2024, 1, 2, 23), "seconds"),
        ([date(2024, 1, 3), date(2024, 1, 3), date(2024, 1, 2), None], "2024-01-03T00:59+01:00", "seconds"),
        (["2024-01-03", "2024-01-03 00:00:00Z", "2024-01-02", None], date(2024, 1, 2), "seconds"),
        ([19_725, 19_725, 19_724, None], 19_724.9, "days"),
        (["1704240000000", "1704240000000", "1704153600000", ""], 1_704_239_999_999, "milliseconds"),
    ],
)
@pytest.mark.parametrize("name", ["users.parquet", "users.csv"])
def test_times_of_every_sort_are_compared(tmp_path: Path, name: str, times: Any, own: Any, unit: str) -> None:
    if name == "users.parquet":
        times = [time or None for time in times]
    config = versions(tmp_path, times, time_unit=unit, name=name)
    found = join_to({"user": [7, 3], "at": [own, own]}, [config], ["age"], "at")
    assert [str(age) for age in found.rows["age"].to_pylist()] == ["70", "None"]


def test_without_a_time_the_latest_version_is_taken(tmp_path: Path) -> None:
    found = join_to({"user": [7, 3, 9]}, [versions(tmp_path, [20, 20, 10, None])], ["age"])
    assert found.rows["age"].to_pylist() == [71, 30, None]
    assert "before_first_version" not in found.counts[0]


def test_a_column_named_as_the_time_of_the_log_is_not_taken_from_the_table(tmp_path: Path) -> None:
    config = make_table(tmp_path, {"user": [7], "at": [10], "age": [70]}, valid_from="at")
    found = join_to({"user": [7], "at": [15]}, [config], ["user", "at", "age"], "at")
    assert found.rows.to_pydict() == {"user": [7], "at": [15], "age": [70]}


def test_a_table_that_brings_in_the_time_comes_before_the_one_that_needs_it(tmp_path: Path) -> None:
    visits = make_table(tmp_path, {"visit": [1, 2], "at": [12, 25]}, "visits.csv")
    users = versions(tmp_path, [20, 20, 10, None])
    log = {"user": [7, 7], "visit": [2, 1]}
    assert join_to(log, [visits, users], ["age"], "at").rows["age"].to_pylist() == [71, 70]
    with pytest.raises(ConfigError, match=r"users\.parquet joins on 'at', which a table listed after it brings in"):
        join_to(log, [users, visits], ["age"], "at")


# --- errors


@each_form
@pytest.mark.parametrize(("since", "shown"), [(datetime(2024, 1, 3), "2024-01-03 00:00:00"), (None, "null")])
def test_both_rows_with_one_key_and_time_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, since: Any, shown: str
) -> None:
    keep_tables(form, monkeypatch)
    times = [datetime(2024, 1, 2), since, since, since]
    config = versions(tmp_path, times)
    with pytest.raises(
        DataError,
        match=rf"key user = 7 with since = {shown} stands in .*users\.parquet, row 3 and in .*users\.parquet, row 4",
    ):
        join_to({"user": [7], "at": [0]}, [config], ["age"], "at", tmp_path / "staging")


@pytest.mark.parametrize("value", ["soon", "99999999999999"])
def test_a_time_of_a_table_that_is_none_is_named_with_its_row(tmp_path: Path, value: str) -> None:
    config = versions(tmp_path, ["2024-01-03", "2024-01-03", value, None], name="users.csv")
    with pytest.raises(DataError, match=rf"valid_from: '{value}' in .*users\.csv, row 3 is no time of the years 1"):
        join_to({"user": [7], "at": [0]}, [config], ["age"], "at")


def test_columns_that_hold_no_times_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"valid_from: column 'since' of .*users\.parquet has type bool, not a time's"):
        join_to({"user": [7], "at": [0]}, [versions(tmp_path, [True, False, None, True])], ["age"], "at")
    config = versions(tmp_path, [20, 20, 10, None])
    with pytest.raises(DataError, match=r"users\.parquet is joined, column 'at', has type bool, not a time's"):
        join_to({"user": [7], "at": [True]}, [config], ["age"], "at")
    with pytest.raises(DataError, match=r"column 'sinse' is not in .*users\.parquet. Did you mean 'since'"):
        join_to({"user": [7], "at": [0]}, [config.model_copy(update={"valid_from": "sinse"})], ["age"], "at")


# --- the whole stage


def prepare(folder: Path, minutes: list[Any] | None = None, **sections: Any) -> Any:
    """The small log, whose user u has version 0 from the start on, and version 1 from minute 10 + u on; 3 has no 0."""
    columns = log_columns()
    columns["at"] = minutes or columns["minute"]
    write_rows(folder / "log.parquet", columns)
    users = {"user": [0, 1, 2, 0, 1, 2, 3], "since": [None, None, None, 10, 11, 12, 13], "level": [0, 0, 0, 1, 1, 1, 1]}
    write_rows(folder / "users.parquet", users)
    schema = schema_section()
    schema["keys"]["time"] = sections.pop("time", "at")
    schema["features"].append({"name": "level", "kind": "numeric", "standardise": False})
    tables = [{"path": "users.parquet", "key": "user", "valid_from": "since"}]
    return make_config(folder, schema=schema, tables=tables, **sections)


def test_a_dataset_has_the_versions_of_its_rows_and_statistics_count_those_before_the_first(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    index = run(config)
    rows = [read_split(config, index, split) for split in ("train", "validation", "test")]
    levels = np.concatenate([part["dense"].combine_chunks().flatten().to_numpy().reshape(-1, 3)[:, 2] for part in rows])
    # Users 0 to 3 in turn: null is 0.
    assert levels.tolist() == [0.0] * 12 + [1.0] * 8
    found = statistics(config)
    (table,) = found["joined_tables"].values()
    assert table == {
        "missing_keys": {"train": 3, "validation": 0, "test": 0},
        "before_first_version": {"train": 3, "validation": 0, "test": 0},
    }
    assert found["features"]["level"]["nulls"]["train"] == 3


def test_a_table_with_versions_needs_the_time_of_the_log(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"users\.parquet has valid_from, and schema\.keys\.time is not set"):
        run(prepare(tmp_path, time=None))
    with pytest.raises(ConfigError, match="time_unit applies to a table with valid_from"):
        make_config(tmp_path, tables=[{"path": "users.parquet", "key": "user", "time_unit": "days"}])


def test_a_row_whose_time_is_none_stops_the_run_or_goes_to_the_quarantine(tmp_path: Path) -> None:
    minutes = [*map(str, range(20))]
    minutes[4] = "noon"
    with pytest.raises(
        DataError,
        match=r"users\.parquet is joined, column 'at', is no time of .* 9999: 'noon' in .*log\.parquet, row 5",
    ):
        run(prepare(tmp_path, minutes))
    contract = {"bad_rows": "quarantine", "max_quarantine_fraction": 0.1}
    config = prepare(tmp_path, minutes, contract=contract)
    assert run(config).num_rows("train") == 13
    (kept,) = config.dataset_dir.glob("quarantine-*.parquet")
    assert pq.read_table(kept)["at"].to_pylist() == ["noon"]
