"""What a trial is worth, and the order of trials by Deb's rules: a value that is undefined or no number never wins."""

import itertools
import math
import random
from typing import Any

import pytest
from fabricated_trials import CLICK, TASKS, WATCH, constraints_of, judge_all, outcome_of
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tune.form import Trial
from pipeline.tune.objective import binding, order

BASE = {"click": 0.8, "watch": 20.0}
NAN = float("nan")


def trial(number: int, objective: float | None, violation: float | None, *, feasible: bool) -> Trial:
    """A trial with numbers that need not go together."""
    (one,) = judge_all([outcome_of(BASE)])
    drawn = {"number": number, "objective": objective, "violation": violation, "feasible": feasible}
    return one.model_copy(update=drawn)


def test_a_gain_is_positive_where_the_trial_is_better_whichever_way_the_metric_goes() -> None:
    _, better, worse = judge_all(
        [outcome_of(BASE), outcome_of({"click": 0.84, "watch": 18.0}), outcome_of({"click": 0.76, "watch": 22.0})]
    )
    assert [better.tasks[name].gain for name in TASKS] == pytest.approx([0.05, 0.1])
    assert [worse.tasks[name].gain for name in TASKS] == pytest.approx([-0.05, -0.1])
    assert [better.objective, worse.objective] == pytest.approx([0.075, -0.075])


def test_a_task_counts_by_its_weight_and_not_at_all_without_one() -> None:
    tasks = {"click": CLICK.model_copy(update={"weight": 3.0}), "watch": WATCH}
    outcomes = [outcome_of(BASE), outcome_of({"click": 0.84, "watch": 18.0})]
    assert judge_all(outcomes, tasks=tasks)[1].objective == pytest.approx((3 * 0.05 + 0.1) / 4)
    tasks["click"] = CLICK.model_copy(update={"weight": 0.0})
    assert judge_all(outcomes, tasks=tasks)[1].objective == pytest.approx(0.1)


def test_the_configuration_as_it_stands_gains_nothing_and_loses_nothing() -> None:
    (base,) = judge_all([outcome_of(BASE)], constraints_of(click={"max_loss": 0}, watch={"max_loss": "0%"}))
    assert (base.objective, base.feasible, base.violation) == (0.0, True, 0.0)
    assert str(base.tasks["watch"].gain) == "0.0"


@pytest.mark.parametrize(
    ("rules", "values", "passed", "violation"),
    [
        ({"click": {"max_loss": 0.01}}, {"click": 0.795, "watch": 20.0}, True, 0.0),
        ({"click": {"max_loss": 0.01}}, {"click": 0.75, "watch": 20.0}, False, 0.04 / 0.8),
        ({"click": {"max_loss": "10%"}}, {"click": 0.73, "watch": 20.0}, True, 0.0),
        ({"watch": {"max_loss": "10%"}}, {"click": 0.8, "watch": 23.0}, False, 1 / 20),
        ({"watch": {"max_loss": 2}}, {"click": 0.8, "watch": 21.9}, True, 0.0),
        ({"click": {"min": 0.9}}, {"click": 0.85, "watch": 20.0}, False, 0.05 / 0.9),
        ({"watch": {"max": 15.0}}, {"click": 0.9, "watch": 18.0}, False, 0.2),
        ({"watch": {"min": 0.0}}, {"click": 0.9, "watch": -0.5}, False, 0.5),
    ],
)
def test_a_constraint_is_on_the_value_of_its_task(
    rules: dict[str, Any], values: dict[str, float], passed: bool, violation: float
) -> None:
    constraints = constraints_of(**rules)
    found = judge_all([outcome_of(BASE), outcome_of(values)], constraints)[1]
    assert found.feasible is passed
    assert found.violation == pytest.approx(violation)
    assert [one.passed for one in found.constraints] == [passed]
    assert bool(found.reasons) is not passed


def test_every_rule_of_a_constraint_counts_and_violations_add_up() -> None:
    constraints = constraints_of(click={"min": 0.8, "max_loss": 0.0}, watch={"max": 10.0})
    found = judge_all([outcome_of(BASE), outcome_of({"click": 0.6, "watch": 20.0})], constraints)[1]
    assert [one.rule for one in found.constraints] == ["min", "max_loss", "max"]
    assert found.violation == pytest.approx(0.25 + 0.25 + 1.0)
    assert found.reasons == [
        "click: AUC is 0.6000, below 0.8000",
        "click: AUC loses 0.2000, more than 0.0000",
        "watch: MAE is 20.00, above 10.00",
    ]


@pytest.mark.parametrize("value", [None, NAN, math.inf, -math.inf])
def test_an_undefined_metric_makes_a_trial_infeasible_with_the_reason(value: float | None) -> None:
    base, broken, worse = judge_all(
        [outcome_of(BASE), outcome_of({"click": value, "watch": 1.0}), outcome_of({"click": 0.1, "watch": 90.0})]
    )
    assert not broken.feasible
    assert broken.objective is None
    said = "all labels are 1" if value is None else "it is no finite number"
    assert broken.reasons == [f"click: AUC is undefined: {said}"]
    assert sorted([broken, worse, base], key=order) == [base, worse, broken]


def test_an_undefined_metric_that_does_not_count_does_no_harm() -> None:
    tasks = {"click": CLICK, "watch": WATCH.model_copy(update={"weight": 0.0})}
    outcomes = [outcome_of({"click": 0.8, "watch": None}), outcome_of({"click": 0.84, "watch": None})]
    assert judge_all(outcomes, tasks=tasks)[1].feasible
    held = judge_all(outcomes, constraints_of(watch={"max": 5}), tasks)[1]
    assert not held.feasible
    assert held.violation is None
    assert held.reasons == ["watch: MAE is undefined: all labels are 1"]


@pytest.mark.parametrize(("of_base", "said"), [(0.0, "is 0"), (None, "is undefined"), (NAN, "is undefined")])
def test_without_a_value_of_trial_0_there_is_no_gain(of_base: float | None, said: str) -> None:
    found = judge_all([outcome_of({"click": of_base, "watch": 20.0}), outcome_of(BASE)])[1]
    assert not found.feasible
    assert found.reasons == [f"click: AUC of trial 0 {said}, so that there is no gain over it"]


def test_a_failed_trial_has_no_value_and_comes_last() -> None:
    trials = judge_all([outcome_of(BASE), outcome_of({}, failed="the loss is not a number"), outcome_of(BASE)])
    assert trials[1].reasons == ["failed: the loss is not a number"]
    assert (trials[1].tasks, trials[1].objective, trials[1].feasible) == ({}, None, False)
    assert [one.number for one in sorted(trials, key=order)] == [0, 2, 1]


def test_nothing_is_feasible_beside_a_trial_0_that_failed() -> None:
    found = judge_all([outcome_of({}, failed="no"), outcome_of(BASE)])[1]
    assert not found.feasible
    assert "there is nothing to compare with, as trial 0 failed" in found.reasons[0]


NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.none()
TRIALS = st.lists(st.tuples(NUMBERS, NUMBERS, st.booleans()), min_size=1, max_size=8)


@given(TRIALS, st.randoms(use_true_random=False))
def test_the_order_is_that_of_debs_rules_and_does_not_depend_on_where_a_trial_stands(
    drawn: list[tuple[float | None, float | None, bool]], shuffle: random.Random
) -> None:
    trials = [trial(n, objective, violation, feasible=ok) for n, (objective, violation, ok) in enumerate(drawn)]
    ranking = sorted(trials, key=order)
    shuffled = list(trials)
    shuffle.shuffle(shuffled)
    assert sorted(shuffled, key=order) == ranking
    for before, after in itertools.pairwise(ranking):
        assert not (is_finite(after.objective) and after.feasible and not before.feasible), "feasible first"
        if before.feasible and after.feasible and is_finite(after.objective):
            assert before.objective is not None
            assert after.objective is not None
            assert before.objective >= after.objective
        if not before.feasible and not after.feasible and is_finite(after.violation):
            assert before.violation is not None
            assert after.violation is not None
            assert before.violation <= after.violation
    if any(one.feasible and is_finite(one.objective) for one in trials):
        assert is_finite(ranking[0].objective)


def is_finite(number: float | None) -> bool:
    return number is not None and math.isfinite(number)


@given(st.lists(st.tuples(st.floats(0.5, 1), st.floats(1, 50)), min_size=1, max_size=6), st.floats(0, 0.2))
def test_a_trial_that_is_better_in_all_tasks_is_never_behind(values: list[tuple[float, float]], margin: float) -> None:
    constraints = constraints_of(click={"max_loss": margin}, watch={"max": 30.0})
    outcomes = [outcome_of(BASE), *(outcome_of(dict(zip(TASKS, one, strict=True))) for one in values)]
    trials = judge_all(outcomes, constraints)
    places = {one.number: place for place, one in enumerate(sorted(trials, key=order))}
    points = [(0.8, 20.0), *values]
    for one, other in itertools.permutations(range(len(points)), 2):
        (click, watch), (other_click, other_watch) = points[one], points[other]
        if click > other_click + 1e-9 and watch < other_watch - 1e-9:
            assert places[one] < places[other]


def test_a_constraint_binds_where_it_kept_out_a_trial_with_a_higher_objective() -> None:
    constraints = constraints_of(watch={"max_loss": "1%"})
    trials = judge_all(
        [
            outcome_of(BASE),
            outcome_of({"click": 0.81, "watch": 20.0}),
            outcome_of({"click": 0.99, "watch": 21.0}),
            outcome_of({"click": 0.80, "watch": 21.0}),
        ],
        constraints,
    )
    best = min(trials, key=order)
    assert best.number == 1
    kept_out = binding(trials, best)
    assert {rule: [one.number for one in own] for rule, own in kept_out.items()} == {("watch", "max_loss"): [2]}
