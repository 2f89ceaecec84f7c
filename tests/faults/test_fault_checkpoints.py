"""What happens when checkpoints are damaged, the disk is full, or the storage falters."""

import errno
import os
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.checkpoint.filesystem import FileSystem
from training_runs import losses_of, newest_digest

from pipeline import files
from pipeline.errors import ArtifactError, StorageError
from pipeline.run_config import RunConfig
from pipeline.train.checkpoints.checkpoint import (
    MANIFEST_NAME,
    DamagedCheckpointError,
    commit,
    list_checkpoints,
    read_manifest,
)
from pipeline.train.run import train

SETTINGS = {"checkpoint_every_steps": 20, "keep_checkpoints": 9}
MAX_FILE_BYTES = 60_000


@pytest.fixture
def trained(make_config: Any) -> RunConfig:
    config: RunConfig = make_config("trained", train=SETTINGS)
    train(config)
    return config


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used_only_with_fallback(
    trained: RunConfig, make_config: Any
) -> None:
    expected, losses = newest_digest(trained), losses_of(trained)
    newest = list_checkpoints(trained.checkpoints_dir)[-1]
    earlier = list_checkpoints(trained.checkpoints_dir)[-2]
    choose = random.Random(0)
    for place in range(20):
        path = choose.choice([path for path in sorted(newest.iterdir()) if path.stat().st_size])
        content = path.read_bytes()
        if place % 2:
            cut = choose.randrange(len(content))
            path.write_bytes(content[:cut])
        else:
            flipped = bytearray(content)
            flipped[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
            path.write_bytes(flipped)
        with pytest.raises(DamagedCheckpointError, match=path.name.replace(".", r"\.")) as caught:
            train(trained, resume=True)
        assert "--fallback" in str(caught.value)
        path.write_bytes(content)
    (newest / MANIFEST_NAME).write_bytes((newest / MANIFEST_NAME).read_bytes().replace(b'"step": ', b'"step": 1'))
    train(trained, resume=True, fallback=True)
    assert read_manifest(newest, verify=True).step > read_manifest(earlier, verify=True).step
    assert newest_digest(trained) == expected
    assert losses_of(trained) == losses
    assert (newest.parent / f"damaged-{newest.name}").is_dir()


def test_a_stray_file_in_a_checkpoint_that_is_being_written_is_an_error(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit_with_a_stray_file(partial: Path, *given: Any) -> Path:
        (partial / "__7_0.distcp").write_bytes(b"of another attempt")
        return commit(partial, *given)

    monkeypatch.setattr("pipeline.train.checkpoints.writer.commit", commit_with_a_stray_file)
    config = make_config(train=SETTINGS)
    with pytest.raises(ArtifactError, match=r"holds __7_0\.distcp, which no rank of this run wrote"):
        train(config)
    assert not list(config.checkpoints_dir.iterdir())


def test_what_a_dead_attempt_left_is_not_used(make_config: Any) -> None:
    config = make_config(train=SETTINGS)
    left = config.checkpoints_dir / ".partial-step-00000020-0badcafe"
    left.mkdir(parents=True)
    (left / "__1_0.distcp").write_bytes(b"of two ranks")
    train(config)
    assert not left.exists()
    assert not [path for folder in list_checkpoints(config.checkpoints_dir) for path in folder.glob("__1_0*")]


@pytest.mark.parametrize("in_background", [True, False])
def test_a_full_disk_keeps_the_last_good_checkpoint_and_no_part_of_the_next(
    trained: RunConfig, make_config: Any, in_background: bool
) -> None:
    config = make_config("full", train={**SETTINGS, "max_epochs": 2, "checkpoint_in_background": in_background})
    good_bytes = (list_checkpoints(trained.checkpoints_dir)[0] / "__0_0.distcp").stat().st_size
    assert good_bytes > MAX_FILE_BYTES
    with file_size_limit(MAX_FILE_BYTES), pytest.raises(StorageError) as caught:
        train(config)
    message = str(caught.value)
    print(message)
    assert str(config.checkpoints_dir) in message
    assert "File too large" in message
    assert "bytes are needed" in message
    assert not list(config.checkpoints_dir.iterdir())


def failing_streams(num_failures: int, code: int) -> Callable[..., Any]:
    """`FileSystem.create_stream` that fails the first times it should write tensors."""
    real, left = FileSystem.create_stream, num_failures

    def create_stream(self: FileSystem, path: Any, mode: str) -> Any:
        nonlocal left
        if mode == "wb" and str(path).endswith(".distcp") and left > 0:
            left -= 1
            raise OSError(code, os.strerror(code), str(path))
        return real(self, path, mode)

    return create_stream


def test_a_storage_that_falters_is_tried_again(
    trained: RunConfig, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(FileSystem, "create_stream", failing_streams(files.MAX_FAILURES - 1, errno.EIO))
    config = make_config("faltering", train=SETTINGS)
    train(config)
    assert newest_digest(config) == newest_digest(trained)


@pytest.mark.parametrize(("code", "words"), [(errno.EIO, "failed 3 times in a row"), (errno.ENOSPC, "No space left")])
def test_a_storage_that_fails_for_good_stops_the_run(
    make_config: Any, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    monkeypatch.setattr(files, "FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(FileSystem, "create_stream", failing_streams(99, code))
    config = make_config(train=SETTINGS)
    with pytest.raises(StorageError, match=words):
        train(config)
    assert not list(config.checkpoints_dir.iterdir())
