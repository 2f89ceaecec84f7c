"""The simulator's truth, measured as if a model had predicted it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from changed_settings import merged

from pipeline.config import build
from pipeline.evaluate.run import evaluate_table
from pipeline.run_config import RunConfig


@pytest.fixture(scope="module")
def report(demo_settings: dict[str, Any], simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of all rows of the log, where model and baseline both predict the truth."""
    folder = tmp_path_factory.mktemp("truth")
    log, truth = pq.read_table(simulated / "log"), pq.read_table(simulated / "truth")
    truth = truth.take(pc.index_in(log["impression_id"], truth["impression_id"].combine_chunks()))
    outputs = {name: truth[name] for name in ("click", "like", "purchase", "watch")}
    outputs |= {f"joint_{name}": pc.multiply(truth["click"], truth[name]) for name in ("like", "purchase")}
    columns = {name: log[name] for name in log.column_names}
    for prefix in ("prediction", "baseline"):
        columns |= {f"{prefix}_{name}": values for name, values in outputs.items()}
    pq.write_table(pa.table(columns), folder / "table.parquet")
    section = {"predictions": {"path": str(folder / "table.parquet")}, "slices": ["device"]}
    settings = merged(demo_settings, {"workspace": str(folder / "run"), "evaluate": section})
    return evaluate_table(build(RunConfig, settings, "the tests"))


def test_the_truth_is_calibrated(report: dict[str, Any]) -> None:
    for task in report["tasks"]:
        calibration = task["metrics"]["calibration"]
        assert calibration["low"] <= 1.0 <= calibration["high"], task["name"]
        assert calibration["value"] == pytest.approx(1.0, abs=0.1)
    (click,) = (task for task in report["tasks"] if task["name"] == "click")
    assert click["metrics"]["calibration"]["value"] == pytest.approx(1.0, abs=0.02)


def test_the_truth_reaches_the_best_possible_value_of_every_metric(report: dict[str, Any]) -> None:
    for task in report["tasks"]:
        for name, metric in task["metrics"].items():
            assert metric["value"] == pytest.approx(metric["best"], rel=1e-12), (task["name"], name)
    aucs = [task["metrics"]["auc"] for task in report["tasks"] if "auc" in task["metrics"]]
    assert len(aucs) == 5
    assert all(auc["fraction_of_best"] == 1.0 and auc["value"] > 0.6 for auc in aucs)


def test_the_truth_does_not_differ_from_itself(report: dict[str, Any]) -> None:
    metrics = [metric for task in report["tasks"] for metric in task["metrics"].values()]
    metrics += [
        metric for one in report["slices"] for task in one["tasks"].values() for metric in task["metrics"].values()
    ]
    defined = [metric for metric in metrics if metric["value"] is not None]
    assert len(defined) > 50
    for metric in defined:
        assert metric["difference"] == 0.0
        assert metric["p_value"] in (None, 1.0)
    assert report["gain"]["multi_task_gain"] == 0.0
    assert report["gain"]["seesaw"] == []
    assert all("no significant difference" in sentence for sentence in report["summary"])
