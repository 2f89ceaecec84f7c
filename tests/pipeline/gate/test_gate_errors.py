"""How often the gate errs on simulated pairs of models whose true difference is known."""

import functools
from typing import Any
from unittest import mock

import numpy as np
import pytest
from paired_reports import CHALLENGER, CHAMPION
from test_significance import compare_pair

from pipeline.config import build
from pipeline.evaluate.metrics.catalogue import METRICS
from pipeline.evaluate.report.form import Report
from pipeline.gate.config import GateConfig
from pipeline.gate.decide import decide
from pipeline.gate.evidence import Expected
from pipeline.schema import Schema

NUM_PAIRS = 200
# The others take time.
NAMES = ("auc", "log_loss", "calibration", "calibration_error")
TEXT = {"features": [{"name": "user", "kind": "categorical"}]}


@functools.cache
def metrics_of(seed: int, better_by: float) -> dict[str, Any]:
    noise = 0.5 if better_by >= 0 else 0.5 - better_by
    with mock.patch.dict(METRICS, binary={name: METRICS["binary"][name] for name in NAMES}):
        return compare_pair(seed, noise=noise, better_by=better_by)


def is_promoted(seeds: list[int], rules: dict[str, Any], better_by: float = 0.0) -> bool:
    """One task for each seed, all of them with the same rules for the AUC."""
    names = [f"task_{place}" for place in range(len(seeds))]
    tasks = [{"name": name, "kind": "binary", "label": f"label_{name}"} for name in names]
    schema = build(Schema, TEXT | {"tasks": tasks}, "the tests")
    measured = {"kind": "binary", "space": None, "scope": "own space", "rows": 4000, "positives": 1200}
    rest = {"main_metric": "auc", "calibration_curve": []}
    report = {
        "report_version": 4,
        "title": "a pair",
        "split": "test",
        "rows": 4000,
        "units": {"kind": "user", "count": 200},
        "num_replicates": 200,
        "model": {"step": 1, "path": CHALLENGER},
        "baseline": {"step": 1, "path": CHAMPION},
        "schema_fingerprint": schema.fingerprint(),
        "tasks": [
            {"name": name, **measured, "metrics": metrics_of(seed, better_by), **rest}
            for name, seed in zip(names, seeds, strict=True)
        ],
        "slices": [],
        "summary": [],
        "gain": None,
        "mixtures": {},
        "alarms": [],
        "newer_values": {},
        "diagnostics": {},
    }
    policy = {"tasks": {name: {"auc": rules} for name in names}, "drift": None}
    expected = Expected(CHALLENGER, CHAMPION, "test", 4000, schema)
    return decide(Report.model_validate(report), expected, build(GateConfig, policy, "the tests"), None).promoted


def share_promoted(rules: dict[str, Any], *, better_by: float = 0.0, num_pairs: int, num_tasks: int = 1) -> float:
    starts = range(0, num_pairs, num_tasks)
    return float(np.mean([is_promoted(list(range(at, at + num_tasks)), rules, better_by) for at in starts]))


def true_gain(better_by: float, num_pairs: int) -> float:
    """Of the AUC, over many logs."""
    return float(np.mean([metrics_of(seed, better_by)["auc"]["difference"] for seed in range(num_pairs)]))


GAIN: dict[str, Any] = {"min_gain": 0, "max_loss": 1}


def test_of_200_pairs_of_equal_models_at_most_5_in_100_have_the_gain_that_is_required() -> None:
    share = share_promoted(GAIN, num_pairs=NUM_PAIRS)
    assert 0 < share <= 0.05
    assert share_promoted(GAIN, num_pairs=NUM_PAIRS, num_tasks=2) <= share


def test_a_gain_is_seen_the_more_often_the_larger_it_is() -> None:
    small, large = (share_promoted(GAIN, better_by=better_by, num_pairs=40) for better_by in (0.1, 0.3))
    assert 0.1 < small < large
    assert large > 0.9


@pytest.mark.exhaustive
def test_a_loss_of_the_whole_margin_is_seldom_let_through_and_equal_models_mostly_are() -> None:
    margin = {"max_loss": -true_gain(-0.2, NUM_PAIRS)}
    assert margin["max_loss"] > 0.005
    assert share_promoted(margin, better_by=-0.2, num_pairs=NUM_PAIRS) <= 0.05
    assert share_promoted(margin, num_pairs=NUM_PAIRS) > 0.8
