"""The whole stage again, on threads, on Ray or after a kill: the same bytes, and nothing of an earlier attempt."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from killed_runs import Killed, content_of
from small_logs import NUM_ROWS, every_kind_section, log_columns, make_config, prepare, run, with_value, write_rows

from jobs.ray_executor import RayExecutor
from pipeline.errors import DataError, UsageError
from pipeline.executor import InProcessExecutor
from pipeline.preprocess.log import RawLog
from pipeline.preprocess.run import preprocess


def test_a_second_run_writes_the_same_bytes(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    run(config)
    first = content_of(config.dataset_dir)
    run(config, overwrite=True)
    assert content_of(config.dataset_dir) == first
    assert sorted(first)[:2] == ["index.json", "statistics.json"]


def test_threads_write_the_bytes_of_one(tmp_path: Path) -> None:
    config = prepare(tmp_path, rows_per_partition=2, rows_per_shard=3, schema=every_kind_section())
    run(config)
    expected = content_of(config.dataset_dir)
    preprocess(config, InProcessExecutor(3), overwrite=True)
    assert content_of(config.dataset_dir) == expected


@pytest.mark.ray
def test_ray_workers_write_the_bytes_of_one_process(tmp_path: Path) -> None:
    config = prepare(tmp_path, rows_per_partition=3, schema=every_kind_section())
    run(config)
    expected = content_of(config.dataset_dir)
    seen: list[tuple[Any, ...]] = []
    with RayExecutor(address=None, num_cpus=2) as executor:
        preprocess(config, executor, lambda *call: seen.append(call), overwrite=True)
        assert content_of(config.dataset_dir) == expected
        write_rows(tmp_path / "log.parquet", with_value("click", 18, 2))
        with pytest.raises(DataError, match=r"task 'click': label 2 in .*log\.parquet, row 19"):
            preprocess(config, executor, overwrite=True)
    assert [call[:3] for call in seen[:4]] == [("partitions read", done, 3) for done in range(4)]


def test_a_restart_reads_only_the_partitions_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "log.parquet", log_columns(), group_rows=2)
    config = make_config(tmp_path, rows_per_partition=2)
    run(config)
    expected = content_of(config.dataset_dir)
    num_read = 0
    real = RawLog.read

    def read(self: RawLog, part: Any) -> Any:
        nonlocal num_read
        num_read += 1
        return real(self, part)

    monkeypatch.setattr(RawLog, "read", read)
    for num_items, num_left in ((4, 10 - 5), (12, 0), (18, 0)):
        shutil.rmtree(config.dataset_dir)
        with pytest.raises(KeyboardInterrupt):
            preprocess(config, Killed(num_items))
        num_read = 0
        run(config)
        assert num_read == num_left
        assert content_of(config.dataset_dir) == expected


def test_what_was_staged_of_another_log_is_not_used(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        preprocess(config, Killed(1))
    columns = log_columns()
    columns["click"] = [1 - value for value in columns["click"]]
    config = prepare(tmp_path, columns | {"like": [0] * NUM_ROWS, "dwell": [1.0] * NUM_ROWS})
    index = run(config)
    assert index.label_statistics["dwell"].mean == 1.0


def test_a_complete_dataset_is_not_overwritten_by_default(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    run(config)
    with pytest.raises(UsageError, match="dataset holds a complete dataset"):
        run(config)


def test_what_an_unfinished_attempt_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    (config.dataset_dir / "vocabularies").mkdir(parents=True)
    leftovers = ["train-00099.arrow", "statistics.json", "vocabularies/old.arrow", ".train-00001.arrow.7.partial"]
    for name in [*leftovers, "notes.txt"]:
        (config.dataset_dir / name).write_text("old")
    run(config)
    found = content_of(config.dataset_dir)
    assert "notes.txt" in found
    assert not {*leftovers} - {"statistics.json"} & found.keys()


def test_a_failed_overwrite_leaves_no_index(tmp_path: Path) -> None:
    config = prepare(tmp_path)
    run(config)
    write_rows(tmp_path / "log.parquet", with_value("click", 0, 5))
    with pytest.raises(DataError):
        run(config, overwrite=True)
    assert not (config.dataset_dir / "index.json").exists()
