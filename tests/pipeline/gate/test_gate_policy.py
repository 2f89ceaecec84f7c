"""The policy: an empty one is safe, a dumped one loads as the same, and each mistake has one clear line."""

from typing import Any

import pytest
import yaml
from paired_reports import SCHEMA

from pipeline.config import build, parse_yaml
from pipeline.errors import ConfigError
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.prediction_table import measured_things
from pipeline.gate.config import GateConfig
from pipeline.gate.policy import check_gate, rules_of

THINGS = {thing.name: thing for thing in measured_things(SCHEMA.tasks)}
FULL = """
min_rows: 10000
alpha: 0.1
tasks:
  click:
    auc: {min: 0.7, max_loss: 0.002, min_gain: 0}
    gauc: {max_loss: 1%}
    calibration: {min: 0.95}
  watch: {mae: {max: 30}}
default: {max_loss: 0.5%, calibration: {min: 0.9, max: 1.1}}
slices: {max_loss: 0.02, dimensions: [country, day]}
drift: {max_psi: 0.3}
"""


def policy_of(text: str) -> GateConfig:
    return build(GateConfig, parse_yaml(text, "gate.yaml") or {}, "gate.yaml")


def told(name: str, policy: GateConfig) -> dict[str, dict[str, Any]]:
    return {metric: rules.model_dump(exclude_none=True) for metric, rules in rules_of(policy, THINGS[name]).items()}


def test_an_empty_gate_guards_every_measured_task_every_slice_and_the_data() -> None:
    policy = policy_of("")
    calibration = {"min": 0.8, "max": 1.25}
    assert told("like", policy) == told("joint_like", policy)
    assert told("click", policy) == {"auc": {"max_loss": "1%"}, "calibration": calibration}
    assert told("watch", policy) == {"mae": {"max_loss": "1%"}, "calibration": calibration}
    assert policy.slices.dimensions is None
    assert policy.drift is not None


def test_what_a_task_says_replaces_only_the_same_rule_of_the_default() -> None:
    policy = policy_of(FULL)
    assert told("click", policy) == {
        "auc": {"min": 0.7, "max_loss": 0.002, "min_gain": 0.0},
        "calibration": {"min": 0.95, "max": 1.1},
        "gauc": {"max_loss": "1%"},
    }
    assert told("watch", policy)["mae"] == {"max": 30.0, "max_loss": "0.5%"}


@pytest.mark.parametrize("text", ["", FULL, "drift: null", "slices: {dimensions: []}"])
def test_a_dumped_policy_loads_as_the_same(text: str) -> None:
    policy = policy_of(text)
    again = policy_of(yaml.safe_dump(policy.model_dump(mode="json")))
    assert again == policy
    assert [told(name, again) for name in THINGS] == [told(name, policy) for name in THINGS]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min_row: 5", r"unknown key min_row. Did you mean 'min_rows'\?"),
        ("tasks: {click: {auc: {minn: 0.7}}}", r"unknown key tasks.click.auc.minn. Did you mean 'min'\?"),
        ("tasks: {click: {auc: 0.7}}", "tasks.click.auc is 0.7: should be a section of keys and values"),
        ("tasks: {click: {auc: {min: .nan}}}", "tasks.click.auc.min is nan: should be a finite number"),
        ("tasks: {click: {auc: {min: 0.8, max: 0.7}}}", "tasks.click.auc: min is above max"),
        ("tasks: {click: {auc: {max_loss: -0.1}}}", "tasks.click.auc.max_loss is -0.1: not a number"),
        ("default: {max_loss: a little}", "default.max_loss is 'a little': not a number in the metric's unit such as"),
        ("default: {max_loss: .inf}", "default.max_loss is inf: not a number"),
        ("default: {max_loss: true}", "default.max_loss is True: not a number"),
        ("default: {max_loss: null}", "default.max_loss is None: not a number"),
        ("alpha: 5", "alpha is 5: should be less than 0.5"),
        ("drift: {max_psi: 0}", "drift.max_psi is 0: should be greater than 0"),
        ("drift: {max_unseen: 0.2}", "unknown key drift.max_unseen. Choose from any_psi, max_label_rate_change"),
    ],
)
def test_a_value_that_a_policy_cannot_have_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        policy_of(text)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "tasks: {clik: {auc: {min: 0.7}}}",
            r"gate.tasks names 'clik', which is no task of the schema. Did you mean 'click'",
        ),
        (
            "tasks: {click: {acu: {min: 0.7}}}",
            r"gate.tasks.click names 'acu', which is no metric of a binary task. Did you mean 'auc'",
        ),
        ("tasks: {watch: {auc: {min: 0.7}}}", "names 'auc', which is no metric of a regression task. Did you mean"),
        ("tasks: {click: {ndcg@5: {min: 0.1}}}", "Did you mean 'ndcg@10'"),
        ("tasks: {click: {request_gauc: {min: 0.1}}}", "names 'request_gauc', and the schema has no key `request`"),
        ("tasks: {click: {calibration: {max_loss: 0.1}}}", "tasks.click.calibration: more is not better .* best at 1"),
        ("tasks: {like: {calibration: {min: 1.5}}}", "gate.tasks.like.calibration: min 1.5 is above max 1.25"),
        ("default: {calibration: {min: 2}}", "gate.tasks.click.calibration: min 2 is above max 1.25"),
        (
            "slices: {dimensions: [contry]}",
            r"gate.slices.dimensions names 'contry', which is not in evaluate.slices. Did you mean 'country'",
        ),
        (
            "drift: {any_psi: [usr]}",
            r"gate.drift.any_psi names 'usr', which is no feature of the schema. Did you mean 'user'",
        ),
    ],
)
def test_a_name_that_the_report_will_not_have_is_named_with_the_nearest(text: str, message: str) -> None:
    evaluate = build(EvaluateConfig, {"slices": ["country", "day"]}, "the tests")
    check_gate(policy_of(FULL), SCHEMA, evaluate)
    with pytest.raises(ConfigError, match=message):
        check_gate(policy_of(text), SCHEMA, evaluate)
