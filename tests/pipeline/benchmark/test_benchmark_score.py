"""The score benchmark on a small log: both paths agree, rows and arrays are those of the candidates, peers predict."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.benchmark import score_workload
from pipeline.benchmark.candidate_rows import candidate_rows
from pipeline.benchmark.page import save
from pipeline.benchmark.process import run_measured
from pipeline.benchmark.rounds import Frame
from pipeline.benchmark.score import PEERS, WAYS, check_predictions, compare_scoring, peer
from pipeline.benchmark.score_arrays import NUMBERS, write_arrays
from pipeline.benchmark.score_workload import Workload, make_workload
from pipeline.errors import ArtifactError
from pipeline.executor import InProcessExecutor
from pipeline.export.run import export
from pipeline.preprocess.run import preprocess
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig, load_run_config
from pipeline.train.run import train

# Where `gatehouse benchmark score --peers` makes them, if it was ever run in this checkout.
ENVIRONMENTS = Path(__file__).parents[3] / "runs" / "benchmark" / "environments"
NUM_REQUESTS, NUM_CANDIDATES = 12, 15


def _ignore(*_: Any) -> None:
    pass


def _run_here(command: tuple[Any, ...], _num_threads: int) -> None:
    """A verb without a process of its own, which would import everything once more."""
    _python, _m, _jobs, verb, _option, path = command
    stages: dict[str, Callable[[RunConfig], object]] = {
        "preprocess": lambda config: preprocess(config, InProcessExecutor()),
        "train": train,
        "export": export,
    }
    stages[verb](load_run_config(path))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_workload, "LOG_ROWS", 3_000)
        patch.setattr(score_workload, "REQUESTS_PER_FILE", 5)
        patch.setattr(score_workload, "run_measured", _run_here)
        yield tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def workload(work: Path) -> Workload:
    return make_workload(work / "score" / "workload", NUM_REQUESTS, NUM_CANDIDATES, 1, lambda _: _ignore)


@pytest.mark.exhaustive
def test_both_paths_rank_alike_and_are_measured(work: Path, workload: Workload, tmp_path: Path) -> None:
    before = (workload.folder / "data" / "simulation.json").stat().st_mtime_ns
    found = compare_scoring(Frame(work, 1, 1), NUM_REQUESTS, NUM_CANDIDATES, lambda _: _ignore)
    assert (workload.folder / "data" / "simulation.json").stat().st_mtime_ns == before
    assert [one["name"] for one in found["contestants"]] == ["gatehouse", "row by row"]
    assert [one["num_rows"] for one in found["contestants"]] == [180, 180]
    everything, best = found["checked"]["all candidates"], found["checked"]["the best 10"]
    assert (everything["num_requests"], everything["num_rows"]) == (5, 5 * NUM_CANDIDATES)
    assert (best["num_requests"], best["num_rows"]) == (NUM_REQUESTS, NUM_REQUESTS * 10)
    assert max(everything["largest_difference"], best["largest_difference"]) <= 1e-6
    page = save(found, tmp_path / "speed.jsonl")[1].read_text()
    assert "| gatehouse | " in page
    assert "candidates/s" in page
    assert "12 requests with 15 candidates each" in page
    assert "all candidates of 5 requests: largest difference " in page


def _rows_of(workload: Workload) -> tuple[FittedTransform, pa.Table, pa.Table]:
    """What encodes, and the keys and features of all candidates."""
    config = load_run_config(workload.config)
    fitted = FittedTransform.load(config.dataset_dir, config.data_schema)
    keys, features = map(pa.concat_tables, zip(*candidate_rows(config, fitted), strict=True))
    return fitted, keys, features


def test_a_row_has_the_features_of_its_own_user_and_item(workload: Workload) -> None:
    fitted, keys, features = _rows_of(workload)
    requests = pq.read_table(workload.folder / "data" / "candidates.parquet")
    np.testing.assert_array_equal(keys["request_id"], np.repeat(requests["request_id"], NUM_CANDIDATES))
    assert keys["item_id"].to_pylist() == requests["items"].combine_chunks().flatten().to_pylist()
    assert features.equals(fitted.encode_features(_joined_by_hand(workload, requests), "rows"))


def _joined_by_hand(workload: Workload, requests: pa.Table) -> pa.Table:
    data = workload.folder / "data"
    users, items = (
        {row[key]: row for row in pq.read_table(data / name).to_pylist()}
        for name, key in (("users.parquet", "user_id"), ("items.parquet", "item_id"))
    )
    rows = [
        {**request, **users[request["user_id"]], **items[item]}
        for request in requests.to_pylist()
        for item in request["items"]
    ]
    return pa.Table.from_pylist(rows)


def test_arrays_hold_the_encoded_rows(workload: Workload, tmp_path: Path) -> None:
    about = write_arrays(tmp_path, workload.config, 50)
    rows = _rows_of(workload)[2].slice(0, 50)
    for feature in about["sparse"]:
        ids = np.load(tmp_path / f"{feature['name']}.npy")
        expected = rows[f"sparse_{feature['name']}"].to_pylist()
        assert ids.max() < feature["num_embeddings"]
        if ids.ndim == 1:
            assert (ids - 1).tolist() == expected
        else:
            assert [[one - 1 for one in row if one] for row in ids.tolist()] == expected
    assert np.load(tmp_path / f"{NUMBERS}.npy").tolist() == rows["dense"].to_pylist()
    assert next(one["table"] for one in about["sparse"] if one["name"] == "history") == "item_id"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_predicts_every_row(name: str, way: str, workload: Workload, tmp_path: Path) -> None:
    python = ENVIRONMENTS / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{name} is in no environment: `gatehouse benchmark score --peers` makes one")
    contestant = peer(tmp_path, name, way, write_arrays(tmp_path, workload.config, 100), python)
    run_measured(contestant.command, 1)
    check_predictions(contestant)
    assert np.load(contestant.folder / "predictions.npy").shape == (100, 4)


def test_predictions_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    contestant = peer(tmp_path, "rechub", WAYS[0], {"num_rows": 3}, Path("python"))
    assert json.loads((tmp_path / "job.json").read_text())["way"] == "as shipped"
    contestant.folder.mkdir()
    for predictions in (np.ones((2, 4)), np.array([[1.0], [np.nan], [1.0]])):
        np.save(contestant.folder / "predictions.npy", predictions)
        with pytest.raises(ArtifactError, match="does not hold a finite prediction for each of 3 rows"):
            check_predictions(contestant)
