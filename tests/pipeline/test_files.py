"""Files are whole or absent: after a full disk, a storage that falters, and a write that fails half way."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import files
from pipeline.errors import StorageError
from pipeline.files import MAX_FAILURES, explaining_space, retry, sha256_of, write_atomically, write_text

PASSING = [errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ECONNRESET, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT]
LASTING = [errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG]
FULL = Path("/dev/full")


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited, without waiting."""
    seconds: list[float] = []
    monkeypatch.setattr("pipeline.files.time.sleep", seconds.append)
    return seconds


def failing(error: int, num_failures: int) -> tuple[Callable[[], str], list[int]]:
    """An action that fails so often and then succeeds, and the list of its calls."""
    calls: list[int] = []

    def action() -> str:
        calls.append(len(calls))
        if len(calls) <= num_failures:
            raise OSError(error, os.strerror(error))
        return "done"

    return action, calls


def fail_first(monkeypatch: pytest.MonkeyPatch, name: str, num_failures: int, error: int = errno.EIO) -> None:
    """Makes the first calls of a function of `os` fail."""
    real, calls = getattr(os, name), []

    def function(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) <= num_failures:
            raise OSError(error, os.strerror(error))
        return real(*arguments)

    monkeypatch.setattr(os, name, function)


# --- storage that falters


@pytest.mark.parametrize("error", PASSING, ids=errno.errorcode.get)
@pytest.mark.parametrize("num_failures", range(MAX_FAILURES))
def test_a_passing_error_is_waited_out_twice_as_long_each_time(
    waits: list[float], error: int, num_failures: int
) -> None:
    action, calls = failing(error, num_failures)
    assert retry(action, Path("shard")) == "done"
    assert len(calls) == num_failures + 1
    assert waits == [0.5, 1.0][:num_failures]


@pytest.mark.parametrize("error", PASSING, ids=errno.errorcode.get)
def test_the_third_failure_in_a_row_is_the_last_and_names_the_path_and_the_error(error: int) -> None:
    action, calls = failing(error, MAX_FAILURES)
    with pytest.raises(StorageError) as caught:
        retry(action, Path("data/shard-1"))
    assert len(calls) == MAX_FAILURES == 3
    assert f"the storage under data/shard-1 failed 3 times in a row: {os.strerror(error)}. " in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("error", LASTING, ids=errno.errorcode.get)
def test_an_error_that_does_not_pass_is_raised_at_once(waits: list[float], error: int) -> None:
    action, calls = failing(error, 1)
    with pytest.raises(OSError, match=re.escape(os.strerror(error))) as caught:
        retry(action, Path("shard"))
    assert (caught.value.errno, len(calls), waits) == (error, 1, [])


def test_a_file_is_hashed_and_written_through_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "clean", "text\n" * 1000)
    fail_first(monkeypatch, "fsync", 2)
    write_text(tmp_path / "disturbed", "text\n" * 1000)
    assert (tmp_path / "disturbed").read_bytes() == (tmp_path / "clean").read_bytes()
    real, failures = open, [OSError(errno.ESTALE, "stale"), OSError(errno.EIO, "i/o")]

    def flaky(path: Path, mode: str = "r") -> object:
        if failures:
            raise failures.pop()
        return real(path, mode)

    expected = sha256_of(tmp_path / "clean")
    monkeypatch.setattr("builtins.open", flaky)
    assert sha256_of(tmp_path / "disturbed") == expected
    assert failures == []


def test_storage_that_stays_away_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "file", "old")
    fail_first(monkeypatch, "replace", 100)
    with pytest.raises(StorageError, match=r"file failed 3 times in a row: Input/output error"):
        write_text(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


# --- full disks


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (errno.ENOSPC, "Free space there, or choose a `workspace` on a larger disk."),
        (errno.EDQUOT, "Free space there, ask for a larger quota"),
        (errno.EFBIG, "Raise the limit on the size of a file (ulimit -f)"),
    ],
)
def test_a_full_disk_says_the_path_what_is_needed_what_is_free_and_what_to_change(
    tmp_path: Path, error: int, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_free_bytes", lambda path: 4096)
    path = tmp_path / "checkpoints" / "step-1"
    with pytest.raises(StorageError) as caught, explaining_space(path, 12_345_678):
        raise OSError(error, "full")
    message = str(caught.value)
    reason = os.strerror(error)
    assert message.startswith(
        f"{path} cannot be written: {reason}; about 12,345,678 bytes are needed, 4,096 bytes are free. "
    )
    assert remedy in message
    assert caught.value.exit_code == 3


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), explaining_space(tmp_path):
        raise PermissionError(errno.EACCES, "denied")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_file_that_finds_no_space_leaves_the_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    """The temporary file is /dev/full, whose every write is refused by the operating system."""
    path = tmp_path / "report.json"
    write_text(path, "old")
    (tmp_path / f".report.json.{os.getpid()}.partial").symlink_to(FULL)
    with pytest.raises(StorageError, match=r"No space left on device; about 3,000 bytes are needed, [0-9,]+ bytes are"):
        write_text(path, "new" * 1000)
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]
    assert path.read_text() == "old"


def test_a_write_that_fails_half_way_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write_atomically(path, write)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
