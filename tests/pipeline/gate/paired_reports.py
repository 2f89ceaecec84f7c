"""Reports that compare two models on the same made-up rows, and what the gate expects them to be of."""

import copy
import functools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "evaluate"))
from fabricated_parts import hash_keys, write_parts

from pipeline.config import build
from pipeline.evaluate.measure.measure import measure
from pipeline.evaluate.prediction_table import measured_things
from pipeline.evaluate.report.form import Report
from pipeline.evaluate.report.report import build_report
from pipeline.executor import InProcessExecutor
from pipeline.gate.config import GateConfig
from pipeline.gate.decide import decide
from pipeline.gate.evidence import Expected
from pipeline.gate.form import Decision
from pipeline.preprocess.checks.drift import PSI, Finding
from pipeline.schema import Schema

CHALLENGER, CHAMPION = "run/checkpoints/step-00001200", "registry/versions/000007/checkpoint"
NUM_ROWS = 6000
SCHEMA = build(
    Schema,
    {
        "keys": {"user": "user", "item": "item", "time": "at"},
        "features": [{"name": "user", "kind": "categorical"}, {"name": "country", "kind": "categorical"}],
        "tasks": [
            {"name": "click", "kind": "binary", "label": "clicked"},
            {"name": "like", "kind": "binary", "label": "liked", "space": "click"},
            {"name": "watch", "kind": "regression", "label": "seconds"},
        ],
    },
    "the tests",
)
TASKS = ("click", "like", "joint_like", "watch")
FINDINGS = [
    Finding("feature", "user", "increase of the null rate", 0.01, 0.02, 0.01, 0.1, False),
    Finding("feature", "user", "increase of the unseen rate", 0.05, 0.06, 0.01, 0.1, False),
    Finding("feature", "user", PSI, None, None, None, 0.25, False, "963 values are too few, it needs 1,000"),
    Finding("feature", "country", PSI, None, None, 0.02, 0.25, False),
    Finding("task", "click", "change of the mean label", 0.31, 0.3, 0.03, 0.25, False),
]


def make_report(worse: Mapping[str, float] | None = None, *, has_baseline: bool = True) -> dict[str, Any]:
    """A challenger that is as good as the champion, but for the tasks it is worse at by so much noise."""
    return copy.deepcopy(_measured(tuple(sorted((worse or {}).items())), has_baseline))


@functools.cache
def _measured(worse: tuple[tuple[str, float], ...], has_baseline: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    users = rng.integers(0, 400, NUM_ROWS)
    signal = {task: rng.normal(0, 1.5, NUM_ROWS) for task in ("click", "like", "watch")}
    chance = {task: 1 / (1 + np.exp(-own)) for task, own in signal.items()}
    labels = {task: (rng.random(NUM_ROWS) < own).astype(float) for task, own in chance.items()}
    labels["watch"] = 20 * chance["watch"] + rng.normal(0, 2, NUM_ROWS)
    columns: dict[str, Any] = {"unit_hash": hash_keys([f"u{one}" for one in users]), "weight": np.ones(NUM_ROWS)}
    columns["user"] = columns["unit_hash"]
    columns |= {f"label_{name}": values for name, values in labels.items()}
    for model in ("prediction", "baseline") if has_baseline else ("prediction",):
        noise = {task: dict(worse).get(task, 0.0) if model == "prediction" else 0.0 for task in signal}
        outputs = {
            task: 1 / (1 + np.exp(-own - rng.normal(0, 0.05 + noise[task], NUM_ROWS))) for task, own in signal.items()
        }
        outputs["watch"] = 20 * outputs["watch"]
        outputs["joint_like"] = outputs["click"] * outputs["like"]
        columns |= {f"{model}_{name}": values for name, values in outputs.items()}
    countries = np.array(["us", "br", "nz"])[np.searchsorted([0.6, 0.99], rng.random(NUM_ROWS))]
    columns |= {"slice_country": countries.tolist(), "slice_day": ["2026-11-20"] * NUM_ROWS}
    with tempfile.TemporaryDirectory() as folder:
        parts = write_parts(Path(folder), columns, np.zeros(NUM_ROWS, np.int64))
        measurement = measure(parts, measured_things(SCHEMA.tasks), ["country", "day"], InProcessExecutor())
    return build_report(
        measurement,
        title="Retraining of 2026-11-21",
        split="test",
        model={"step": 1200, "path": CHALLENGER},
        baseline={"step": 900, "path": CHAMPION} if has_baseline else None,
        schema_fingerprint=SCHEMA.fingerprint(),
        mixtures={},
        alarms=[],
        newer_values={},
        diagnostics={},
    )


def expect(**changes: Any) -> Expected:
    """What the report of `make_report` is of, with some of it changed."""
    usual: dict[str, Any] = {
        "challenger": CHALLENGER,
        "champion": CHAMPION,
        "split": "test",
        "rows": NUM_ROWS,
        "schema": SCHEMA,
    }
    return Expected(**usual | changes)


def decide_on(
    report: Mapping[str, Any],
    policy: Mapping[str, Any] | None = None,
    findings: Sequence[Finding] | None = FINDINGS,
    **changes: Any,
) -> Decision:
    section = build(GateConfig, policy or {}, "the tests")
    return decide(Report.model_validate(report), expect(**changes), section, findings)


def failed(decision: Decision) -> list[tuple[str, str | None]]:
    """The rule and the task of each refusal."""
    return [(one.rule, one.task) for one in decision.rules if not one.passed]
