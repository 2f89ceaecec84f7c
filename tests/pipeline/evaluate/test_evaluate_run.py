"""Every kind of task is measured on its own rows with its own outputs, and the truth must have a column for each."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.tasks import Task, output_names
from pipeline.errors import DataError
from pipeline.evaluate.config import EvaluateConfig, TruthConfig
from pipeline.evaluate.run import Scored, _mixtures, _read_truth, measure

NUM_ROWS = 200
TASKS = (
    Task("click", "binary"),
    Task("like", "binary", space="click"),
    Task("reaction", "multiclass", space="click", classes=("joy", "anger", "none")),
    Task("price", "regression"),
    Task("watch", "watch_time", space="click"),
)
TRUTH_COLUMNS = ["click", "like", "reaction_joy", "reaction_anger", "reaction_none", "price", "watch"]


@pytest.fixture
def scored() -> Scored:
    rng = np.random.default_rng(0)
    click, like = rng.integers(0, 2, (2, NUM_ROWS))
    labels = np.stack([click, like, rng.integers(0, 3, NUM_ROWS), rng.random(NUM_ROWS), rng.random(NUM_ROWS)], axis=1)
    labels[:10, 2] = np.nan
    outputs = {name: rng.random(NUM_ROWS) for name in output_names(TASKS)}
    keys = pa.table({"key_row": np.arange(NUM_ROWS)[::-1], "key_user": rng.integers(0, 9, NUM_ROWS)})
    return Scored(labels.astype(np.float64), keys, outputs)


def config_with_truth(table: pa.Table, folder: Path) -> Any:
    pq.write_table(table, folder / "truth.parquet")
    section = EvaluateConfig(truth=TruthConfig(path="truth.parquet", key="id"))
    return SimpleNamespace(evaluate=section, input_path=lambda path: str(folder / path))


def make_truth(columns: list[str]) -> pa.Table:
    return pa.table({"id": np.arange(NUM_ROWS), **{name: np.arange(NUM_ROWS) / NUM_ROWS for name in columns}})


def test_every_kind_of_task_is_measured_on_its_own_space(scored: Scored) -> None:
    entries = measure(TASKS, scored, None)
    clicked = scored.label_NT[:, 0] == 1
    assert [(entry["name"], entry["kind"], entry["rows"]) for entry in entries] == [
        ("click", "binary", NUM_ROWS),
        ("like", "binary", clicked.sum()),
        ("joint_like", "binary", NUM_ROWS),
        ("reaction", "multiclass", clicked[10:].sum()),
        ("price", "regression", NUM_ROWS),
        ("watch", "watch_time", clicked.sum()),
    ]
    assert all(metric["value"] is not None for entry in entries for metric in entry["metrics"].values())


def test_a_multiclass_task_is_measured_with_the_outputs_of_its_classes_in_their_order(scored: Scored) -> None:
    for place, name in enumerate(("joy", "anger", "none")):
        scored.outputs[f"reaction_{name}"] = (scored.label_NT[:, 2] == place).astype(np.float64)
    (reaction,) = (entry for entry in measure(TASKS, scored, None) if entry["name"] == "reaction")
    assert {name: metric["value"] for name, metric in reaction["metrics"].items()} == pytest.approx(
        {"auc": 1.0, "log_loss": 0.0, "normalised_entropy": 0.0, "accuracy": 1.0}, abs=1e-6
    )


def test_the_truth_is_read_by_output_in_the_order_of_the_rows(scored: Scored, tmp_path: Path) -> None:
    truth = _read_truth(config_with_truth(make_truth(TRUTH_COLUMNS), tmp_path), TASKS, scored)
    assert truth is not None
    assert list(truth) == TRUTH_COLUMNS
    assert all(column.tolist() == [row / NUM_ROWS for row in range(NUM_ROWS)][::-1] for column in truth.values())
    entries = {entry["name"]: entry for entry in measure(TASKS, scored, truth)}
    assert all(entry["metrics"]["calibration"]["best"] for name, entry in entries.items() if name != "reaction")
    joy = scored.label_NT[(scored.label_NT[:, 0] == 1) & ~np.isnan(scored.label_NT[:, 2]), 2] == 0
    assert entries["reaction"]["metrics"]["accuracy"]["best"] == joy.mean(), "of three equal truths the first counts"


def test_a_truth_without_the_columns_of_some_tasks_says_which(scored: Scored, tmp_path: Path) -> None:
    truth = make_truth(["click", "like", "reaction_joy", "reaction_none", "price"])
    with pytest.raises(
        DataError, match=r"truth.parquet has no column 'reaction_anger' \(task 'reaction'\), 'watch' \(task 'watch'\)"
    ):
        _read_truth(config_with_truth(truth, tmp_path), TASKS, scored)


def test_a_truth_without_some_rows_says_how_many(scored: Scored, tmp_path: Path) -> None:
    truth = make_truth(TRUTH_COLUMNS).slice(3)
    with pytest.raises(DataError, match="has no true value for 3 of 200 rows"):
        _read_truth(config_with_truth(truth, tmp_path), TASKS, scored)


def test_mixtures_hold_no_weight_where_a_gate_does_not_see_the_expert() -> None:
    predictor: Any = SimpleNamespace(
        mean_mixtures=lambda: {
            "level 1": {"experts": ["own", "shared"], "mean_weight": np.array([[0.25, 0.75], [np.nan, 1.0]])}
        }
    )
    assert _mixtures(predictor, TASKS[:2]) == {
        "level 1": {
            "tasks": ["click", "like"],
            "experts": ["own", "shared"],
            "mean_weight": [[0.25, 0.75], [None, 1.0]],
        }
    }
