"""A report of every kind of task and every section of the page, measured on made-up predictions in under a second."""

import copy
import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from fabricated_parts import hash_keys, write_parts

from pipeline.evaluate.diagnostics.scores import ScoreDistribution
from pipeline.evaluate.measure.measure import Measurement, measure
from pipeline.evaluate.prediction_table import Measured
from pipeline.evaluate.report.report import build_report
from pipeline.executor import InProcessExecutor

NUM_ROWS = 4000
RANKED = {"columns": ["request_id", "rank", "item_id", "score"], "rows": [["r1", 1, 7, 0.25], ["r2", 1, None, 0.5]]}
EXPERTS = ["expert 0", "expert 1", "expert 2"]


def make_report(click: str = "click", *, has_baseline: bool = True, has_slices: bool = True) -> dict[str, Any]:
    """With a baseline that is better at `click` and worse at `watch`; `like` has no positive row at all."""
    measurement = _measure(click, has_baseline, has_slices)
    return copy.deepcopy(
        build_report(
            measurement,
            title="Evaluation of a small run",
            split="test",
            model={"step": 1200, "path": "run/checkpoints/1200"},
            baseline={"step": 900, "path": "run/checkpoints/900"} if has_baseline else None,
            schema_fingerprint="0123456789abcdef" * 4,
            mixtures={
                "level 1": {
                    "tasks": [click, "like"],
                    "experts": EXPERTS,
                    "mean_weight": [[0.5, 0.3, 0.2], [0.0, 1.0, None]],
                }
            },
            alarms=["level 1: expert 'expert 2' is dead"],
            newer_values={"item": {"values": 800, "newer": 12}, "user": {"values": 400, "newer": 0}},
            diagnostics=make_diagnostics(click),
        )
    )


@functools.cache
def _measure(click: str, has_baseline: bool, has_slices: bool) -> Measurement:
    rng = np.random.default_rng(0)
    users = rng.integers(0, 200, NUM_ROWS)
    truth = rng.random(NUM_ROWS)
    label = (rng.random(NUM_ROWS) < truth).astype(float)
    own = np.where(label == 1, label, np.nan)
    outputs = {
        click: np.clip(truth + rng.normal(0, 0.3, NUM_ROWS), 0.01, 0.99),
        "like": truth / 2,
        "joint_like": truth / 2,
        "watch": 9 * truth + rng.normal(0, 0.1, NUM_ROWS),
        **{f"reaction_{name}": value for name, value in zip("ab", (truth, 1 - truth), strict=True)},
    }
    better = {click: truth, "watch": outputs["watch"] + rng.normal(0, 3, NUM_ROWS)}
    user = hash_keys([f"u{one}" for one in users])
    columns: dict[str, Any] = {"unit_hash": user, "user": user, "weight": np.ones(NUM_ROWS)}
    labels = {click: label, "like": 0 * own, "watch": 9 * truth * own, "reaction": 1 - label}
    columns |= {f"label_{name}": values for name, values in labels.items()}
    columns |= {f"prediction_{name}": values for name, values in outputs.items()}
    columns |= {f"truth_{click}": truth}
    if has_baseline:
        columns |= {f"baseline_{name}": better.get(name, values) for name, values in outputs.items()}
    if has_slices:
        countries = np.array(["us", "br", "nz"])[np.searchsorted([0.6, 0.99], rng.random(NUM_ROWS))]
        columns |= {"slice_country": countries.tolist(), "slice_day": ["day 1"] * NUM_ROWS}
    things = [
        Measured(click, "binary", None, "own space", (click,), (click,)),
        Measured("like", "binary", click, "own space", ("like",), (click, "like")),
        Measured("joint_like", "binary", click, "all impressions", ("joint_like",), (click, "like")),
        Measured("watch", "regression", click, "own space", ("watch",), (click, "watch")),
        Measured("reaction", "multiclass", None, "own space", ("reaction_a", "reaction_b"), ("reaction",)),
    ]
    dimensions = ["country", "day"] if has_slices else []
    with tempfile.TemporaryDirectory() as folder:
        parts = write_parts(Path(folder), columns, np.zeros(NUM_ROWS, np.int64))
        return measure(parts, things, dimensions, InProcessExecutor(), num_replicates=50, min_slice_rows=100)


def make_diagnostics(click: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    scores = ScoreDistribution.of(rng.random(400), (rng.random(400) < 0.5).astype(float)).describe()
    matrix = [[1.0, 0.5], [0.5, 1.0]]
    slices = [{"dimension": "day", "value": "day 1", "rows": 400, "mean_weight": {click: [0.4, 0.4, 0.2]}}]
    level = {
        "experts": EXPERTS,
        "mean_weight": {click: [0.5, 0.3, 0.2]},
        "entropy": {click: 0.9},
        "similarity": [[1.0, 0.1, 0.0], [0.1, 1.0, 0.2], [0.0, 0.2, 1.0]],
        "slices": slices,
    }
    loss = {"worsening": 0.1, "standard_error": 0.01, "relative": 0.2}
    losses = {click: {"metric": loss, "log_loss": loss}}
    table = {
        **dict.fromkeys(("not_finite_rows", "zero_rows", "repeated_rows"), 0),
        **dict.fromkeys(("unseen_norm", "null_norm"), 0.1),
        "name": "user",
        "features": ["user"],
        "rows": 90,
        "dim": 8,
        "used_rows": 88,
        "untrained_rows": 2,
        "norms": {"0": 0.1, "5": 0.2, "50": 0.3, "95": 0.5, "100": 0.9},
        "abundance": 3.0,
    }
    names = [click, "watch"]
    return {
        "scores": {click: scores},
        "correlations": {
            "rows": 400,
            "names": names,
            "predictions": {"pearson": matrix, "spearman": matrix},
            "labels": {"pearson": [[1.0, None], [None, 1.0]], "rows": [[400, 400], [400, 400]]},
        },
        "rows": 400,
        "parts": 8,
        "importance": {
            "tasks": {click: {"rows": 400, "metric": "auc", "value": 0.7, "log_loss": 0.5}},
            "features": [{"name": "price", "kind": "numeric", "tasks": losses, "total": 0.2}],
        },
        "tables": [table],
        "features": [{"name": "user", "table": "user", "values": 400, "unseen": 4, "untrained": None}],
        "experts": {"level 1": level},
        "alarms": [],
    }


def make_history(click: str = "click") -> list[dict[str, Any]]:
    return [
        {"step": step, "epoch": 0, "kind": kind, "losses": {click: 1 / step, "like": 2 / step}, "total": 3 / step}
        for kind, steps in (("train", range(1, 500)), ("validation", (250, 499)))
        for step in steps
    ]


def make_inspections(click: str = "click") -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "epoch": 0,
            "mixtures": {
                level: {
                    "experts": EXPERTS,
                    "mean_weight": {click: [0.5, 0.3, 0.2], "like": [step / 500, 1 - step / 500, None]},
                    "entropy": {click: 0.9, "like": 0.4},
                    "similarity": [[1.0, 0.1, 0.0], [0.1, 1.0, 0.2], [0.0, 0.2, 1.0]],
                }
                for level in ("level 1", "level 2")
            },
            "alarms": [],
            "gradients": {"norm": {click: 0.1, "like": 0.2}, "cosine": [[1.0, -0.25], [-0.25, 1.0]]},
            "weights": {"loss": {click: 1.0, "like": 0.5}, "shared": {click: 1.0, "like": 1.0}},
        }
        for step in range(50, 500, 50)
    ]
