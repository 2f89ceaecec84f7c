"""The preprocess benchmark: the peers that are installed do what gatehouse does, and one that does not is named."""

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmark import preprocess
from pipeline.benchmark.log import LogSpec
from pipeline.benchmark.outputs import DatasetOutput, FilesOutput, find_differences, inspect
from pipeline.benchmark.preprocess import MIN_COUNT, PEERS, Job, compare, gatehouse, peer, prepare_job
from pipeline.benchmark.process import run_measured
from pipeline.benchmark.rounds import Frame
from pipeline.errors import ArtifactError

# Where `gatehouse benchmark preprocess --peers` makes it, if it was ever run in this checkout.
ENVIRONMENT = Path(__file__).parents[3] / "runs" / "benchmark" / "environment"
NUM_ROWS = 20_000


def _ignore(*_: Any) -> None:
    pass


@cache
def _python_of(name: str) -> Path | None:
    """An interpreter that has a peer, the peers' own before this one."""
    for python in (ENVIRONMENT / "bin" / "python", Path(sys.executable)):
        if python.exists() and not subprocess.run([python, "-c", f"import {name}"], capture_output=True).returncode:
            return python
    return None


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return prepare_job(tmp_path_factory.mktemp("work"), "wide", LogSpec.wide(NUM_ROWS), MIN_COUNT, 1, _ignore)


@pytest.fixture(scope="module")
def dataset(job: Job, tmp_path_factory: pytest.TempPathFactory) -> DatasetOutput:
    contestant = gatehouse(tmp_path_factory.mktemp("gatehouse"), job)
    run_measured(contestant.command, 1)
    return DatasetOutput(contestant.folder / "dataset", job.spec)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_does_the_same_work(name: str, job: Job, dataset: DatasetOutput, tmp_path: Path) -> None:
    python = _python_of(name)
    if python is None:
        pytest.skip(f"{name} is in no environment: `gatehouse benchmark preprocess --peers` makes one")
    contestant = peer(tmp_path, job, name, python)
    run_measured(contestant.command, 1)
    found = inspect(FilesOutput(contestant.folder), job.spec)
    assert find_differences(inspect(dataset, job.spec), found) == []
    assert found.facts["rows of test"] == NUM_ROWS // 10
    assert found.num_values > 1000


def test_what_gatehouse_wrote_restores_to_the_log(job: Job, dataset: DatasetOutput) -> None:
    import pyarrow.parquet as pq

    sample, log = inspect(dataset, job.spec).sample, pq.read_table(job.log)
    assert len(sample) == NUM_ROWS
    assert sample["split"].to_pylist() == ["train"] * 16_000 + ["validation"] * 2_000 + ["test"] * 2_000
    for name in ("c00", "c25"):
        texts = sample[name].to_pylist()
        assert all(text in (value, "(unseen)") for text, value in zip(texts, log[name].to_pylist(), strict=True))
    assert sample["c00"].to_pylist() == log["c00"].to_pylist()
    assert sample["buy"].to_pylist() == log["buy"].to_pylist()


def test_another_output_stops_the_benchmark(tmp_path: Path, monkeypatch: Any) -> None:
    """A peer that is asked for other counts makes another vocabulary."""
    monkeypatch.setattr(preprocess, "PEERS", ("pandas",))
    monkeypatch.setattr(preprocess, "make_environment", lambda *_: _python_of("pandas"))
    monkeypatch.setattr(preprocess, "peer", lambda folder, job, *rest: peer(folder, replace(job, min_count=6), *rest))
    if _python_of("pandas") is None:
        pytest.skip("pandas is in no environment")
    with pytest.raises(ArtifactError, match=r"pandas/out does not hold what gatehouse made of the same log, in \d+ "):
        compare(Frame(tmp_path, 1, 1, True), 5_000, lambda _: _ignore)
