"""`gatehouse benchmark preprocess`: a raw log to training-ready files, beside engines that do the same work."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.benchmark.environment import locked_versions, make_environment
from pipeline.benchmark.log import (
    LABELS,
    TEST_FROM,
    TIME,
    VALIDATION_FROM,
    LogSpec,
    iso_time,
    make_log,
    read_ahead,
)
from pipeline.benchmark.outputs import DatasetOutput, FilesOutput, Findings, find_differences, inspect
from pipeline.benchmark.rounds import (
    GATEHOUSE,
    Contestant,
    Frame,
    StartStage,
    own_versions,
    record,
    take_rounds,
)
from pipeline.errors import ArtifactError
from pipeline.executor import Progress
from pipeline.shards.manifest import SPLITS

PREPROCESS = "preprocess"
PEERS = ("duckdb", "polars", "pandas")
PEERS_LOCK = "peers"
MIN_COUNT = 5
SHOWN_DIFFERENCES = 3


@dataclass(frozen=True)
class Job:
    """The work: vocabularies of the values that training rows have `min_count` times, ids, standardised logarithms
    of the numbers with the moments of training rows, and one set of files for each split by time."""

    spec: LogSpec
    log: Path
    min_count: int

    @property
    def validation_from_us(self) -> int:
        return self.spec.time_of(VALIDATION_FROM)

    @property
    def test_from_us(self) -> int:
        return self.spec.time_of(TEST_FROM)


def prepare_job(work: Path, name: str, spec: LogSpec, min_count: int, num_threads: int, progress: Progress) -> Job:
    """A job on a log that is made if need be, and then in the page cache."""
    log = work / "logs" / f"{name}-{spec.num_rows}"
    make_log(log, spec, num_threads, progress)
    read_ahead(log)
    return Job(spec, log, min_count)


def compare(frame: Frame, num_rows: int, start_stage: StartStage) -> dict[str, Any]:
    """Gatehouse, and the peers if asked for, on the same log in turns: the record of all figures.

    Raises:
        ArtifactError: the output of a peer is not that of Gatehouse.
        SetupError: the peers' environment cannot be made, or a run fails.
    """
    work = frame.work
    job = prepare_job(work, "wide", LogSpec.wide(num_rows), MIN_COUNT, frame.num_threads, start_stage("log"))
    contestants = [gatehouse(work / GATEHOUSE, job)]
    if frame.with_peers:
        start_stage("environment of the peers")
        python = make_environment(work / "environment", PEERS_LOCK)
        contestants += [peer(work / name, job, name, python) for name in PEERS]
    findings: list[Findings] = []

    def check(contestant: Contestant) -> None:
        is_ours = contestant.name == GATEHOUSE
        output = DatasetOutput(contestant.folder / "dataset", job.spec) if is_ours else FilesOutput(contestant.folder)
        findings.append(inspect(output, job.spec))
        if differences := find_differences(findings[0], findings[-1]):
            shown = "; ".join(differences[:SHOWN_DIFFERENCES])
            raise ArtifactError(
                f"{contestant.folder} does not hold what gatehouse made of the same log, in {len(differences)} "
                f"respects: {shown}",
                "mend the one that is wrong: only the same work can be compared",
            )

    usages = take_rounds(contestants, frame, start_stage("preprocess"), check)
    checked = {
        "rows": {split: findings[0].facts[f"rows of {split}"] for split in SPLITS},
        "vocabulary_values": findings[0].num_values,
        "sampled_rows": len(findings[0].sample),
        "same_output": [one.name for one in contestants[1:]],
    }
    return record(PREPROCESS, {"rows": num_rows, "min_count": MIN_COUNT}, contestants, usages, frame, checked)


def gatehouse(folder: Path, job: Job, name: str = GATEHOUSE) -> Contestant:
    """`gatehouse preprocess` as a user runs it, with a configuration that it writes to `folder`."""
    spec, workspace = job.spec, folder / "out"
    features = [{"name": one, "kind": "categorical", "min_count": job.min_count} for one in spec.categoricals]
    features += [{"name": one, "kind": "numeric", "log1p": True} for one in spec.numbers]
    split = {
        "kind": "time",
        "column": TIME,
        "validation_from": iso_time(job.validation_from_us),
        "test_from": iso_time(job.test_from_us),
    }
    settings = {
        "workspace": str(workspace),
        "schema": {
            "keys": {"time": TIME},
            "features": features,
            "tasks": [{"name": label, "kind": "binary", "label": label} for label in LABELS],
        },
        "preprocess": {"log": {"path": str(job.log)}, "split": split},
    }
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    command = (sys.executable, "-m", "jobs", "preprocess", "--config", config)
    return Contestant(name, own_versions("pyarrow"), command, workspace, spec.num_rows)


def peer(folder: Path, job: Job, name: str, python: Path) -> Contestant:
    """The script of a peer, with a job that is written to `folder` for it."""
    spec, out = job.spec, folder / "out"
    settings = {
        "log": str(job.log),
        "out": str(out),
        "categoricals": spec.categoricals,
        "numbers": spec.numbers,
        "labels": LABELS,
        "time": TIME,
        "validation_from": job.validation_from_us,
        "test_from": job.test_from_us,
        "min_count": job.min_count,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.json"
    path.write_text(json.dumps(settings, indent=1))
    script = Path(__file__).parent / "peers" / f"{name}_preprocess.py"
    versions = {name: locked_versions(PEERS_LOCK)[name]}
    return Contestant(name, versions, (python, script, path), out, spec.num_rows)
