"""Disks that fill up and storage that falters, under preprocess, train and score."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tampered import DATA_EXIT_CODE, content_of, gatehouse, one_line, tensors_of

from pipeline import storage
from pipeline.config import build
from pipeline.errors import StorageError
from pipeline.executor import InProcessExecutor
from pipeline.files import write_atomically
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig
from pipeline.score.run import score
from pipeline.shards.manifest import INDEX_NAME
from pipeline.shards.writer import write_shard
from pipeline.train.run import train

# Larger than a configuration, a vocabulary and an index; smaller than a shard and than ranked candidates.
MAX_FILE_BYTES = 32 << 10
FULL = Path("/dev/full")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.files.FIRST_WAIT_SECONDS", 0.0)


@pytest.fixture
def empty_config(demo_settings: dict[str, Any], tmp_path: Path) -> RunConfig:
    """The small log's configuration, in a workspace that holds nothing yet."""
    return build(RunConfig, {**demo_settings, "workspace": str(tmp_path / "run")}, "the tests")


def partial_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".partial" in path.name]


class Faltering:
    """Replaces a function, whose calls for each new path fail `num_failures` times."""

    def __init__(self, real: Any, num_failures: int, error: int = errno.EIO, names: str = "") -> None:
        self.real = real
        self.num_failures = num_failures
        self.error = error
        self.names = names
        self.calls: dict[str, int] = {}

    def __call__(self, *arguments: Any) -> Any:
        path = str(arguments[-1])
        if Path(path).name.startswith(self.names):
            self.calls[path] = self.calls.get(path, 0) + 1
            if self.calls[path] <= self.num_failures:
                raise OSError(self.error, os.strerror(self.error))
        return self.real(*arguments)


# --- full disks


def test_preprocess_on_a_full_disk_says_so_and_a_later_attempt_is_like_the_first(
    empty_config: RunConfig, dataset: Path
) -> None:
    done = gatehouse("preprocess", empty_config, max_file_bytes=MAX_FILE_BYTES)
    assert done.returncode == DATA_EXIT_CODE
    message = one_line(done.stderr)
    assert f"{empty_config.dataset_dir}/.staging/part-00000.arrow cannot be written: File too large; about " in message
    assert message.endswith(
        "bytes are free. Raise the limit on the size of a file (ulimit -f), "
        "or choose a `workspace` on another file system."
    )
    assert partial_files(empty_config.workspace_dir) == []
    assert not (empty_config.dataset_dir / INDEX_NAME).exists()
    preprocess(empty_config, InProcessExecutor())
    assert content_of(empty_config.dataset_dir) == content_of(dataset)


def test_score_on_a_full_disk_says_so_and_keeps_the_earlier_ranking(make_config: Any) -> None:
    config = make_config(score={"top_k": 100})
    train(config)
    score(config)
    earlier = content_of(config.scores_dir)
    assert (config.scores_dir / "part-00000.parquet").stat().st_size > MAX_FILE_BYTES
    done = gatehouse("score", config, "--overwrite", max_file_bytes=MAX_FILE_BYTES)
    assert done.returncode == DATA_EXIT_CODE
    message = one_line(done.stderr)
    assert "part-00000.parquet cannot be written: File too large; about " in message
    assert "Raise the limit on the size of a file (ulimit -f)" in message
    assert content_of(config.scores_dir) == earlier
    assert partial_files(config.workspace_dir) == []


def test_export_on_a_full_disk_says_so_and_leaves_nothing(make_config: Any) -> None:
    config = make_config()
    train(config)
    done = gatehouse("export", config, max_file_bytes=MAX_FILE_BYTES)
    assert done.returncode == DATA_EXIT_CODE
    message = one_line(done.stderr)
    assert ".export.partial cannot be written: File too large; more space is needed" in message
    assert not config.export_dir.exists()
    assert partial_files(config.workspace_dir) == []


@pytest.mark.parametrize("place", [0, 1, 5, 9])
def test_a_disk_that_fills_up_during_preprocess_leaves_no_partial_file(
    empty_config: RunConfig, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """The operating system tells it when a file is flushed: of a vocabulary, of a shard, and of what comes last."""
    flushed, real = [], os.fsync

    def fill_up(descriptor: int) -> None:
        flushed.append(descriptor)
        if len(flushed) > 2 * place:  # a file and then its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(StorageError, match=r"cannot be written: No space left on device; .* needed, [0-9,]+ bytes are"):
        preprocess(empty_config, InProcessExecutor())
    assert partial_files(empty_config.workspace_dir) == []
    assert not (empty_config.dataset_dir / INDEX_NAME).exists()


def write_as_shard(path: Path, table: pa.Table) -> None:
    write_shard(path, table, "train")


def write_as_ranking(path: Path, table: pa.Table) -> None:
    write_atomically(path, lambda temporary: pq.write_table(table, temporary), table.nbytes)


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("write", [write_as_shard, write_as_ranking])
def test_arrow_and_parquet_files_that_find_no_space_leave_the_earlier_ones(
    tmp_path: Path, write: Callable[[Path, pa.Table], None]
) -> None:
    """The temporary file is /dev/full, whose every write is refused by the operating system."""
    table = pa.table({"id": list(range(50_000))})
    path = tmp_path / "part-0"
    path.write_text("earlier")
    (tmp_path / f".part-0.{os.getpid()}.partial").symlink_to(FULL)
    with pytest.raises(StorageError, match=r"No space left on device; about 400,000 bytes are needed") as caught:
        write(path, table)
    assert caught.value.exit_code == DATA_EXIT_CODE
    assert [file.name for file in tmp_path.iterdir()] == ["part-0"]
    assert path.read_text() == "earlier"


# --- storage that falters


@pytest.mark.parametrize("num_failures", [1, 2])
def test_preprocess_on_storage_that_falters_writes_the_same_bytes(
    empty_config: RunConfig, dataset: Path, monkeypatch: pytest.MonkeyPatch, num_failures: int
) -> None:
    falter = Faltering(os.replace, num_failures)
    monkeypatch.setattr(os, "replace", falter)
    preprocess(empty_config, InProcessExecutor())
    assert content_of(empty_config.dataset_dir) == content_of(dataset)
    assert set(falter.calls.values()) == {num_failures + 1}
    written = {Path(path).name for path in falter.calls if ".staging" not in path}
    assert written == {Path(name).name for name in content_of(dataset)} | {"config.resolved.yaml"}


def test_a_raw_log_on_storage_that_falters_gives_the_same_bytes(
    empty_config: RunConfig, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falter = Faltering(storage.open_file, 2, errno.ESTALE)
    monkeypatch.setattr(storage, "open_file", falter)
    preprocess(empty_config, InProcessExecutor())
    assert content_of(empty_config.dataset_dir) == content_of(dataset)
    assert {Path(path).parent.name for path in falter.calls} == {"log", Path(empty_config.inputs).name}


def test_training_on_storage_that_falters_gives_the_same_parameters(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, disturbed = make_config("clean"), make_config("disturbed")
    expected = tensors_of(train(clean))
    falter = Faltering(pa.memory_map, 2, errno.ESTALE, names="train-")
    monkeypatch.setattr(pa, "memory_map", falter)
    assert tensors_of(train(disturbed)) == expected
    assert falter.calls
    assert set(falter.calls.values()) == {3}


def test_storage_that_stays_away_stops_after_three_failures_in_a_row(
    make_config: Any, empty_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, falter = make_config("trained"), Faltering(pa.memory_map, 100, errno.ETIMEDOUT, names="train-")
    monkeypatch.setattr(pa, "memory_map", falter)
    with pytest.raises(StorageError, match=r"train-00000\.arrow failed 3 times in a row: Connection timed out") as read:
        train(config)
    log = Faltering(storage.open_file, 100, names="day-")
    with monkeypatch.context() as patched:
        patched.setattr(storage, "open_file", log)
        with pytest.raises(StorageError, match=r"log/day-01\.parquet failed 3 times in a row: Input/output error"):
            preprocess(empty_config, InProcessExecutor())
    assert list(log.calls.values()) == [3]
    falter = Faltering(os.replace, 100, names="train-")
    monkeypatch.setattr(os, "replace", falter)
    with pytest.raises(StorageError, match=r"train-00000\.arrow failed 3 times in a row: Input/output error") as wrote:
        preprocess(empty_config, InProcessExecutor())
    assert list(falter.calls.values()) == [3]
    assert read.value.exit_code == wrote.value.exit_code == DATA_EXIT_CODE
    assert partial_files(empty_config.workspace_dir) == []
