"""The measures of a sweep against a naive second implementation, its choice on one half and its report on the other."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import ConfigError, DataError
from pipeline.evaluate.metrics.grouped import ndcg
from pipeline.evaluate.metrics.resample import count_units, mix
from pipeline.evaluate.metrics.rows import Reference, Rows
from pipeline.evaluate.prediction_table import Impressions, Measured, map_part, write_part
from pipeline.executor import InProcessExecutor
from pipeline.schema import KeyColumns
from pipeline.score.formula import parse_fusion
from pipeline.score.sweep import measure as measuring
from pipeline.score.sweep.lists import Lists, discounts
from pipeline.score.sweep.measure import CHOOSING, REPORTING, Sums, measure_rankings
from pipeline.score.sweep.results import Results, judge, pareto_front
from pipeline.score.sweep.trials import Objective, Plan, Ranking

TASKS = {
    "click": Measured("click", "binary", None, "all impressions", ("click",), ("click",)),
    "sale": Measured("sale", "binary", "click", "all impressions", ("sale",), ("click", "sale")),
    "watch": Measured("watch", "regression", None, "all impressions", ("watch",), ("watch",)),
}
OUTPUTS = ["click", "sale", "watch"]
VALUES = {"click": 1.0, "watch": 0.1, "sale": -2.0}
K = 3
NUM_REPLICATES = 5
NO_KEYS = KeyColumns(user="user", request="request")


def make_rows(rng: np.random.Generator, num_rows: int, num_users: int) -> dict[str, Any]:
    """Lists of a few rows with ties, weights, and labels, users and requests that are null here and there."""
    user = rng.integers(0, num_users, num_rows)
    request = 10 * user + rng.integers(0, 3, num_rows)
    labels = {
        "click": rng.integers(0, 2, num_rows).astype(float),
        "sale": rng.integers(0, 2, num_rows).astype(float),
        "watch": rng.normal(3, 4, num_rows).round(1),
    }
    for label in (labels["sale"], labels["watch"]):
        label[rng.random(num_rows) < 0.1] = np.nan
    return {
        "user": [None if rng.random() < 0.02 else int(one) for one in user],
        "request": [None if rng.random() < 0.02 else int(one) for one in request],
        "weight": rng.uniform(0.5, 2, num_rows),
        "labels": labels,
        "outputs": {name: rng.choice([0.1, 0.3, 0.6, 0.9], num_rows) for name in OUTPUTS},
    }


def write_rows(folder: Path, rows: Mapping[str, Any], num_parts: int = 1, keys: KeyColumns = NO_KEYS) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for part, places in enumerate(np.array_split(np.arange(len(rows["weight"])), num_parts)):
        paths.append(folder / f"part-{part}.arrow")
        impressions = Impressions(
            int(places[0]),
            {key: pa.chunked_array([[rows[key][place] for place in places]]) for key in ("user", "request")},
            rows["weight"][places],
            {name: label[places] for name, label in rows["labels"].items()},
            {name: output[places] for name, output in rows["outputs"].items()},
        )
        write_part(paths[-1], impressions, keys)
    return paths


def make_plan(formulas: Sequence[str], values: Mapping[str, float] = VALUES, tasks: Sequence[str] = OUTPUTS) -> Plan:
    trials = [Ranking(str(place + 1), "trial", formula, {"a": place}) for place, formula in enumerate(formulas)]
    return Plan(trials, [Objective(name, TASKS[name], name) for name in tasks], values, K, None)


def measured(plan: Plan, parts: Sequence[Path], num_threads: int = 1, num_replicates: int = NUM_REPLICATES) -> Sums:
    return measure_rankings(plan, OUTPUTS, parts, InProcessExecutor(num_threads), num_replicates, None)


# --- the second implementation: every order of a list that its scores allow, one list after the other


def label_of(row: Mapping[str, Any], task: str) -> float:
    """Of a task as all impressions see it, NaN where it is not known."""
    if task == "sale" and row["label_click"] == 0:
        return 0.0
    label = row[f"label_{task}"]
    return math.nan if label is None else label


def average_over_orders(scores: Sequence[float], gains: Sequence[float], worth: Sequence[float]) -> float:
    totals = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            totals.append(sum(gains[row] * one for row, one in zip(order, worth, strict=False)))
    return sum(totals) / len(totals)


def naive(parts: Sequence[Path], formula: str, metric: str, half: int, replicate: int) -> float:
    rows = [row for part in parts for row in pa.Table.from_batches([map_part(part)]).to_pylist()]
    fusion = parse_fusion(formula, OUTPUTS)
    lists: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
    for row in rows:
        if row["request"] is None or int(mix(np.array([row["unit_hash"]], np.uint64))[0]) & 1 != half:
            continue
        labels = {task: label_of(row, task) for task in OUTPUTS}
        gain = sum(VALUES[task] * labels[task] for task in VALUES) if metric == "value" else max(labels[metric], 0)
        if not math.isnan(gain):
            score = float(fusion({name: np.array([row[f"prediction_{name}"]]) for name in OUTPUTS})[0])
            lists.setdefault((row["unit_hash"], row["request"]), []).append((score, gain, row["weight"]))
    gained = counted = 0.0
    for (unit, _), own in lists.items():
        scores, gains, weights = zip(*own, strict=True)
        worth = [1.0] * K if metric == "value" else [1 / math.log2(place + 2) for place in range(K)]
        best = 1.0 if metric == "value" else average_over_orders(gains, gains, worth)
        if best > 0:
            count = int(count_units(np.array([unit], np.uint64), NUM_REPLICATES)[0, replicate])
            weight = count * sum(weights) / len(weights)
            gained += weight * average_over_orders(scores, gains, worth) / best
            counted += weight
    return gained / counted


@pytest.mark.parametrize("seed", range(3))
def test_ndcg_and_value_are_those_of_a_naive_implementation(tmp_path: Path, seed: int) -> None:
    parts = write_rows(tmp_path, make_rows(np.random.default_rng(seed), 90, 15), num_parts=2)
    formulas = ["click", "click ** 2 * sale", "0 * click", "watch - sale"]
    results = Results(make_plan(formulas), measured(make_plan(formulas), parts))
    for (place, formula), (metric, name) in itertools.product(
        enumerate(formulas), enumerate(["value", "click", "sale", "watch"])
    ):
        for half, replicate in ((CHOOSING, 0), (REPORTING, 0), (REPORTING, 3)):
            found = results.values_RM2B[place, metric, half, replicate]
            assert found == pytest.approx(naive(parts, formula, name, half, replicate), rel=1e-12), (formula, name)


def test_ndcg_is_that_of_the_evaluation() -> None:
    rng = np.random.default_rng(4)
    group = np.sort(rng.integers(-1, 60, 500))
    score, label = (rng.integers(0, top, 500).astype(np.float64) for top in (5, 2))
    weight = rng.uniform(1, 2, 500)
    lists = Lists.of(group, weight, np.maximum(group, 0))
    gains, cumulative = label[lists.rows], discounts(K)[None]
    best = lists.gained(gains[None], lists.worth(gains, cumulative))[0]
    found = lists.gained(gains[None], lists.worth(score[lists.rows], cumulative))[0]
    rows = Rows(score, label, weight, np.maximum(group, 0), request=group, reference=Reference(k=K))
    expected = ndcg(rows).values
    has_positive = best > 0
    np.testing.assert_allclose(np.where(has_positive, found / np.where(has_positive, best, 1), 0) * lists.weight,
                               expected[0], rtol=1e-12)  # fmt: skip
    np.testing.assert_allclose(np.where(has_positive, lists.weight, 0), expected[1], rtol=1e-12)


def test_parts_ranges_and_threads_do_not_change_what_is_measured(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(5), 2000, 300)
    plan = make_plan([f"click ** {place}" for place in range(1, 20)])
    whole = measured(plan, write_rows(tmp_path / "one", rows))
    with mock.patch.object(measuring, "MAX_RANGE_ROWS", 64):
        divided = measured(plan, write_rows(tmp_path / "many", rows, num_parts=7), num_threads=3)
    for one, other in zip(whole, divided, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    assert whole.rows.sum() == 2000
    assert whole.units.sum() == len({*rows["user"]} - {None}) + rows["user"].count(None)


def test_without_requests_the_rows_of_a_user_are_a_list(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(6), 200, 20)
    keys = KeyColumns(user="user")
    as_lists = measured(make_plan(["click"]), write_rows(tmp_path / "user", rows, keys=keys))
    given = measured(make_plan(["click"]), write_rows(tmp_path / "same", {**rows, "request": rows["user"]}))
    np.testing.assert_allclose(as_lists.gained, given.gained)
    assert as_lists.lists.sum() == 20


# --- a world in which the best exponent is known


def make_world(rng: np.random.Generator, num_requests: int) -> dict[str, Any]:
    """A sale has the chance p * q, and the outputs are p ** 2 and q: the best fusion is click ** 0.5 * sale."""
    num_rows = 8 * num_requests
    p, q = rng.uniform(0.02, 1, (2, num_rows))
    request = np.repeat(np.arange(num_requests), 8)
    click = (rng.random(num_rows) < p).astype(float)
    return {
        "user": (request // 2).tolist(),
        "request": request.tolist(),
        "weight": np.ones(num_rows),
        "labels": {"click": click, "sale": click * (rng.random(num_rows) < q), "watch": np.zeros(num_rows)},
        "outputs": {"click": p**2, "sale": q, "watch": np.zeros(num_rows)},
    }


EXPONENTS = [0, 0.2, 0.5, 1.5, 4]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, list[Path]]:
    parts = write_rows(tmp_path_factory.mktemp("world"), make_world(np.random.default_rng(7), 4000))
    trials = make_plan([f"click ** {exponent} * sale" for exponent in EXPONENTS], {"sale": 10}, ["click", "sale"])
    current = Ranking("score.fusion", "current", "click * click", {})
    return Plan([current, *trials.rankings], trials.objectives, trials.values, K, None), parts


@pytest.mark.parametrize("metric", ["value", "ndcg_sale"])
def test_the_known_best_exponent_is_found_and_is_significantly_better(
    world: tuple[Plan, list[Path]], metric: str
) -> None:
    plan, parts = world
    results = Results(plan, measured(plan, parts, num_replicates=100))
    best = results.choose(metric)
    assert plan.rankings[best].formula == "click ** 0.5 * sale"
    entry = results.describe(best, is_on_front=True)
    difference = entry["differences"]["score.fusion"][metric]
    assert 0 < difference["difference_low"] < difference["difference"] < difference["difference_high"]
    assert difference["p_value"] < 0.001
    assert 'is "click ** 0.5 * sale", with ' in (said := judge(entry, plan.rankings[0], metric, K, "users"))
    assert 'significantly better than the formula in use, "click * click" (' in said
    # Its click part alone is best for clicks: exponents above the best one trade sales for clicks.
    front = [plan.rankings[place].formula for place in np.flatnonzero(results.front()).tolist()]
    assert front == [f"click ** {exponent} * sale" for exponent in (0.5, 1.5, 4)]


def test_an_interval_is_as_wide_as_the_spread_over_the_users_says(world: tuple[Plan, list[Path]]) -> None:
    plan, parts = world
    entry = Results(plan, measured(plan, parts, num_replicates=400)).describe(0, is_on_front=False)
    rows = pa.Table.from_batches([map_part(parts[0])])
    half = mix(rows["unit_hash"].to_numpy()) & np.uint64(1)
    frame = rows.to_pandas()[half == REPORTING].sort_values("prediction_click", ascending=False)
    of_request = (
        10 * frame.groupby(["unit_hash", "request"]).head(K).groupby(["unit_hash", "request"])["label_sale"].sum()
    )
    of_user = of_request.groupby("unit_hash").mean()
    cell = entry["metrics"]["value"]
    assert cell["value"] == pytest.approx(of_user.mean(), rel=1e-12)
    half_width = 1.96 * of_user.std() / math.sqrt(len(of_user))
    assert cell["high"] - cell["value"] == pytest.approx(half_width, rel=0.15)


def test_the_choice_does_not_see_the_half_that_is_reported(tmp_path: Path) -> None:
    rows = make_world(np.random.default_rng(8), 1000)
    plan = make_plan([f"click ** {exponent} * sale" for exponent in EXPONENTS], {"sale": 1}, ["click", "sale"])
    before = Results(plan, measured(plan, write_rows(tmp_path / "before", rows)))
    # The hashes of the users, in the order of the rows: they are told apart by an output that is another in each row.
    table = pa.Table.from_batches([map_part(tmp_path / "before" / "part-0.arrow")])
    hashes = dict(zip(table["prediction_sale"].to_pylist(), table["unit_hash"].to_pylist(), strict=True))
    of_row = mix(np.array([hashes[one] for one in rows["outputs"]["sale"].tolist()], np.uint64)) & np.uint64(1)
    for label in rows["labels"].values():
        label[of_row == REPORTING] = 1 - label[of_row == REPORTING]
    after = Results(plan, measured(plan, write_rows(tmp_path / "after", rows)))
    np.testing.assert_array_equal(before.values_RM2B[:, :, CHOOSING], after.values_RM2B[:, :, CHOOSING])
    assert (before.values_RM2B[:, 0, REPORTING, 0] != after.values_RM2B[:, 0, REPORTING, 0]).all()
    assert before.choose("value") == after.choose("value")
    assert before.front().tolist() == after.front().tolist()


def test_a_trial_that_is_not_finite_is_undefined_and_not_chosen(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(9), 200, 20)
    rows["outputs"]["click"][:3] = 0
    plan = make_plan(["log(click)", "click", "1 / click"])
    results = Results(plan, measured(plan, write_rows(tmp_path, rows)))
    assert results.choose("value") == 1
    entry = results.describe(0, is_on_front=False)
    assert entry["metrics"]["value"] == {
        "value": None,
        "low": None,
        "high": None,
        "reason": "the formula is not finite on 3 rows",
        "chosen_by": None,
    }
    assert results.front().tolist() == [False, True, False]
    alone = make_plan(["log(click)"])
    with pytest.raises(ConfigError, match=r"no trial of score\.sweep has a value: the formula is not finite on 3 rows"):
        Results(alone, measured(alone, write_rows(tmp_path, rows))).choose("value")


def test_a_task_without_a_positive_is_undefined_and_has_no_say(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(10), 200, 20)
    rows["labels"]["sale"][:] = 0
    plan = make_plan(["click", "watch"])
    results = Results(plan, measured(plan, write_rows(tmp_path, rows)))
    assert results.describe(0, is_on_front=False)["metrics"]["ndcg_sale"]["reason"] == "no list has a positive"
    assert results.front().any()


def test_one_user_is_not_enough(tmp_path: Path) -> None:
    rows = make_rows(np.random.default_rng(11), 20, 1)
    rows["user"] = [1] * 20
    with pytest.raises(DataError, match="one half of the users has none"):
        measured(make_plan(["click"]), write_rows(tmp_path, rows))


def test_equal_rankings_do_not_differ(tmp_path: Path) -> None:
    plan = make_plan(["click", "click ** 2"])
    results = Results(plan, measured(plan, write_rows(tmp_path, make_rows(np.random.default_rng(12), 300, 60))))
    found = results.difference(0, 1, 0)
    assert found == {"difference": 0.0, "difference_low": 0.0, "difference_high": 0.0, "p_value": 1.0}


def test_the_front_has_what_nothing_beats_in_all() -> None:
    values = np.array([[1, 5], [2, 4], [2, 3], [3, 1], [3, 1], [0, 5]], float)
    assert pareto_front(values).tolist() == [True, True, False, True, True, False]
