"""Made-up outcomes of trials, how they are judged, and the report of a search that had them."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "evaluate"))

from pipeline.config import build
from pipeline.tune.config import ConstraintConfig, TuneConfig, TunedKeyConfig
from pipeline.tune.form import MeasuredValue, Outcome, Trial, TunedTask, TuneReport
from pipeline.tune.objective import judge, order
from pipeline.tune.summary import summarise

CLICK = TunedTask(metric="auc", better="higher", weight=1.0)
WATCH = TunedTask(metric="mae", better="lower", weight=1.0)
TASKS = {"click": CLICK, "watch": WATCH}
PARAMETERS: dict[str, Any] = {
    "train.dense_optimizer.learning_rate": {"low": 0.001, "high": 0.1, "scale": "log"},
    "model.body.num_experts": {"low": 1, "high": 8},
    "model.balancer": [{"kind": "fixed"}, {"kind": "pcgrad"}],
}


def outcome_of(values: Mapping[str, float | None], failed: str | None = None, **parameters: Any) -> Outcome:
    """What came of a trial with these values of its tasks; None is undefined."""
    metrics = {
        name: MeasuredValue.model_construct(value=value, reason="all labels are 1" if value is None else None)
        for name, value in values.items()
    }
    return Outcome.model_construct(
        trial_version=1, parameters=parameters, metrics=metrics, step=100, num_steps=200, seconds=12.0, failed=failed
    )


def constraints_of(**rules: Mapping[str, Any]) -> dict[str, ConstraintConfig]:
    return {task: build(ConstraintConfig, own, "the tests") for task, own in rules.items()}


def judge_all(
    outcomes: Sequence[Outcome],
    constraints: Mapping[str, ConstraintConfig] | None = None,
    tasks: Mapping[str, TunedTask] = TASKS,
) -> list[Trial]:
    """The trials, of which the first is the configuration as it stands."""
    return [judge(number, one, outcomes[0], tasks, constraints or {}) for number, one in enumerate(outcomes)]


def report_of(
    outcomes: Sequence[Outcome], constraints: Mapping[str, ConstraintConfig] | None = None, wanted: int | None = None
) -> TuneReport:
    trials = judge_all(outcomes, constraints)
    ranking = sorted(trials, key=order)
    section = build(TuneConfig, {"parameters": PARAMETERS}, "the tests")
    parameters: dict[str, TunedKeyConfig] = section.parameters
    report = TuneReport(
        tune_version=1,
        title="run",
        split="validation",
        schema_fingerprint="f" * 64,
        parameters=parameters,
        seed=0,
        tasks=TASKS,
        constraints=dict(constraints or {}),
        trials=trials,
        ranking=[one.number for one in ranking],
        best=ranking[0].number if ranking[0].feasible else None,
        summary=[],
        notes=[],
    )
    return summarise(report, wanted or len(trials), Path("run/tune/trials"))


def set_by(learning_rate: float, num_experts: int = 4, balancer: str = "fixed") -> dict[str, Any]:
    values = (learning_rate, num_experts, {"kind": balancer})
    return dict(zip(PARAMETERS, values, strict=True))
