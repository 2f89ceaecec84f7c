"""What is measured: tasks on their own spaces, slices, and intervals that are those of users."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
from fabricated_parts import TASKS, make_columns, measure_columns, measure_rows
from log_of_every_task import SPACES, make_log, sigmoid

from pipeline.errors import DataError
from pipeline.evaluate.measure import survey
from pipeline.evaluate.metrics.catalogue import SLICE_METRICS
from pipeline.evaluate.metrics.resample import count_units
from pipeline.evaluate.prediction_table import measured_things
from pipeline.schema import TaskSchema


def close(expected: Any, tolerance: float = 1e-9) -> Any:
    return None if expected is None else pytest.approx(expected, rel=tolerance)


def test_every_kind_of_task_is_measured_on_its_own_space() -> None:
    columns = make_log(0)
    click, like, mood = (columns[f"label_{name}"] for name in ("click", "like", "mood"))
    clicked = click == 1
    measured = measure_columns(columns, SPACES, num_replicates=10)
    assert [(task["name"], task["scope"], task["rows"]) for task in measured.tasks] == [
        ("click", "own space", 400),
        ("like", "own space", (clicked & ~np.isnan(like)).sum()),
        ("joint_like", "all impressions", (~clicked | ~np.isnan(like)).sum()),
        ("watch", "own space", (clicked & (like == 1)).sum()),
        ("mood", "own space", (clicked & ~np.isnan(mood)).sum()),
    ]
    assert measured.tasks[2]["positives"] == (clicked & (like == 1)).sum()
    assert all(cell["value"] is not None for task in measured.tasks for cell in task["metrics"].values())
    assert all(cell["best"] is not None for task in measured.tasks for cell in task["metrics"].values())
    rows = clicked & (like == 1)
    own = {"weight": columns["weight"][rows], "num_replicates": 10}
    alone = measure_rows("watch_time", columns["prediction_watch"][rows], columns["label_watch"][rows], **own)
    for name, cell in alone.items():
        assert measured.tasks[3]["metrics"][name]["value"] == pytest.approx(cell["value"], rel=1e-9)
    product = columns["truth_click"] * columns["truth_like"]
    known = ~clicked | ~np.isnan(like)
    joint = measure_rows("binary", product[known], (clicked & (like == 1))[known], weight=columns["weight"][known])
    assert measured.tasks[2]["metrics"]["auc"]["best"] == pytest.approx(joint["auc"]["value"], rel=1e-9)


def test_the_measured_things_of_a_schema_are_measured() -> None:
    tasks = [
        TaskSchema(name="click", kind="binary", label="c"),
        TaskSchema(name="like", kind="binary", label="l", space="click"),
    ]
    measured = measure_columns(make_log(0), measured_things(tasks), num_replicates=10)
    assert [task["name"] for task in measured.tasks] == ["click", "like", "joint_like"]


def test_a_slice_is_measured_as_its_rows_alone_are() -> None:
    columns = make_log(1)
    measured = measure_columns(columns, SPACES, num_parts=3, max_rows=70, num_replicates=15, min_slice_rows=60)
    assert [one["dimension"] for one in measured.slices] == ["country"] * 3 + ["day"] * 9
    for one in measured.slices:
        rows = np.flatnonzero(np.array([value == one["value"] for value in columns[f"slice_{one['dimension']}"]]))
        assert (one["rows"], one["share"]) == (len(rows), pytest.approx(len(rows) / 400))
        own = {
            name: np.array(column, object)[rows].tolist() if isinstance(column, list) else np.asarray(column)[rows]
            for name, column in columns.items()
            if name not in ("user", "request")
        }
        alone = measure_columns(own, SPACES, num_replicates=15)
        for task in alone.tasks:
            found = one["tasks"][task["name"]]
            assert (found["rows"], found["positives"]) == (task["rows"], task["positives"])
            is_small = task["rows"] < 60 or (task["positives"] is not None and task["positives"] < 50)
            assert found["small"] is is_small
            assert list(found["metrics"]) == list(SLICE_METRICS[task["kind"]])
            for name, cell in found["metrics"].items():
                for field in ("value", "baseline", "difference"):
                    assert cell[field] == close(task["metrics"][name][field])
                # The bins of the whole stand for those of the slice.
                assert cell["high"] == close(task["metrics"][name]["high"], 0.02)


def test_slices_without_rows_are_left_out_and_one_without_a_task_says_why() -> None:
    columns = make_columns([0.1, 0.9, 0.5], [0, 1, np.nan], slices={"day": ["a", "a", "b"]})
    measured = measure_columns(columns, [TASKS["binary"]], num_replicates=10)
    assert [one["value"] for one in measured.slices] == ["a", "b"]
    assert measured.slices[1]["tasks"]["task"]["metrics"]["auc"]["reason"] == "there are no rows"
    assert measured.slices[1]["tasks"]["task"]["small"]


@pytest.mark.parametrize(
    ("keys", "unit", "count"),
    [
        ({"user": ["u", "u", None, None], "request": ["r"] * 4}, "user", 3),
        ({"request": ["r", "r", "s", "s"]}, "request", 2),
        ({}, "row", 4),
    ],
)
def test_a_unit_is_a_user_or_a_request_or_a_row(keys: dict[str, Any], unit: str, count: int) -> None:
    columns = make_columns([0.1, 0.9, 0.5, 0.4], [0, 1, 1, 0], **keys)
    measured = measure_columns(columns, [TASKS["binary"]], num_replicates=10)
    assert (measured.unit, measured.num_units) == (unit, count)


@pytest.mark.parametrize(
    ("kind", "label", "weight", "message"),
    [
        ("binary", 0.5, 1, "'task' has a row with a label of 0.5, which is not one of 0 to 1"),
        ("multiclass", 3, 1, "'task' has a row with a label of 3, which is not one of 0 to 2"),
        ("regression", np.inf, 1, "'task' has a row with a label of inf, which is not finite"),
        ("binary", 1, -2, "'task' has a row with a weight of -2, which is not finite and at least 0"),
        ("binary", 1, np.nan, "'task' has a row with a weight of nan, which is not finite and at least 0"),
    ],
)
def test_a_label_or_weight_that_cannot_be_is_refused(kind: str, label: float, weight: float, message: str) -> None:
    prediction = [[0.2, 0.3, 0.5]] * 2 if kind == "multiclass" else [0.2, 0.3]
    with pytest.raises(DataError, match=message):
        measure_rows(kind, prediction, [label, 0], weight=[weight, 1])


def test_the_truth_measured_on_itself_is_calibrated_best_and_not_different() -> None:
    rng = np.random.default_rng(0)
    truth = sigmoid(rng.normal(-1, 1, 20_000))
    label = rng.random(20_000) < truth
    users = rng.integers(0, 500, 20_000).tolist()
    measured = measure_rows(
        "binary", truth, label, user=users, truth=truth, baseline=truth, num_replicates=200, max_rows=3_000
    )
    assert measured["auc"]["value"] == measured["auc"]["best"]
    assert measured["auc"]["fraction_of_best"] == 1
    assert measured["calibration"]["low"] < 1 < measured["calibration"]["high"]
    assert measured["calibration"]["value"] == pytest.approx(1, abs=0.03)
    for cell in measured.values():
        if cell["value"] is not None:
            assert (cell["difference"], cell["difference_low"], cell["difference_high"], cell["p_value"]) == (
                0,
                0,
                0,
                1,
            )


@pytest.mark.parametrize("decimals", [1, 15])
def test_replicates_are_those_of_rows_that_are_counted_as_often_as_their_users(decimals: int) -> None:
    rng = np.random.default_rng(0)
    user = rng.integers(0, 300, 4_000)
    logit = rng.normal(-1, 1, 4_000) + rng.normal(0, 1, 300)[user]
    label = (rng.random(4_000) < sigmoid(logit)).astype(float)
    outputs = [sigmoid(logit + rng.normal(0, noise, 4_000)).round(decimals) for noise in (0.5, 0.6)]
    columns = make_columns(outputs[0], label, baseline=outputs[1], user=user.tolist())
    (task,) = measure_columns(columns, [TASKS["binary"]], num_replicates=60).tasks
    weights = count_units(columns["unit_hash"], 60).T[1:]
    replicates = [
        [measure_rows("binary", output, label, weight=weight, num_replicates=2) for output in outputs]
        for weight in weights
    ]
    for name in ("auc", "average_precision", "log_loss", "normalised_entropy", "calibration"):
        cell = task["metrics"][name]
        first, second = np.array([[one[name]["value"] for one in pair] for pair in replicates]).T
        assert (cell["high"] - cell["value"]) / 1.96 == pytest.approx(first.std(ddof=1), rel=0.05)
        deviation = (first - second).std(ddof=1)
        assert (cell["difference_high"] - cell["difference"]) / 1.96 == pytest.approx(deviation, rel=0.05)


def test_more_bins_do_not_change_an_interval_where_few_rows_are_positive() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(-5, 1.5, 100_000)
    label = rng.random(100_000) < sigmoid(logit)
    outputs = [sigmoid(logit + rng.normal(0, noise, 100_000)) for noise in (0.5, 0.6)]
    users = rng.integers(0, 5_000, 100_000).tolist()
    assert label.mean() < 0.02
    widths = []
    for num_bins in (512, 16_384):
        with mock.patch.object(survey, "MIN_BINS", num_bins):
            measured = measure_rows("binary", outputs[0], label, baseline=outputs[1], user=users, num_replicates=50)
        cells = [measured[name] for name in ("auc", "average_precision")]
        widths.append(
            [(cell["high"] - cell["low"], cell["difference_high"] - cell["difference_low"]) for cell in cells]
        )
    assert np.array(widths[0]) == pytest.approx(np.array(widths[1]), rel=0.03)
