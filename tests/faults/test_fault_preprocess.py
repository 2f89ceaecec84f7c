"""What is left of a preprocessing that is killed again and again."""

import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tampered import content_of
from training_runs import WAIT_SECONDS, start

from pipeline.config import build
from pipeline.errors import UsageError
from pipeline.executor import InProcessExecutor
from pipeline.preprocess.restart import STAGING_FOLDER
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import INDEX_NAME, ShardEntry, read_index
from pipeline.shards.writer import ShardWriter

NUM_KILLS = 3


@pytest.mark.slow
def test_a_preprocessing_killed_again_and_again_ends_with_the_same_bytes(
    demo_settings: dict[str, Any], tmp_path: Path, fault_seed: int
) -> None:
    settings = demo_settings | {"preprocess": demo_settings["preprocess"] | {"rows_per_shard": 500}}
    clean = build(RunConfig, {**settings, "workspace": str(tmp_path / "clean")}, "the tests")
    killed = build(RunConfig, {**settings, "workspace": str(tmp_path / "killed")}, "the tests")
    num_shards = len(preprocess(clean, InProcessExecutor()).shards)
    choose = random.Random(fault_seed)
    for _ in range(NUM_KILLS):
        process = start("preprocess", killed)
        staging = killed.dataset_dir / STAGING_FOLDER
        num_files = choose.randrange(1, 12 + num_shards)
        deadline = time.monotonic() + WAIT_SECONDS
        while process.poll() is None and not (killed.dataset_dir / INDEX_NAME).exists():
            assert time.monotonic() < deadline
            files = [*staging.glob("part-*.json"), *killed.dataset_dir.glob("*-*.arrow")]
            if len(files) >= num_files:
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        print(
            f"seed {fault_seed}: killed with {num_files} files, {len(list(staging.glob('part-*.json')))} parts staged"
        )
        if (killed.dataset_dir / INDEX_NAME).exists():
            (killed.dataset_dir / INDEX_NAME).unlink()
    preprocess(killed, InProcessExecutor())
    assert content_of(killed.dataset_dir) == content_of(clean.dataset_dir)


def test_a_restart_writes_only_the_shards_that_are_missing(
    demo_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = demo_settings | {"preprocess": demo_settings["preprocess"] | {"rows_per_shard": 500}}
    clean = build(RunConfig, {**settings, "workspace": str(tmp_path / "clean")}, "the tests")
    killed = build(RunConfig, {**settings, "workspace": str(tmp_path / "killed")}, "the tests")
    index = preprocess(clean, InProcessExecutor())
    assert len(index.shards) > 3
    written: list[str] = []
    write = ShardWriter.write

    def write_until_killed(self: ShardWriter, name: str, *arguments: Any) -> ShardEntry:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(name)
        return write(self, name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "write", write_until_killed)
        with pytest.raises(KeyboardInterrupt):
            preprocess(killed, InProcessExecutor())
    first, gone = (killed.dataset_dir / name for name in written[:2])
    gone.unlink()
    before = first.stat().st_mtime_ns
    assert preprocess(killed, InProcessExecutor()) == index
    assert first.stat().st_mtime_ns == before
    assert content_of(killed.dataset_dir) == content_of(clean.dataset_dir)


def test_a_kill_while_the_staged_parts_are_removed_leaves_a_dataset_and_the_next_attempt_sweeps(
    demo_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build(RunConfig, {**demo_settings, "workspace": str(tmp_path)}, "the tests")

    def kill(path: Path, **_: Any) -> None:
        if Path(path).parent == config.dataset_dir:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", kill)
        with pytest.raises(KeyboardInterrupt):
            preprocess(config, InProcessExecutor())
    assert preprocess(config, InProcessExecutor()) == read_index(config.dataset_dir)
    assert not [path for path in config.dataset_dir.iterdir() if path.name.startswith(".")]
    with pytest.raises(UsageError, match="holds a complete dataset"):
        preprocess(config, InProcessExecutor())
