"""The train and read benchmarks on small datasets: every figure is there, and quality and floor are what they say."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands_here import ignore, run_here
from torch import Tensor, nn

from models.layers import BatchedLinear
from models.products import SMALLEST_WIDTH
from pipeline.benchmark import rounds
from pipeline.benchmark.log import LABELS, LogSpec
from pipeline.benchmark.page import save
from pipeline.benchmark.process import run_measured
from pipeline.benchmark.read import contest as read_contest
from pipeline.benchmark.read import run as read_run
from pipeline.benchmark.rounds import Frame
from pipeline.benchmark.score import PEERS
from pipeline.benchmark.train import contest, floor, workload
from pipeline.benchmark.train.arrays import read_split, write_arrays
from pipeline.benchmark.train.contest import (
    WAYS,
    area_under_curve,
    compare_training,
    gatehouse,
    lowest_floor,
    peer,
)
from pipeline.benchmark.train.floor import measure_floor, need_of
from pipeline.benchmark.train.workload import LONG, SHORT, WHOLE, Sizes, Workload, make_workload
from pipeline.errors import ArtifactError
from pipeline.run_config import RunConfig, load_run_config
from pipeline.shards.manifest import read_index
from pipeline.train.checkpoints.checkpoint import best_checkpoint
from pipeline.train.predictor import Predictor
from pipeline.train.telemetry import read_history

# Where `gatehouse benchmark train --peers` makes them, if it was ever run in this checkout.
ENVIRONMENTS = Path(__file__).parents[3] / "runs" / "benchmark" / "environments"
NUM_ROWS = 2_000
SIZES = Sizes(
    LogSpec(0, (5, 40, 300), 2, is_learnable=True),
    short_steps=6,
    long_rows=1_000,
    validation_rows=64,
    test_rows=500,
    batch_size=64,
    window_steps=2,
    embedding_dim=4,
    expert_widths=(8, 4),
    tower_widths=(4,),
    num_experts=2,
    num_shared_experts=1,
    num_task_experts=1,
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workload, "SIZES", SIZES)
        patch.setattr(floor, "NUM_TRIALS", 1)
        patch.setattr("pipeline.benchmark.machine.COPY_BYTES", 1 << 20)
        for module in (rounds, contest, workload):
            patch.setattr(module, "run_measured", run_here)
        yield tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def data(work: Path) -> Workload:
    return make_workload(work / "train" / "workload", NUM_ROWS, 1, lambda _: ignore)


def test_datasets_have_the_rows_and_the_ids_that_they_should(data: Workload) -> None:
    indexes = {name: read_index(data.dataset(name)) for name in data.rows}
    for name, num_rows in ((WHOLE, 2_000), (SHORT, 384), (LONG, 1_000)):
        assert [indexes[name].num_rows(split) for split in ("train", "validation", "test")] == [num_rows, 64, 500]
        assert indexes[name].table_rows == indexes[WHOLE].table_rows
    assert all(rows <= data.table_rows[name] for name, rows in indexes[WHOLE].table_rows.items())
    short, whole = (read_split(data.dataset(name), "train")["sparse_c02"].to_numpy() for name in (SHORT, WHOLE))
    np.testing.assert_array_equal(short, whole[:384])


def test_the_lowest_floor_is_that_of_each_precision() -> None:
    def measured(float32: float, bfloat16: float) -> dict[str, Any]:
        seconds = {"float32": float32, "bfloat16": bfloat16}
        return {"seconds": seconds, "flops_per_second": {name: 8.0 / own for name, own in seconds.items()}, "flops": 8}

    found = lowest_floor([measured(4.0, 1.0), measured(2.0, 4.0), measured(8.0, 2.0)])
    assert found == measured(2.0, 1.0)


@pytest.mark.parametrize("body", ["mmoe", "ple"])
def test_training_is_measured_and_shown(body: str, work: Path, data: Workload, tmp_path: Path) -> None:
    found = compare_training(Frame(work, 2, 1), body, NUM_ROWS, lambda _: ignore)
    assert [one["name"] for one in found["contestants"]] == ["gatehouse, float32", "gatehouse, bfloat16"]
    for one in found["contestants"]:
        assert one["num_rows"] == 384
        assert [len(run["window_speeds"]) for run in one["runs"]] == [2, 2]
        assert all(speed > 0 for run in one["runs"] for speed in run["window_speeds"])
        assert set(found["checked"]["auc"][one["name"]]) == set(LABELS)
    lowest = found["checked"]["floor"]
    assert min(lowest["seconds"].values()) > lowest["gather_seconds"] > 0
    page = save(found, tmp_path / "speed.jsonl")[1].read_text()
    assert page.startswith(f"# Speed\n\n## {found['benchmark']}\n")
    assert "the rounds 384 of them, the epoch before the test 1,000; the test has 500 others" in page
    assert "| of the floor | time | start, s | CPU, s |" in page
    for name, auc in found["checked"]["auc"].items():
        assert re.search(rf"^\| {name} \|.* {auc['click']:.4f} \| {auc['buy']:.4f} \|$", page, re.MULTILINE)


def test_the_start_ends_where_the_steps_begin(work: Path, data: Workload, tmp_path: Path) -> None:
    contestant = gatehouse(tmp_path, data, "mmoe", "float32", SHORT)
    usage = contest.run_training(contestant, 1)
    assert 0 < usage.start_seconds != 0.5


def test_quality_is_that_of_the_checkpoint(work: Path, data: Workload, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(rounds.Contestant, "clear", ignore)
    contestant = gatehouse(tmp_path, data, "mmoe", "float32", LONG)
    found = contest.measure_quality(contestant, data, 1)
    config = load_run_config(contestant.command[5])
    checkpoint = best_checkpoint(config.checkpoints_dir)
    rows = read_split(data.dataset(LONG), "test")
    predicted = Predictor(config, read_index(config.dataset_dir), checkpoint, 100).predict(rows)
    labels = np.array(rows["labels"].to_pylist())
    for place, name in enumerate(LABELS):
        assert found[name] == pytest.approx(area_under_curve(labels[:, place], predicted[name]), abs=1e-9)


def test_the_area_under_the_curve_counts_pairs_and_ties() -> None:
    label, prediction = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.5, 0.5, 0.1, 0.95])
    assert area_under_curve(label, prediction) == pytest.approx((2 + 1.5) / 6)


class _Small(nn.Module):
    """One table's rows through two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, dense: Tensor, _sparse: object) -> Tensor:
        result: Tensor = self.second(self.first(dense).relu())
        return result


def test_the_need_of_a_small_model_is_what_a_hand_counts(data: Workload) -> None:
    batch: Any = type("Rows", (), {})()
    batch.dense, batch.sparse = torch.ones(7, 3), type("Ids", (), {"values": staticmethod(lambda: torch.ones(11))})()
    need = need_of(_Small(), batch)
    forward = 2 * 7 * (3 * 5 + 5 * 2)
    # Backwards the same twice, but for the gradient of the first layer's input, which no one asks for.
    assert need.flops == 3 * forward - 2 * 7 * 3 * 5
    assert need.activation_bytes == 4 * 7 * (5 + 2)
    assert need.num_ids == 11
    assert need.shapes == {(1, 7, 3, 5): 1, (1, 7, 5, 2): 1}
    found = measure_floor(need, 100, 4, 1)
    own = need.flops / found.flops_per_second["bfloat16"]
    moved = 5 * need.activation_bytes / 2 / found.copy_bytes_per_second
    assert found.seconds["bfloat16"] == pytest.approx(own + moved + 2 * found.gather_seconds + found.scatter_seconds)


class _Wide(nn.Module):
    """Products that are not torch's own: in float32, and those of one network in bfloat16."""

    def __init__(self, num_networks: int) -> None:
        super().__init__()
        self.layer = BatchedLinear(num_networks, SMALLEST_WIDTH, SMALLEST_WIDTH + 1)

    def forward(self, dense: Tensor, _sparse: object) -> Tensor:
        result: Tensor = self.layer(dense)
        return result


@pytest.mark.parametrize("num_networks", [1, 2])
def test_wide_products_are_counted(num_networks: int) -> None:
    batch: Any = type("Rows", (), {})()
    batch.dense = torch.ones(num_networks, 7, SMALLEST_WIDTH, requires_grad=True)
    batch.sparse = type("Ids", (), {"values": staticmethod(lambda: torch.ones(0))})()
    need = need_of(_Wide(num_networks), batch)
    assert need.flops == 3 * (2 * num_networks * 7 * SMALLEST_WIDTH * (SMALLEST_WIDTH + 1))
    assert need.shapes == {(num_networks, 7, SMALLEST_WIDTH, SMALLEST_WIDTH + 1): 1}


@pytest.mark.parametrize("body", ["mmoe", "ple"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_trains_and_predicts_every_row(name: str, way: str, body: str, data: Workload, tmp_path: Path) -> None:
    python = ENVIRONMENTS / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{name} is in no environment: `gatehouse benchmark train --peers` makes one")
    write_arrays(data.arrays(LONG), data.dataset(LONG))
    contestant = peer(tmp_path, data, body, name, way, LONG, python)
    run_measured(contestant.command, 1)
    predictions = np.load(contestant.folder / contest.PREDICTIONS)
    assert predictions.shape == (500, 2)
    assert ((predictions >= 0) & (predictions <= 1)).all()
    assert len(read_history(contestant.folder)) == 8


def test_predictions_that_are_not_whole_are_refused(work: Path, data: Workload, tmp_path: Path) -> None:
    write_arrays(data.arrays(LONG), data.dataset(LONG))
    contestant = peer(tmp_path, data, "mmoe", "rechub", WAYS[0], LONG, Path("python"))

    def predict(shape: tuple[int, int]) -> Callable[..., None]:
        def write(*_: Any) -> None:
            contestant.folder.mkdir()
            np.save(contestant.folder / contest.PREDICTIONS, np.full(shape, np.nan if shape == (500, 2) else 0.5))

        return write

    for shape in ((499, 2), (500, 2)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(contest, "run", predict(shape))
            with pytest.raises(ArtifactError, match="does not hold a finite prediction for each of 500 rows"):
                contest.measure_quality(contestant, data, 1)


def test_reading_is_measured_beside_a_step_and_shown(
    work: Path, data: Workload, tmp_path: Path, monkeypatch: Any
) -> None:
    # Ray Data needs a cluster.
    ways = {way: package for way, package in read_contest.PEERS.items() if way != "Ray Data"}
    monkeypatch.setattr(read_contest, "PEERS", ways)
    found = read_contest.compare_reading(Frame(work, 1, 1, True), NUM_ROWS, lambda _: ignore)
    assert [one["name"] for one in found["contestants"]] == ["gatehouse", *ways]
    assert set(found["checked"]["training_samples_per_second"]) == {"float32", "bfloat16"}
    page = save(found, tmp_path / "speed.jsonl")[1].read_text()
    assert "## read" in page
    assert [one["num_rows"] for one in found["contestants"]] == [10_000, 10_000, 2_000]
    assert re.search(r"A batch of 64 takes gatehouse [\d.]+ ms: [\d.]+% of a training step in float32", page)
    assert "| pyarrow.dataset | " in page


def test_a_way_that_leaves_rows_out_is_refused(work: Path, data: Workload, monkeypatch: Any) -> None:
    def read_less(config: RunConfig) -> Any:
        first, *_ = read_run.read_gatehouse(config)
        yield first

    monkeypatch.setattr(read_contest, "PEERS", {"DataLoader": "torch"})
    monkeypatch.setitem(read_run.WAYS, "DataLoader", read_less)
    with pytest.raises(ArtifactError, match="DataLoader read 64 rows with means "):
        read_contest.compare_reading(Frame(work, 1, 1, True), NUM_ROWS, lambda _: ignore)
