"""What is left of a scoring run that is killed, or whose workers are."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from changed_settings import merged
from ray_processes import ray_processes_below
from tampered import content_of
from training_runs import WAIT_SECONDS, start

from pipeline.config import build
from pipeline.executor import InProcessExecutor
from pipeline.export.run import export
from pipeline.run_config import RunConfig
from pipeline.score import run as score_run
from pipeline.score.parts import WORK_FOLDER, write_part
from pipeline.score.run import score
from pipeline.train.run import train

NUM_FILES, REPEATS = 24, 5


@pytest.fixture(scope="module")
def settings(demo_settings: dict[str, Any], dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A trained and exported run on many files of candidates."""
    folder = tmp_path_factory.mktemp("scoring")
    table = pq.read_table(Path(demo_settings["inputs"]) / "candidates.parquet")
    num_requests = table.num_rows
    (folder / "candidates").mkdir()
    for number in range(NUM_FILES):
        first = number * REPEATS * num_requests
        ids = pa.array(range(first, first + REPEATS * num_requests))
        rows = pa.concat_tables([table] * REPEATS).set_column(0, "request_id", ids)
        pq.write_table(rows, folder / "candidates" / f"{number:02d}.parquet")
    (folder / "dataset").symlink_to(dataset)
    section = {"candidates": {"path": str(folder / "candidates")}, "caps": [{"column": "author_id", "max": 2}]}
    made: dict[str, Any] = merged(demo_settings, {"workspace": str(folder), "score": section})
    config = build(RunConfig, made, "the tests")
    train(config)
    export(config)
    return made


def of_workspace(settings: dict[str, Any], workspace: Path, **changes: Any) -> RunConfig:
    """The run in an empty workspace, with the dataset, the checkpoints and the export of the trained one."""
    workspace.mkdir()
    for name in ("dataset", "checkpoints", "export"):
        (workspace / name).symlink_to(Path(settings["workspace"]) / name)
    return build(RunConfig, merged(settings, {"workspace": str(workspace), **changes}), "the tests")


@pytest.fixture(scope="module")
def clean(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The parts of a run that nothing disturbs."""
    return parts_in(score(of_workspace(settings, tmp_path_factory.mktemp("clean") / "run")))


def parts_in(folder: Path) -> dict[str, str]:
    return {name: sha256 for name, sha256 in content_of(folder).items() if name.startswith("part-")}


def finished_parts(config: RunConfig) -> dict[str, int]:
    """The parts that a restart finds, and when each was written."""
    work = config.workspace_dir / WORK_FOLDER
    names = [path.stem for path in (work / "parts").glob("part-*.json")]
    return {f"{name}.parquet": (work / "ranked" / f"{name}.parquet").stat().st_mtime_ns for name in names}


def assert_only_missing_parts_are_redone(config: RunConfig, before: dict[str, int], clean: dict[str, str]) -> None:
    folder = score(config)
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert parts_in(folder) == clean
    rows = pa.concat_tables([pq.read_table(folder / name, columns=["request_id", "item_id"]) for name in clean])
    assert rows.group_by(["request_id", "item_id"]).aggregate([]).num_rows == rows.num_rows
    assert not (config.workspace_dir / WORK_FOLDER).exists()


def test_a_restart_ranks_only_what_is_missing(
    settings: dict[str, Any], clean: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = of_workspace(settings, tmp_path / "run")
    made: list[Any] = []

    def write_until_killed(*arguments: Any) -> dict[str, Any]:
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(write_part(*arguments))
        return dict(made[-1])

    with monkeypatch.context() as patch:
        patch.setattr(score_run, "write_part", write_until_killed)
        with pytest.raises(KeyboardInterrupt):
            score(config)
    before = finished_parts(config)
    assert len(before) == 5
    # A part of which nothing is told, as a kill between the two leaves it.
    gone = sorted(before)[1]
    (config.workspace_dir / WORK_FOLDER / "parts" / gone).with_suffix(".json").unlink()
    del before[gone]
    made.clear()

    def write(*arguments: Any) -> dict[str, Any]:
        made.append(write_part(*arguments))
        return dict(made[-1])

    with monkeypatch.context() as patch:
        patch.setattr(score_run, "write_part", write)
        assert_only_missing_parts_are_redone(config, before, clean)
    assert len(made) == NUM_FILES - 4


def test_other_work_begins_anew(
    settings: dict[str, Any], clean: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = of_workspace(settings, tmp_path / "run")

    def kill(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(score_run, "write_json", kill)
        with pytest.raises(KeyboardInterrupt):
            score(config)
    assert len(finished_parts(config)) == NUM_FILES
    other = build(RunConfig, merged(settings, {"workspace": config.workspace, "score": {"top_k": 3}}), "the tests")
    found = parts_in(score(other))
    assert set(found) == set(clean)
    assert not set(found.values()) & set(clean.values())


@pytest.mark.parametrize("num_threads", [1, 4])
def test_the_executor_does_not_matter(
    settings: dict[str, Any], clean: dict[str, str], tmp_path: Path, num_threads: int
) -> None:
    config = of_workspace(settings, tmp_path / "run")
    assert parts_in(score(config, InProcessExecutor(num_threads))) == clean


@pytest.mark.slow
def test_a_scoring_that_is_killed_half_way_redoes_only_what_is_missing(
    settings: dict[str, Any], clean: dict[str, str], tmp_path: Path, fault_seed: int
) -> None:
    choose = random.Random(fault_seed)
    config = of_workspace(settings, tmp_path / "run")
    process = start("score", config)
    reached = wait_for_parts(config, choose.randrange(1, NUM_FILES * 3 // 4), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = finished_parts(config)
    print(f"seed {fault_seed}: killed with {reached} of {NUM_FILES} parts")
    assert 0 < len(before) < NUM_FILES
    assert_only_missing_parts_are_redone(config, before, clean)


def wait_for_parts(config: RunConfig, num_parts: int, process: subprocess.Popen[str]) -> int:
    """Returns how many parts there are as soon as there are `num_parts`."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (found := len(finished_parts(config))) < num_parts:
        assert process.poll() is None, "the run ended before the fault"
        assert time.monotonic() < deadline, "the run did not make its parts"
        time.sleep(0.001)
    return found


@pytest.mark.exhaustive
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_three_scoring_actors_that_are_killed_are_replaced_and_nothing_is_lost(
    settings: dict[str, Any], clean: dict[str, str], tmp_path: Path, fault_seed: int
) -> None:
    choose = random.Random(fault_seed)
    config = of_workspace(settings, tmp_path / "run", cluster={"num_cpus": 2})
    process = start("score", config)
    killed: list[int] = []
    for num_parts in sorted(choose.sample(range(1, NUM_FILES - 6), 3)):
        wait_for_parts(config, num_parts, process)
        while not (actors := [actor for actor in ray_processes_below(process.pid, "_Worker") if actor not in killed]):
            assert process.poll() is None, "the run ended before the fault"
            time.sleep(0.01)
        killed.append(choose.choice(actors))
        os.kill(killed[-1], signal.SIGKILL)
    _, error = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, error
    print(f"seed {fault_seed}: killed actors {killed}")
    assert parts_in(config.scores_dir) == clean
