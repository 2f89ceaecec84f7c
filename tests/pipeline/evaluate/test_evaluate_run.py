"""The evaluate stage as a whole: the same report however it is made, of a checkpoint as of a finished table."""

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from changed_settings import merged
from trained_runs import other_run, train_run

from pipeline.config import build
from pipeline.errors import ArtifactError, ConfigError
from pipeline.evaluate import scoring
from pipeline.evaluate.measure import measure as measuring
from pipeline.evaluate.measure.parts import Frame
from pipeline.evaluate.measure.passes import sum_range
from pipeline.evaluate.prediction_table import write_part
from pipeline.evaluate.run import REPORT_HTML, REPORT_JSON, SCHEMA_JSON, check_evaluate, evaluate, evaluate_table
from pipeline.evaluate.scoring import PREDICTIONS_FOLDER
from pipeline.executor import InProcessExecutor
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import read_index
from pipeline.train.checkpoints.checkpoint import best_checkpoint
from pipeline.train.predictor import Predictor
from pipeline.train.run import train

QUICK = {"batch_size": 256, "num_replicates": 20, "importance_rows": 0, "min_slice_rows": 100}
SLICES = ["day", "new_user", "country", {"column": "price", "buckets": 3}]
TASKS = ("click", "like", "purchase", "watch")


@pytest.fixture(scope="module")
def trained(demo_settings: dict[str, Any], dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    workspace = tmp_path_factory.mktemp("trained") / "run"
    return train_run(demo_settings, dataset, workspace, evaluate={**QUICK, "slices": SLICES})


def assert_alike(found: Any, expected: Any, tolerance: float = 1e-9) -> None:
    """Equal, numbers up to the tolerance."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert_alike(found[name], value, tolerance)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, value in zip(found, expected, strict=True):
            assert_alike(one, value, tolerance)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)
    else:
        assert found == expected


# --- the same report


def test_threads_give_the_report_of_one_process(trained: RunConfig, tmp_path: Path) -> None:
    expected = evaluate(other_run(trained, tmp_path / "run"))
    assert evaluate(other_run(trained, tmp_path / "run"), InProcessExecutor(2)) == expected
    names = [task["name"] for task in expected["tasks"]]
    assert names == ["click", "like", "joint_like", "purchase", "joint_purchase", "watch"]
    assert expected["tasks"][0]["metrics"]["auc"]["fraction_of_best"] > 0
    assert {one["dimension"] for one in expected["slices"]} == {"day", "new_user", "country", "price"}


@pytest.mark.exhaustive
@pytest.mark.ray
def test_a_cluster_gives_the_report_of_one_process(trained: RunConfig, tmp_path: Path) -> None:
    from jobs.ray_executor import RayExecutor

    expected = evaluate(other_run(trained, tmp_path / "run"))
    with RayExecutor(None, 2) as executor:
        assert evaluate(other_run(trained, tmp_path / "run"), executor) == expected


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("scoring", marks=pytest.mark.exhaustive),
        "measuring",
        pytest.param("examining", marks=pytest.mark.exhaustive),
    ],
)
def test_an_evaluation_that_was_killed_and_restarted_writes_the_same_bytes(
    place: str, trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = other_run(trained, tmp_path / "run")
    evaluate(config)
    expected = (config.report_dir / REPORT_JSON).read_bytes()
    config = other_run(trained, tmp_path / "run")
    calls = 0

    def fail_at(number: int, function: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                raise KeyboardInterrupt
            return function(*arguments, **more)

        return call

    with monkeypatch.context() as patch:
        match place:
            case "scoring":
                patch.setattr(scoring, "write_part", fail_at(5, write_part))
            case "measuring":
                patch.setattr(measuring, "sum_range", fail_at(1, sum_range))
            case "examining":
                patch.setattr("pipeline.evaluate.run.diagnose", fail_at(1, None))
        with pytest.raises(KeyboardInterrupt):
            evaluate(config)
    assert (config.report_dir / PREDICTIONS_FOLDER).is_dir()
    assert not (config.report_dir / REPORT_JSON).exists()
    evaluate(config)
    assert (config.report_dir / REPORT_JSON).read_bytes() == expected
    assert not (config.report_dir / PREDICTIONS_FOLDER).exists()
    assert (config.report_dir / REPORT_HTML).is_file()
    jsonschema.validate(json.loads(expected), json.loads((config.report_dir / SCHEMA_JSON).read_bytes()))


def test_a_report_in_smaller_pieces_has_the_same_values(
    trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(other_run(trained, tmp_path / "run"))
    held: list[int] = []

    class CountedFrame(Frame):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            held.append(len(self))

    monkeypatch.setattr(measuring, "MAX_RANGE_ROWS", 400)
    monkeypatch.setattr("pipeline.evaluate.measure.passes.Frame", CountedFrame)
    monkeypatch.setattr("pipeline.evaluate.measure.survey.Frame", CountedFrame)
    monkeypatch.setattr(scoring, "MAX_PART_ROWS", 300)
    monkeypatch.setattr(scoring, "NUM_PARTS", 1)
    config = other_run(trained, tmp_path / "run")
    found = evaluate(config)
    assert 0 < max(held) <= 400
    assert sum(held) >= 3 * found["rows"]
    # Histograms of predictions and rank curves are cut at other places, and so are replicates.
    ours, theirs = (
        [{name: metric["value"] for name, metric in task["metrics"].items()} for task in report["tasks"]]
        for report in (found, expected)
    )
    assert_alike(ours, theirs)


# --- finished tables


def finished_table(config: RunConfig, simulated: Path, folder: Path) -> pa.Table:
    """The test split as others would write it: raw keys, labels and slices, and what the best checkpoint predicts."""
    index = read_index(config.dataset_dir)
    shards = [pa.ipc.open_file(config.dataset_dir / shard.path).read_all() for shard in index.of_split("test")]
    encoded = pa.concat_tables(shards)
    outputs = Predictor(config, index, best_checkpoint(config.checkpoints_dir), 256).predict(encoded)
    log = pq.read_table(simulated / "log")
    rows = log.take(pc.index_in(encoded["key_row"], log["impression_id"].combine_chunks()))
    users, items = (pq.read_table(simulated / f"{name}.parquet") for name in ("users", "items"))
    columns = {name: rows[name] for name in ("impression_id", "request_id", "user_id", "item_id", "timestamp")}
    columns |= {name: rows[name] for name in ("click", "like", "purchase", "watch_seconds")}
    columns["country"] = users["country"].take(pc.index_in(rows["user_id"], users["user_id"].combine_chunks()))
    columns["price"] = items["price"].take(pc.index_in(rows["item_id"], items["item_id"].combine_chunks()))
    table = pa.table({**columns, **{f"prediction_{name}": values for name, values in outputs.items()}})
    folder.mkdir()
    pq.write_table(table, folder / "table.parquet", row_group_size=700)
    return table


def test_a_finished_table_gives_the_report_of_the_checkpoint_that_made_it(
    trained: RunConfig, tmp_path: Path, simulated: Path
) -> None:
    slices = ["day", "country", {"column": "price", "buckets": 3}]
    expected = evaluate(other_run(trained, tmp_path / "run", evaluate={"slices": slices}))
    finished_table(trained, simulated, tmp_path / "finished")
    path = str(tmp_path / "finished" / "table.parquet")
    settings = other_run(trained, tmp_path / "other", evaluate={"slices": slices, "predictions": {"path": path}})
    config = settings.model_copy(update={"workspace": str(tmp_path / "nothing")})
    found = evaluate_table(config)
    assert found["model"] == {"step": None, "path": path}
    assert found["diagnostics"]["scores"]
    assert_alike(found["tasks"], expected["tasks"], 1e-6)
    names = [(one["dimension"], one["value"], one["rows"]) for one in expected["slices"]]
    assert [(one["dimension"], one["value"], one["rows"]) for one in found["slices"]] == names
    assert_alike([one["tasks"] for one in found["slices"]], [one["tasks"] for one in expected["slices"]], 1e-6)
    assert (config.report_dir / REPORT_HTML).is_file()
    assert not (config.report_dir / PREDICTIONS_FOLDER).exists()
    assert not config.dataset_dir.exists()


def test_gauc_is_that_of_each_users_rows_wherever_they_lie(trained: RunConfig, tmp_path: Path, simulated: Path) -> None:
    table = finished_table(trained, simulated, tmp_path / "finished")
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(table.num_rows)))
    folder = tmp_path / "files"
    folder.mkdir()
    for number, first in enumerate(range(0, table.num_rows, 500)):
        pq.write_table(shuffled.slice(first, 500), folder / f"{number}.parquet")
    settings = other_run(trained, tmp_path / "run", evaluate={"slices": [], "predictions": {"path": str(folder)}})
    report = evaluate_table(settings)
    click = np.asarray(table["click"])
    users, scores = np.asarray(table["user_id"]), np.asarray(table["prediction_click"])
    weighted = rows = 0.0
    for user in set(users.tolist()):
        own = users == user
        positive, negative = scores[own & (click == 1)], scores[own & (click == 0)]
        if len(positive) and len(negative):
            wins = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
            weighted, rows = weighted + wins * own.sum(), rows + own.sum()
    assert report["tasks"][0]["metrics"]["gauc"]["value"] == pytest.approx(weighted / rows, abs=1e-12)
    assert report["units"] == {"kind": "user", "count": len(set(users.tolist()))}


def test_two_sets_of_columns_are_compared_as_two_checkpoints_are(
    trained: RunConfig, demo_settings: dict[str, Any], dataset: Path, tmp_path: Path, simulated: Path
) -> None:
    baseline = train_run(demo_settings, dataset, tmp_path / "baseline", seed=5, evaluate=QUICK)
    checkpoint = best_checkpoint(baseline.checkpoints_dir)
    changes = {"slices": [], "baseline": str(checkpoint)}
    expected = evaluate(other_run(trained, tmp_path / "run", evaluate=changes))
    assert expected["baseline"] == {"step": int(checkpoint.name.removeprefix("step-")), "path": str(checkpoint)}
    table = finished_table(trained, simulated, tmp_path / "finished")
    other = finished_table(baseline, simulated, tmp_path / "other")
    for name in other.column_names:
        if name.startswith("prediction_"):
            table = table.append_column(name.replace("prediction_", "baseline_"), other[name])
    path = tmp_path / "both.parquet"
    pq.write_table(table, path)
    settings = {"slices": [], "predictions": {"path": str(path)}}
    found = evaluate_table(other_run(trained, tmp_path / "run", evaluate=settings))
    for ours, theirs in zip(found["tasks"], expected["tasks"], strict=True):
        assert_alike(ours["metrics"], theirs["metrics"], 1e-6)
        assert any(metric["p_value"] is not None for metric in ours["metrics"].values())
    assert_alike(found["gain"], expected["gain"], 1e-6)


# --- weights


def test_rows_count_by_their_weight_unless_the_configuration_says_otherwise(
    demo_settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = merged(demo_settings, {"workspace": str(tmp_path / "run"), "evaluate": {**QUICK, "slices": []}})
    # Rows of the hours 0 to 23; those of hour 0 count nothing.
    settings["schema"] = {**settings["schema"], "weight": "hour"}
    config = build(RunConfig, settings, "the tests")
    preprocess(config, InProcessExecutor())
    train(config)
    weighted = evaluate(config)
    unweighted = evaluate(build(RunConfig, merged(settings, {"evaluate": {"weighted": False}}), "the tests"))
    index = read_index(config.dataset_dir)
    shards = [pa.ipc.open_file(config.dataset_dir / shard.path).read_all() for shard in index.of_split("test")]
    encoded = pa.concat_tables(shards)
    predicted = Predictor(config, index, best_checkpoint(config.checkpoints_dir), 256).predict(encoded)["click"]
    click = encoded["labels"].combine_chunks().flatten().to_numpy(zero_copy_only=False)[::4]
    weight = np.asarray(encoded["weight"], np.float64)
    assert len(set(weight.tolist())) > 5
    for report, weights in ((weighted, weight), (unweighted, np.ones(len(weight)))):
        expected = (weights * predicted).sum() / (weights * click).sum()
        assert report["tasks"][0]["metrics"]["calibration"]["value"] == pytest.approx(expected, rel=1e-9)


# --- what is told


def test_the_report_tells_how_the_model_mixes_its_experts(trained: RunConfig, tmp_path: Path) -> None:
    report = evaluate(other_run(trained, tmp_path / "run"))
    ((level, mixture),) = report["mixtures"].items()
    assert mixture["tasks"] == list(TASKS)
    assert np.sum(mixture["mean_weight"], axis=1) == pytest.approx([1.0] * 4)
    assert len(mixture["experts"]) == 3
    assert level in report["diagnostics"]["experts"]


def test_an_earlier_report_stays_until_the_new_one_is_there(
    trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = other_run(trained, tmp_path / "run")
    evaluate(config)
    before = json.loads((config.report_dir / REPORT_JSON).read_text())
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.evaluate.run.measure", None)
        with pytest.raises(TypeError):
            evaluate(config)
    assert json.loads((config.report_dir / REPORT_JSON).read_text()) == before


# --- mistakes


def test_what_is_wrong_with_slices_and_baseline_is_found_before_any_work(trained: RunConfig, tmp_path: Path) -> None:
    check_evaluate(trained)
    with pytest.raises(ConfigError, match="names 'contry', which is no feature or key"):
        check_evaluate(other_run(trained, tmp_path / "run", evaluate={"slices": ["contry"]}))
    with pytest.raises(ArtifactError, match="nowhere is not a complete checkpoint"):
        check_evaluate(other_run(trained, tmp_path / "run", evaluate={"baseline": str(tmp_path / "nowhere")}))
