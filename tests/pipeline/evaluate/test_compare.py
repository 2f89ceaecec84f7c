"""Differences, what all tasks gain, the seesaw, and the sentence on each task."""

from typing import Any

import numpy as np
import pytest

from pipeline.evaluate.metrics.catalogue import METRICS
from pipeline.evaluate.metrics.resample import Estimate, adjust_p_values
from pipeline.evaluate.metrics.rows import Metric
from pipeline.evaluate.report.compare import Compared, adjust_slices, compute_gain, describe, describe_best, summarise
from pipeline.evaluate.report.wording import format_difference

AUC, MAE = METRICS["binary"]["auc"], METRICS["regression"]["mae"]
# Every standard deviation is that of these, times a factor.
WIGGLE = np.array([-1.0, 1.0] * 10) / np.array([-1.0, 1.0] * 10).std(ddof=1)


def estimate(value: float, deviation: float = 0.01) -> Estimate:
    return Estimate(value, None, value + deviation * WIGGLE)


UNDEFINED = Estimate(None, "all labels are 0", np.full(20, np.nan))


def test_a_metric_has_its_value_interval_and_difference() -> None:
    cell = describe(estimate(0.8, 0.01), estimate(0.7, 0.005))
    assert cell == {
        "value": 0.8,
        "low": pytest.approx(0.8 - 0.0196, abs=1e-6),
        "high": pytest.approx(0.8 + 0.0196, abs=1e-6),
        "reason": None,
        "baseline": 0.7,
        "baseline_reason": None,
        "difference": pytest.approx(0.1),
        "difference_low": pytest.approx(0.1 - 0.0098, abs=1e-6),
        "difference_high": pytest.approx(0.1 + 0.0098, abs=1e-6),
        "p_value": pytest.approx(0, abs=1e-12),
    }


@pytest.mark.parametrize(
    ("model", "baseline", "known"),
    [
        (UNDEFINED, None, {"reason": "all labels are 0"}),
        (UNDEFINED, estimate(0.5), {"reason": "all labels are 0", "baseline": 0.5}),
        (Estimate(0.5, None, np.zeros(0)), UNDEFINED, {"value": 0.5, "baseline_reason": "all labels are 0"}),
        (
            Estimate(0.75, None, np.zeros(0)),
            Estimate(0.25, None, np.zeros(0)),
            {"value": 0.75, "baseline": 0.25, "difference": 0.5},
        ),
    ],
)
def test_what_cannot_be_known_is_none(model: Estimate, baseline: Estimate | None, known: dict[str, Any]) -> None:
    assert {name: value for name, value in describe(model, baseline).items() if value is not None} == known


def test_only_metrics_with_a_value_at_chance_have_a_fraction() -> None:
    assert describe_best(AUC, estimate(0.7), estimate(0.9)) == {"best": 0.9, "fraction_of_best": pytest.approx(0.5)}
    assert describe_best(MAE, estimate(0.7), estimate(0.9)) == {"best": 0.9, "fraction_of_best": None}
    assert describe_best(AUC, estimate(0.7), None) == {"best": None, "fraction_of_best": None}


def compared(task: str, metric: Metric, model: float, baseline: float, deviation: float = 0.001) -> Compared:
    return Compared(task, metric, Estimate(model, None, model + deviation * WIGGLE), estimate(baseline, 0))


def test_the_gain_is_the_mean_of_the_tasks_relative_gains() -> None:
    gain = compute_gain([compared("click", AUC, 0.84, 0.8), compared("watch", MAE, 9.0, 10.0)])
    assert gain["multi_task_gain"] == pytest.approx((0.05 + 0.1) / 2)
    # Both tasks vary alike: one up, the other, of which less is better, down.
    deviation = (0.001 / 0.8 - 0.001 / 10) / 2
    assert gain["high"] - gain["multi_task_gain"] == pytest.approx(1.96 * deviation, rel=1e-4)
    assert gain["p_value"] < 1e-12
    assert gain["seesaw"] == []


def test_a_task_without_a_value_does_not_count_towards_the_gain() -> None:
    click = compared("click", AUC, 0.84, 0.8)
    lost = Compared("like", AUC, UNDEFINED, estimate(0.5))
    assert compute_gain([click, lost])["multi_task_gain"] == compute_gain([click])["multi_task_gain"]
    assert compute_gain([lost])["multi_task_gain"] is None


@pytest.mark.parametrize(
    ("click", "watch", "seesaw"),
    [(0.82, 10.5, ["watch"]), (0.78, 9.5, ["click"]), (0.82, 9.5, []), (0.78, 10.5, []), (0.82, 10.0001, [])],
)
def test_a_seesaw_is_a_task_that_pays_for_another(click: float, watch: float, seesaw: list[str]) -> None:
    pair = [compared("click", AUC, click, 0.8), compared("watch", MAE, watch, 10.0)]
    assert compute_gain(pair)["seesaw"] == seesaw


def test_p_values_are_adjusted_over_the_large_slices_of_each_task() -> None:
    p_values = [0.01, 0.02, 0.9, None, 0.001]
    slices: list[dict[str, Any]] = [
        {"tasks": {"click": {"small": place == 4, "metrics": {"auc": {"p_value": p}, "log_loss": {"p_value": 0.5}}}}}
        for place, p in enumerate(p_values)
    ]
    adjust_slices(slices)
    found = [one["tasks"]["click"]["metrics"] for one in slices]
    assert [cell["auc"]["adjusted_p_value"] for cell in found] == [*adjust_p_values([0.01, 0.02, 0.9]), None, None]
    assert [cell["log_loss"]["adjusted_p_value"] for cell in found] == [0.5] * 4 + [None]


def sentence(
    kind: str,
    name: str,
    model: Estimate,
    baseline: Estimate | None,
    metric: Metric = AUC,
    truth: Estimate | None = None,
) -> str:
    metrics = {name: {**describe(model, baseline), **describe_best(metric, model, truth)}}
    return summarise({"name": "like", "kind": kind, "main_metric": name, "metrics": metrics})


@pytest.mark.parametrize(
    ("kind", "name", "model", "baseline", "expected"),
    [
        ("binary", "auc", estimate(0.7312), None, "AUC 0.7312 (95% interval 0.7116 to 0.7508)"),
        ("binary", "auc", UNDEFINED, estimate(0.7), "AUC is undefined: all labels are 0"),
        (
            "binary",
            "auc",
            estimate(0.7312),
            UNDEFINED,
            "AUC 0.7312; that of the baseline is undefined: all labels are 0",
        ),
        (
            "binary",
            "auc",
            estimate(0.7312, 0.001),
            estimate(0.7271, 0),
            "AUC 0.7312, 0.0041 better than the baseline (95% interval 0.0021 to 0.0061, p < 0.001)",
        ),
        (
            "binary",
            "auc",
            estimate(0.7271, 0.001),
            estimate(0.7295, 0),
            "AUC 0.7271, 0.0024 worse than the baseline (95% interval 0.0004 to 0.0044, p = 0.016)",
        ),
        (
            "regression",
            "mae",
            estimate(12.5, 0.1),
            estimate(13.0, 0),
            "MAE 12.50, 0.5000 better than the baseline (95% interval 0.3040 to 0.6960, p < 0.001)",
        ),
        (
            "watch_time",
            "mae",
            estimate(13.0, 0.1),
            estimate(12.5, 0),
            "MAE 13.00, 0.5000 worse than the baseline (95% interval 0.3040 to 0.6960, p < 0.001)",
        ),
        (
            "binary",
            "auc",
            estimate(0.7312, 0.001),
            estimate(0.7316, 0),
            "AUC 0.7312, no significant difference from the baseline (\N{MINUS SIGN}0.0004, 95% interval "
            "\N{MINUS SIGN}0.0024 to 0.0016, p = 0.69)",
        ),
        (
            "binary",
            "auc",
            estimate(0.5, 0),
            estimate(0.5, 0),
            "AUC 0.5000, no significant difference from the baseline (0.0000, 95% interval 0.0000 to 0.0000, p = 1.00)",
        ),
        (
            "binary",
            "auc",
            Estimate(0.75, None, np.full(20, np.nan)),
            estimate(0.25),
            "AUC 0.7500, 0.5000 from the baseline, with too few units for an interval",
        ),
        (
            "binary",
            "auc",
            Estimate(0.75, None, np.full(20, np.nan)),
            None,
            "AUC 0.7500 (too few units for an interval)",
        ),
    ],
)
def test_a_sentence_says_better_worse_or_no_difference(
    kind: str, name: str, model: Estimate, baseline: Estimate | None, expected: str
) -> None:
    assert sentence(kind, name, model, baseline) == f"like: {expected}"


def test_a_sentence_says_how_near_the_best_possible_value_is() -> None:
    of_chance = sentence("binary", "auc", estimate(0.725), None, AUC, estimate(0.75))
    assert of_chance.endswith(" to 0.7446); 90.0% of the way from chance to the best possible 0.7500")
    without_chance = sentence("regression", "mae", estimate(12.5), None, MAE, estimate(12.0))
    assert without_chance.endswith("; the best possible is 12.00")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.234e-5, "0.000012"), (-3.2e-6, "\N{MINUS SIGN}0.0000032"), (4.4e-4, "0.0004"), (2e-8, "2.000e-08")],
)
def test_a_small_difference_is_written_without_an_exponent(value: float, expected: str) -> None:
    assert format_difference(value) == expected
