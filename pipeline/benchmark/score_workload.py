"""What scoring is measured on: the demo's model, trained on a simulated log, and requests with lists of candidates."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from pipeline.benchmark.process import run_measured
from pipeline.config import read_config
from pipeline.executor import Progress
from pipeline.files import write_json
from pipeline.simulate.run import simulate

DEMO = Path(__file__).resolve().parents[2] / "jobs" / "configs" / "demo.yaml"
LOG_ROWS, SEED, NUM_EPOCHS = 700_000, 1, 1
REQUESTS_PER_FILE = 2_500
CANDIDATES = "candidates"
# What the check computes by itself: see `fuse` there.
FUSION, TOP_K = "click * purchase ** 0.5", 10
FORMAT = 1


@dataclass(frozen=True)
class Workload:
    """A workspace with a model that is trained and exported, and requests with `num_candidates` distinct items each."""

    folder: Path
    num_requests: int
    num_candidates: int

    @property
    def config(self) -> Path:
        return self.folder / "run.yaml"

    @property
    def workspace(self) -> Path:
        return self.folder / "run"

    @property
    def num_rows(self) -> int:
        return self.num_requests * self.num_candidates

    @property
    def sample(self) -> tuple[str, ...]:
        """The overrides of a run that keeps every candidate of the first file."""
        return (f"score.candidates.path={CANDIDATES}/{file_name(0)}", f"score.top_k={self.num_candidates}")


def make_workload(
    folder: Path, num_requests: int, num_candidates: int, num_threads: int, start_stage: Callable[[str], Progress]
) -> Workload:
    """Makes a workload in `folder`, unless it is there already; a file beside it says what it holds.

    Raises:
        SetupError: preprocessing, training or the export fails.
    """
    workload = Workload(folder, num_requests, num_candidates)
    settings = _settings(workload)
    counts = {"log_rows": LOG_ROWS, "seed": SEED, "requests": num_requests, "candidates": num_candidates}
    description = json.loads(json.dumps({"format": FORMAT, **counts, "settings": settings}, default=str))
    path = folder.parent / f"{folder.name}.json"
    if path.is_file() and json.loads(path.read_text()) == description:
        return workload
    path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _simulate(workload, start_stage("log"))
    workload.config.write_text(yaml.safe_dump(settings, sort_keys=False))
    for verb in ("preprocess", "train", "export"):
        start_stage(verb)
        run_measured((sys.executable, "-m", "jobs", verb, "--config", workload.config), num_threads)
    write_json(path, description)
    return workload


def file_name(place: int) -> str:
    return f"part-{place:05}.parquet"


def _settings(workload: Workload) -> dict[str, Any]:
    """The demo's configuration, but for its folders, the length of its training and what it scores."""
    demo = read_config(DEMO)
    return {
        **demo,
        "workspace": str(workload.workspace),
        "inputs": str(workload.folder / "data"),
        "train": {**demo["train"], "max_epochs": NUM_EPOCHS},
        "score": {"candidates": {"path": CANDIDATES}, "items_column": "items", "fusion": FUSION, "top_k": TOP_K},
    }


def _simulate(workload: Workload, progress: Progress) -> None:
    num_rows = 0

    def count(new_rows: int) -> None:
        nonlocal num_rows
        num_rows += new_rows
        progress("rows", num_rows, LOG_ROWS, num_rows, "rows")

    data = workload.folder / "data"
    simulate(
        data,
        LOG_ROWS,
        SEED,
        num_candidate_requests=workload.num_requests,
        candidates_per_request=workload.num_candidates,
        progress=count,
    )
    requests = pq.read_table(data / f"{CANDIDATES}.parquet")
    (data / CANDIDATES).mkdir()
    for place, first in enumerate(range(0, requests.num_rows, REQUESTS_PER_FILE)):
        pq.write_table(requests.slice(first, REQUESTS_PER_FILE), data / CANDIDATES / file_name(place))
