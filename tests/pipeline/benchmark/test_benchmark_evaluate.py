"""The evaluate benchmark on a small dataset: predictions are those of evaluation, and every figure is there."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from commands_here import ignore, run_here

from pipeline.benchmark import rounds
from pipeline.benchmark.evaluate import contest
from pipeline.benchmark.evaluate.contest import compare_predicting, describe_rows, gatehouse
from pipeline.benchmark.log import LABELS, LogSpec
from pipeline.benchmark.page import save
from pipeline.benchmark.process import Usage, run_measured
from pipeline.benchmark.rounds import Contestant, Frame
from pipeline.benchmark.score import PEERS, WAYS, check_predictions, peer
from pipeline.benchmark.train import workload
from pipeline.benchmark.train.arrays import read_split, write_arrays
from pipeline.benchmark.train.contest import PREDICTIONS, area_under_curve
from pipeline.benchmark.train.workload import LONG, Sizes, Workload, make_workload
from pipeline.errors import ArtifactError
from pipeline.train.predictor import Predictor

# Where `gatehouse benchmark evaluate --peers` makes them, if it was ever run in this checkout.
ENVIRONMENTS = Path(__file__).parents[3] / "runs" / "benchmark" / "environments"
NUM_ROWS = 1_000
SIZES = Sizes(
    LogSpec(0, (5, 40, 300), 2, is_learnable=True),
    short_steps=6,
    long_rows=800,
    validation_rows=64,
    test_rows=500,
    batch_size=64,
    embedding_dim=4,
    expert_widths=(8, 4),
    tower_widths=(4,),
    num_experts=2,
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workload, "SIZES", SIZES)
        patch.setattr("pipeline.benchmark.machine.COPY_BYTES", 1 << 20)
        for module in (rounds, contest, workload):
            patch.setattr(module, "run_measured", partial(run_here, start_seconds=0.0))
        yield tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def data(work: Path) -> Workload:
    return make_workload(work / "train" / "workload", NUM_ROWS, 1, lambda _: ignore)


@pytest.fixture(scope="module")
def config(data: Workload, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the evaluation of a model that was trained."""
    return contest.train_model(tmp_path_factory.mktemp("trained"), data, 1)


def test_predicting_is_measured_and_shown(work: Path, data: Workload, tmp_path: Path) -> None:
    found = compare_predicting(Frame(work, 2, 1), NUM_ROWS, lambda _: ignore)
    assert [one["name"] for one in found["contestants"]] == ["gatehouse, float32", "gatehouse, bfloat16"]
    for one in found["contestants"]:
        assert one["num_rows"] == 3 * 500
        assert [run["seconds"] > 0 for run in one["runs"]] == [True, True]
    checked = found["checked"]
    assert 0 < checked["largest_difference"] < 0.01
    auc = {precision: command["auc"] for precision, command in checked["commands"].items()}
    assert [set(values) for values in auc.values()] == [set(LABELS), set(LABELS)]
    page = save(found, tmp_path / "speed.jsonl")[1].read_text()
    assert "## evaluate" in page
    assert "trained on 384 rows; 500 others are predicted, by gatehouse in batches of 8,192" in page
    assert f"AUC {auc['float32']['buy']:.4f} of buy; in bfloat16 2 s, AUC " in page
    assert "| samples/s | range | time | start, s | CPU, s |" in page
    assert page.count("| 1.00 (1.00 to 1.00) |") == 1


def test_predictions_of_all_passes_are_those_that_evaluation_measures(
    work: Path, data: Workload, config: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(contest, "PASSES", 2)
    contestant = gatehouse(tmp_path, data, config, "bfloat16")
    predicted: list[int] = []
    predict = Predictor.predict

    def count(predictor: Predictor, rows: pa.Table) -> Any:
        predicted.append(rows.num_rows)
        return predict(predictor, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict", count)
        contest.run_predicting(contestant, 1)
    assert predicted == [500, 500, 500], "one to warm up"
    predictions = np.load(contestant.folder / PREDICTIONS)
    labels = np.array(read_split(data.dataset(LONG), "test")["labels"].to_pylist())
    auc = contest.run_command(config, "bfloat16", 1)["auc"]
    for place, name in enumerate(LABELS):
        assert auc[name] == pytest.approx(area_under_curve(labels[:, place], predictions[:, place]), abs=1e-9)


def test_precisions_that_do_not_agree_are_refused(work: Path, data: Workload, monkeypatch: Any) -> None:
    def predict(contestant: Contestant, _num_threads: int) -> Usage:
        contestant.folder.mkdir()
        np.save(contestant.folder / PREDICTIONS, np.full((500, 2), 0.4 if "bfloat16" in contestant.name else 0.5))
        return Usage(2.0, 0.0, 1.0, 0.0, 1, 1)

    monkeypatch.setattr(contest, "run_predicting", predict)
    with pytest.raises(ArtifactError, match=r"predictions in bfloat16 differ from those in float32 by up to 0\.100"):
        compare_predicting(Frame(work, 1, 1), NUM_ROWS, lambda _: ignore)


def test_peers_are_told_of_the_rows_that_are_predicted(data: Workload, tmp_path: Path) -> None:
    write_arrays(tmp_path, data.dataset(LONG))
    rows = describe_rows(data, tmp_path / "test")
    table = read_split(data.dataset(LONG), "test")
    for feature in rows["sparse"]:
        ids = np.load(Path(rows["folder"]) / f"{feature['name']}.npy")
        assert ids.max() < feature["num_embeddings"]
        assert pa.array(ids).equals(table[f"sparse_{feature['name']}"].combine_chunks())
    assert np.load(Path(rows["folder"]) / "numbers.npy").tolist() == table["dense"].to_pylist()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_predicts_every_row_of_the_test(name: str, way: str, data: Workload, tmp_path: Path) -> None:
    python = ENVIRONMENTS / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{name} is in no environment: `gatehouse benchmark evaluate --peers` makes one")
    write_arrays(tmp_path / "arrays", data.dataset(LONG))
    contestant = peer(tmp_path, name, way, describe_rows(data, tmp_path / "arrays" / "test"), python)
    run_measured(contestant.command, 1)
    check_predictions(contestant)
    assert np.load(contestant.folder / PREDICTIONS).shape == (500, 2)
