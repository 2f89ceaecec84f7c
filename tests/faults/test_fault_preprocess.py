"""What is left of a preprocessing that is killed again and again."""

import random
import signal
import time
from typing import Any

import pytest
from tampered import content_of
from training_runs import WAIT_SECONDS, start

from pipeline.config import build
from pipeline.executor import InProcessExecutor
from pipeline.preprocess.run import STAGING_FOLDER, preprocess
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import INDEX_NAME

NUM_KILLS = 3


@pytest.mark.slow
def test_a_preprocessing_killed_again_and_again_ends_with_the_same_bytes(
    demo_settings: dict[str, Any], tmp_path: Any, fault_seed: int
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
