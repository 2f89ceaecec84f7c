"""The gate refuses whatever breaks a rule, with one reason per rule, and promotes what breaks none."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_reports import CHAMPION, FINDINGS, NUM_ROWS, TASKS, decide_on, failed, make_report

from pipeline.errors import ArtifactError
from pipeline.gate.decide import write_decision
from pipeline.gate.evidence import read_report
from pipeline.gate.form import Decision, decision_schema

Change = Callable[[dict[str, Any]], object]
NEEDED = ("value", "baseline", "difference", "difference_low", "difference_high", "p_value")
LARGE = [("country", "br"), ("country", "us"), ("day", "2026-11-20")]


def metric(report: dict[str, Any], task: str, name: str) -> dict[str, Any]:
    (found,) = (one for one in report["tasks"] if one["name"] == task)
    cell: dict[str, Any] = found["metrics"][name]
    return cell


def slice_metric(report: dict[str, Any], dimension: str, value: str, task: str, name: str) -> dict[str, Any]:
    (found,) = (one for one in report["slices"] if (one["dimension"], one["value"]) == (dimension, value))
    cell: dict[str, Any] = found["tasks"][task]["metrics"][name]
    return cell


def drop_task(report: dict[str, Any]) -> None:
    report["tasks"] = [task for task in report["tasks"] if task["name"] != "like"]


def swap(report: dict[str, Any]) -> None:
    """The low end of an interval above the difference, as no evaluation writes it."""
    cell = metric(report, "click", "auc")
    cell["difference_low"], cell["difference_high"] = cell["difference_high"], cell["difference_low"]


def test_a_challenger_that_is_as_good_is_promoted_by_an_empty_policy() -> None:
    decision = decide_on(make_report())
    assert decision.promoted, decision.refusals
    compared = [(one.rule, one.task) for one in decision.rules if one.rule == "max_loss"]
    assert compared == [("max_loss", task) for task in TASKS]
    assert decision.refusals == []


@pytest.mark.parametrize(
    ("change", "rule", "reason"),
    [
        (lambda r: metric(r, "click", "auc").update(value=math.nan), None, "AUC is undefined: the report holds no"),
        (lambda r: metric(r, "like", "auc").update(p_value=None), ("max_loss", "like"), "too few units"),
        (lambda r: metric(r, "like", "auc").update(low=None), ("main_metric", "like"), "no interval: not surely above"),
        (lambda r: metric(r, "like", "auc").update(low=0.49), ("main_metric", "like"), "at least 0.49.* of chance"),
        (lambda r: metric(r, "watch", "calibration").update(value=None), None, "calibration is undefined"),
        (lambda r: metric(r, "watch", "calibration").update(value=1.3), ("max", "watch"), "is 1.3000, above 1.25"),
        (swap, ("max_loss", "click"), "its interval does not hold the difference"),
        (lambda r: r.update(rows=NUM_ROWS - 1), ("rows", None), "5,999 rows are measured, and not the 6,000"),
        (lambda r: r.update(split="validation"), ("split", None), "is validation, and should be test"),
        (lambda r: r.update(schema_fingerprint="0" * 64), ("schema", None), "the schema is 0000"),
        (lambda r: r["model"].update(path="other"), ("challenger", None), "the model is other, and should be run/"),
        (lambda r: r["baseline"].update(path="other"), ("champion", None), f"and should be {CHAMPION}"),
        (lambda r: r.update(num_replicates=10), ("num_replicates", None), "10 bootstrap replicates, fewer than 100"),
        (drop_task, ("task", "like"), "task 'like' is missing in the report"),
        (lambda r: r["tasks"].append(r["tasks"][0]), ("task", "click"), "is 2 times in the report"),
        (lambda r: r["tasks"][3].update(space="like"), ("task", "watch"), "regression, like, own space, and should be"),
        (lambda r: r["tasks"][0]["metrics"].pop("auc"), None, "AUC is undefined: it is not in the report"),
    ],
)
def test_one_fault_is_refused_with_its_reason(change: Change, rule: tuple[str, str | None] | None, reason: str) -> None:
    report = make_report()
    change(report)
    decision = decide_on(report)
    assert not decision.promoted
    assert any(reason.split(".*")[0] in one for one in decision.refusals), decision.refusals
    if rule:
        assert failed(decision) == [rule]


def test_a_task_that_is_worse_is_refused_by_its_own_rules_and_in_its_slices() -> None:
    decision = decide_on(make_report({"watch": 0.5}))
    assert {*failed(decision)} == {("max_loss", "watch"), ("slices.max_loss", "watch")}
    (of_all,) = (one for one in decision.rules if one.rule == "max_loss" and one.task == "watch")
    assert of_all.value is not None
    assert of_all.value < (of_all.bound or 0) < 0
    assert "worse than the champion's" in of_all.reason
    assert "beyond the loss of" in of_all.reason


def test_rules_for_a_task_or_a_metric_that_is_not_there_are_not_passed_over() -> None:
    policy = {"tasks": {"clik": {"auc": {"min": 0.1}}, "watch": {"auc": {"min": 0.1}}}}
    assert failed(decide_on(make_report(), policy)) == [("min", "watch"), ("task", "clik")]


def test_too_few_rows_are_refused() -> None:
    assert failed(decide_on(make_report(), {"min_rows": NUM_ROWS + 1})) == [("min_rows", None)]


def test_a_loss_that_only_the_interval_cannot_exclude_is_told_apart_from_one_that_is_there() -> None:
    decision = decide_on(make_report(), {"tasks": {"watch": {"mae": {"max_loss": 0.001}}}})
    assert failed(decision) == [("max_loss", "watch")]
    assert "cannot be excluded; more rows would tell" in decision.refusals[0]


def test_a_share_is_one_of_the_champions_value_and_a_number_is_in_the_metrics_unit() -> None:
    for margin, bound in (("2%", 0.02 * metric(make_report(), "watch", "mae")["baseline"]), (0.5, 0.5)):
        decision = decide_on(make_report(), {"tasks": {"watch": {"mae": {"max_loss": margin}}}})
        (rule,) = (one for one in decision.rules if one.rule == "max_loss" and one.task == "watch")
        assert rule.bound == pytest.approx(-bound)


def test_a_smaller_alpha_widens_the_interval_by_the_normal_quantiles() -> None:
    def width(alpha: float) -> float:
        rule = next(one for one in decide_on(make_report(), {"alpha": alpha}).rules if one.rule == "max_loss")
        assert rule.low is not None
        assert rule.high is not None
        return rule.high - rule.low

    cell = metric(make_report(), "click", "auc")
    assert width(0.05) == pytest.approx(cell["difference_high"] - cell["difference_low"])
    assert width(0.01) / width(0.05) == pytest.approx(2.5758 / 1.96, rel=1e-4)


def test_a_required_gain_must_be_significant_and_large_enough() -> None:
    better, equal = make_report(), make_report()
    for report, gain, p in ((better, 0.01, 0.001), (equal, 0.01, 0.2)):
        for task in ("click", "watch"):
            cell = metric(report, task, {"click": "auc", "watch": "mae"}[task])
            sign = 1 if task == "click" else -1
            cell |= {"difference": sign * gain, "p_value": p}
            cell |= {"difference_low": sign * gain - 0.004, "difference_high": sign * gain + 0.004}
    policy: dict[str, Any] = {"tasks": {"click": {"auc": {"min_gain": 0}}, "watch": {"mae": {"min_gain": 0.01}}}}
    assert decide_on(better, policy).promoted
    assert failed(decide_on(equal, policy)) == [("min_gain", "click"), ("min_gain", "watch")]
    policy["tasks"]["click"]["auc"]["min_gain"] = 0.011
    assert failed(decide_on(better, policy)) == [("min_gain", "click")]


def test_the_same_model_again_loses_nothing_and_gains_nothing() -> None:
    report = make_report()
    for cells in [*report["tasks"], *(task for one in report["slices"] for task in one["tasks"].values())]:
        for cell in cells["metrics"].values():
            same = {"difference": 0.0, "difference_low": 0.0, "difference_high": 0.0, "p_value": 1.0}
            cell.update({key: value for key, value in same.items() if cell["difference"] is not None})
    strict = {"default": {"max_loss": 0}, "slices": {"max_loss": 0}}
    assert decide_on(report, strict).promoted
    asked = {"tasks": {"click": {"auc": {"min_gain": 0}}}}
    assert failed(decide_on(report, asked)) == [("min_gain", "click")]


def test_a_slice_is_refused_only_for_a_loss_that_is_significant_and_beyond_the_margin() -> None:
    def decide_slice(difference: float, p: float) -> list[tuple[str, str | None]]:
        report = make_report()
        cell = slice_metric(report, "country", "br", "click", "auc")
        ends = {"difference_low": difference - 0.001, "difference_high": difference + 0.001}
        cell |= {"difference": difference, "adjusted_p_value": p, **ends}
        return failed(decide_on(report, {"slices": {"max_loss": 0.02}}))

    assert decide_slice(-0.03, 0.01) == [("slices.max_loss", "click")]
    assert decide_slice(-0.03, 0.06) == decide_slice(-0.01, 0.01) == decide_slice(0.03, 0.01) == []


def test_a_small_slice_is_not_judged_and_said_to_be_so() -> None:
    report = make_report()
    slice_metric(report, "country", "nz", "click", "auc").update(difference=-0.5, adjusted_p_value=1e-9)
    decision = decide_on(report)
    assert decision.promoted
    assert "click in country nz: too few rows or positives" in decision.not_compared


def test_only_the_dimensions_of_the_policy_count_and_one_that_is_not_there_is_refused() -> None:
    report = make_report()
    slice_metric(report, "day", "2026-11-20", "click", "auc").update(value=None, reason="all labels are 1")
    assert failed(decide_on(report)) == [("slices.max_loss", "click")]
    assert decide_on(report, {"slices": {"dimensions": ["country"]}}).promoted
    assert failed(decide_on(report, {"slices": {"dimensions": ["country", "age"]}})) == [("slices.dimensions", None)]


def needed_numbers(report: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Every number of a report that a rule of the policy below needs."""
    found = [(metric(report, task, "calibration"), "value") for task in TASKS]
    for task in TASKS:
        main = "mae" if task == "watch" else "auc"
        found += [(metric(report, task, main), field) for field in NEEDED]
        found += [(metric(report, task, main), "low")] if main == "auc" else []
        for dimension, value in LARGE:
            cell = slice_metric(report, dimension, value, task, main)
            found += [(cell, field) for field in (*NEEDED[:5], "adjusted_p_value")]
    return found + [(metric(report, "click", "gauc"), field) for field in NEEDED]


@settings(max_examples=150)
@given(st.data(), st.sampled_from([None, math.nan, math.inf, -math.inf]))
def test_no_report_passes_in_which_a_number_that_a_rule_needs_is_none(
    data: st.DataObject, broken: float | None
) -> None:
    report = make_report()
    policy = {"tasks": {"click": {"gauc": {"min": 0, "max": 1, "max_loss": "5%"}}}}
    assert decide_on(report, policy).promoted
    numbers = needed_numbers(report)
    for place in data.draw(st.sets(st.integers(0, len(numbers) - 1), min_size=1, max_size=3)):
        cell, field = numbers[place]
        cell[field] = broken
    decision = decide_on(report, policy)
    assert not decision.promoted
    json.dumps(decision.model_dump(mode="json"), allow_nan=False)


def test_without_a_champion_bounds_alone_decide() -> None:
    report = make_report(has_baseline=False)
    decision = decide_on(report, findings=None, champion=None)
    assert decision.promoted, decision.refusals
    assert {one.rule for one in decision.rules} == {
        *("challenger", "champion", "split", "schema", "rows", "min_rows", "num_replicates"),
        *("task", "main_metric", "min", "max"),
    }
    floors = {"tasks": {"click": {"auc": {"min": 0.9, "min_gain": 0.1}}}}
    assert failed(decide_on(report, floors, None, champion=None)) == [("min", "click")]


def test_a_comparison_that_is_missing_or_not_asked_for_is_refused() -> None:
    missing = decide_on(make_report(has_baseline=False))
    assert ("champion", None) in failed(missing)
    assert {("max_loss", task) for task in TASKS} <= {*failed(missing)}
    assert failed(decide_on(make_report(), findings=None, champion=None)) == [("champion", None)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "Expecting value"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b"[]", "valid dictionary"),
        (b"[" * 100_000, "recursion"),
        (b'{"report_version": 3}', "report_version"),
    ],
)
def test_a_report_that_cannot_be_read_is_an_error(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=reason) as raised:
        read_report(path)
    assert str(path) in str(raised.value)


def test_a_report_that_was_cut_is_an_error_and_a_whole_one_is_read(tmp_path: Path) -> None:
    path, text = tmp_path / "report.json", json.dumps(make_report())
    path.write_text(text)
    assert read_report(path).model_dump() == json.loads(text)
    for end in (1, len(text) // 2, len(text) - 1):
        path.write_text(text[:end])
        with pytest.raises(ArtifactError, match="cannot be read"):
            read_report(path)


@pytest.mark.parametrize("worse", [None, {"like": 0.6}])
def test_a_decision_has_the_form_that_its_schema_says_and_equal_ones_equal_bytes(
    worse: dict[str, float] | None, tmp_path: Path
) -> None:
    for folder in ("one", "two"):
        write_decision(decide_on(make_report(worse)), tmp_path / folder)
    written = json.loads((tmp_path / "one" / "decision.json").read_text())
    jsonschema.validate(written, json.loads((tmp_path / "one" / "decision.schema.json").read_text()))
    assert Decision.model_validate(written) == decide_on(make_report(worse))
    assert written["promoted"] == all(one["passed"] for one in written["rules"])
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["decision.html", "decision.json", "decision.schema.json"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)


def test_a_field_that_is_not_described_is_refused() -> None:
    content = decide_on(make_report()).model_dump(mode="json")
    content["rules"][0]["weight"] = 1
    with pytest.raises(jsonschema.ValidationError, match="weight"):
        jsonschema.validate(content, decision_schema())


def test_drift_is_decided_on_with_the_rest() -> None:
    assert failed(decide_on(make_report(), findings=None)) == [("drift", None)]
    assert decide_on(make_report(), {"drift": None}, None).promoted
    assert failed(decide_on(make_report(), {"drift": {"max_label_rate_change": 0.02}})) == [
        ("drift.max_label_rate_change", "click")
    ]
    assert len(FINDINGS) - 1 == sum(one.rule.startswith("drift") for one in decide_on(make_report()).rules)
