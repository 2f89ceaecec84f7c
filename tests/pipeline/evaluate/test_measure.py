"""What is measured does not depend on how rows are divided, memory is bounded, and intervals are those of users."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from fabricated_parts import CLASSES, TASKS, make_columns, measure_columns, measure_rows, write_parts
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import ArtifactError, DataError
from pipeline.evaluate.measure import measure as measuring
from pipeline.evaluate.measure import passes, survey
from pipeline.evaluate.measure.measure import measure
from pipeline.evaluate.measure.parts import Frame
from pipeline.evaluate.metrics import ranked
from pipeline.evaluate.metrics.catalogue import SLICE_METRICS
from pipeline.evaluate.metrics.resample import count_units
from pipeline.evaluate.prediction_table import Measured, measured_things
from pipeline.executor import InProcessExecutor, Item, Result
from pipeline.schema import TaskSchema

Array = NDArray[Any]
SPACES = (
    Measured("click", "binary", None, "own space", ("click",), ("click",)),
    Measured("like", "binary", "click", "own space", ("like",), ("click", "like")),
    Measured("joint_like", "binary", "click", "all impressions", ("joint_like",), ("click", "like")),
    Measured("watch", "watch_time", "like", "own space", ("watch",), ("click", "like", "watch")),
    Measured("mood", "multiclass", "click", "own space", tuple(f"mood_{name}" for name in CLASSES), ("click", "mood")),
)


def sigmoid(logit: Array) -> Array:
    return 1 / (1 + np.exp(-logit))


def make_log(seed: int, num_rows: int = 400, num_users: int = 40) -> dict[str, Any]:
    """A table with every kind of task, ties, weights, nulls, a baseline, a truth and slices."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, num_users, num_rows)
    logit = rng.normal(0, 1, num_rows)
    mood = rng.dirichlet([1, 1, 1], num_rows)
    labels = {
        "click": (rng.random(num_rows) < sigmoid(logit)).astype(float),
        "like": np.where(rng.random(num_rows) < 0.1, np.nan, rng.integers(0, 2, num_rows)),
        "watch": rng.gamma(2, 5, num_rows).round(1),
        "mood": rng.integers(0, 3, num_rows).astype(float),
    }
    columns = make_columns(
        sigmoid(logit),
        labels["click"],
        weight=rng.choice([0.5, 1.0, 2.0], num_rows),
        user=[None if one == 0 else int(one) for one in user],
        request=[None if one % 7 == 0 else int(one) for one in user * 10 + rng.integers(0, 4, num_rows)],
        slices={
            "country": rng.choice(np.array(["de", "fr", "us", None], object), num_rows).tolist(),
            "day": [f"day {one}" for one in rng.integers(0, 9, num_rows)],
        },
    )
    del columns["label_task"], columns["prediction_task"]
    columns |= {f"label_{name}": np.where(np.isnan(own), np.nan, own) for name, own in labels.items()}
    for model, noise in (("prediction", 0.5), ("baseline", 0.7), ("truth", 0.0)):
        noisy = logit + rng.normal(0, noise, num_rows) if noise else logit
        outputs = {"click": sigmoid(noisy).round(2), "like": sigmoid(noisy - 1), "watch": np.exp(noisy)}
        if model != "truth":
            outputs["joint_like"] = outputs["click"] * outputs["like"]
        shifted = mood + noise * rng.random((num_rows, 1))
        outputs |= zip(
            (f"mood_{name}" for name in CLASSES), (shifted / shifted.sum(axis=1, keepdims=True)).T, strict=True
        )
        columns |= {f"{model}_{name}": own for name, own in outputs.items()}
    return columns


def assert_equal(first: Any, second: Any) -> None:
    """Equal to 1e-9 in every number."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert list(first) == list(second)
        for name in first:
            assert_equal(first[name], second[name])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_equal(a, b)
    elif isinstance(first, float):
        assert first == pytest.approx(second, rel=1e-9, abs=1e-9)
    else:
        assert first == second


def close(expected: Any, tolerance: float = 1e-9) -> Any:
    return None if expected is None else pytest.approx(expected, rel=tolerance)


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32), max_rows=st.sampled_from([25, 60, 200, 1 << 18]), num_threads=st.integers(1, 2))
def test_seven_random_parts_and_any_ranges_give_the_same(seed: int, max_rows: int, num_threads: int) -> None:
    columns = make_log(seed)
    options = {"num_replicates": 15, "min_slice_rows": 50}
    whole = measure_columns(columns, SPACES, **options)
    parts = measure_columns(
        columns, SPACES, num_parts=7, seed=seed, max_rows=max_rows, num_threads=num_threads, **options
    )
    assert_equal(asdict(whole), asdict(parts))
    assert whole.num_rows == 400


def test_samples_do_not_depend_on_the_parts_either() -> None:
    columns = make_log(3, num_rows=2_000, num_users=100)
    with mock.patch.object(survey, "MAX_SAMPLE_ROWS", 300):
        found = [
            measure_columns(columns, SPACES, num_parts=parts, max_rows=rows, num_replicates=15)
            for parts, rows in ((1, 1 << 18), (7, 150))
        ]
    assert_equal(asdict(found[0]), asdict(found[1]))
    full = measure_columns(columns, SPACES, num_replicates=15)
    xauc = [one.tasks[3]["metrics"]["xauc"] for one in (found[0], full)]
    assert xauc[0]["value"] != xauc[1]["value"]
    assert xauc[0]["value"] == pytest.approx(xauc[1]["value"], abs=0.1)
    assert xauc[0]["high"] - xauc[0]["low"] > xauc[1]["high"] - xauc[1]["low"], "a sample knows less"


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


def test_no_more_rows_are_in_memory_than_may_be() -> None:
    sizes: list[int] = []
    read = ranked._read_runs

    class Watched(Frame):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            sizes.append(len(self))

    def watch(one: ranked.RankRange) -> list[Array]:
        columns = read(one)
        sizes.append(len(columns[0]))
        return columns

    with (
        mock.patch.object(passes, "Frame", Watched),
        mock.patch.object(survey, "Frame", Watched),
        mock.patch.object(ranked, "_read_runs", watch),
    ):
        measure_columns(
            make_log(0, num_rows=3_000, num_users=1_000), SPACES, num_parts=3, max_rows=300, num_replicates=10
        )
    assert max(sizes) <= 300
    assert sum(sizes) > 3_000 * 3


class PicklingExecutor:
    """Sends every function, item and result through pickle, as processes do, with arrays that are read-only then."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        for item in items:
            called, given = send((function, item))
            result: Result = send(called(given))
            yield result


def send(value: Any) -> Any:
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(content, buffers=[bytes(buffer) for buffer in buffers])


def test_other_processes_can_do_the_work(tmp_path: Path) -> None:
    columns = make_log(0)
    parts = write_parts(tmp_path, columns, np.arange(400) % 3)
    executors: tuple[Any, Any] = (PicklingExecutor(), InProcessExecutor())
    with mock.patch.object(measuring, "MAX_RANGE_ROWS", 150):
        found = [measure(parts, SPACES, ["country"], executor, num_replicates=10) for executor in executors]
    assert found[0] == found[1]


def test_progress_is_told_in_rows_of_three_phases() -> None:
    told: dict[str, list[Any]] = {}
    measure_columns(
        make_log(0),
        SPACES,
        max_rows=100,
        num_replicates=10,
        progress=lambda what, done, total, units, unit: told.setdefault(what, []).append((done, total, units, unit)),
    )
    assert list(told) == ["pieces sampled", "pieces sorted", "ranges measured"]
    for phase in told.values():
        assert phase[0][0] == 0
        assert phase[-1] == (phase[-1][1], phase[-1][1], 400, "rows")


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


def test_parts_with_other_columns_or_slices_are_refused(tmp_path: Path) -> None:
    columns = make_columns([0.1, 0.9], [0, 1], slices={"day": ["a", "b"]})
    parts = write_parts(tmp_path, columns, np.zeros(2, np.int64))
    (tmp_path / "other").mkdir()
    for other in (make_columns([0.1], [0]) | {"slice_day": ["a"]}, make_columns([0.1], [0], user=["u"])):
        second = write_parts(tmp_path / "other", other | {"slice_day": ["a"]}, np.zeros(1, np.int64))
        with pytest.raises(ArtifactError, match=r"other.part-00000.arrow has other columns or slices than"):
            measure([*parts, *second], [TASKS["binary"]], ["day"], InProcessExecutor())


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
