"""Distributions of predictions add up over any division of the rows; correlations are those of scipy on known rows."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipeline.config import build
from pipeline.evaluate.diagnostics.correlation import correlate_tasks
from pipeline.evaluate.diagnostics.scores import EDGES, ScoreDistribution
from pipeline.evaluate.prediction_table import measured_things
from pipeline.schema import Schema

Columns = tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]

NUM_ROWS = 700
SCHEMA = build(
    Schema,
    {
        "features": [{"name": "x", "kind": "numeric"}],
        "tasks": [
            {"name": "click", "kind": "binary", "label": "click"},
            {"name": "like", "kind": "binary", "label": "like", "space": "click"},
            {"name": "share", "kind": "binary", "label": "share", "space": "click"},
            {"name": "mood", "kind": "multiclass", "label": "mood", "classes": {"bad": 0, "good": 1}},
            {"name": "watch", "kind": "regression", "label": "watch"},
        ],
    },
    "the tests",
)
MEASURED = measured_things(SCHEMA.tasks)
RNG = np.random.default_rng(5)
PREDICTION = 1 / (1 + np.exp(-4 * RNG.normal(size=NUM_ROWS)))
LABEL = (RNG.random(NUM_ROWS) < PREDICTION).astype(np.float64)


def test_the_parts_of_a_distribution_add_up_to_the_whole() -> None:
    part_of = RNG.integers(0, 7, NUM_ROWS)
    parts = [ScoreDistribution.of(PREDICTION[part_of == part], LABEL[part_of == part]) for part in range(7)]
    merged = parts[0]
    for part in parts[1:]:
        merged = part.merge(merged)
    assert merged.describe() == ScoreDistribution.of(PREDICTION, LABEL).describe()


def test_every_row_is_in_the_bin_of_its_prediction_and_label() -> None:
    told = ScoreDistribution.of(PREDICTION, LABEL).describe()
    assert told["edges"][0] == 0
    assert told["edges"][-1] == 1
    for label, name in enumerate(("negatives", "positives")):
        for place, count in enumerate(told[name]):
            low, high = told["edges"][place : place + 2]
            assert count == np.count_nonzero((low <= PREDICTION) & (high > PREDICTION) & (label == LABEL)), (
                name,
                place,
            )


def test_rows_with_nearly_sure_predictions_are_counted_by_label() -> None:
    prediction = np.array([0.0, 0.0009, 0.0011, 0.5, 0.9989, 0.9991, 1.0, 1e-9, np.nan, np.inf])
    label = np.array([0.0, 1, 0, 0, 1, 1, 0, 0, 0, 1])
    told = ScoreDistribution.of(prediction, label).describe()
    assert told["below"] == {"limit": 0.001, "negatives": 2, "positives": 1}
    assert told["above"] == {"limit": 0.999, "negatives": 1, "positives": 1}
    assert told["not_finite"] == 2
    assert sum(told["negatives"]) + sum(told["positives"]) == 8
    assert len(EDGES) == len(told["negatives"]) + 1


@pytest.fixture
def columns() -> Columns:
    rng = np.random.default_rng(1)
    common = rng.normal(size=NUM_ROWS)
    click, like, share = ((rng.normal(size=NUM_ROWS) + common > 0).astype(np.float64) for _ in range(3))
    watch: NDArray[np.float64] = 1e9 + common + rng.normal(size=NUM_ROWS)
    for column in (click, like, watch):
        column[rng.random(NUM_ROWS) < 0.2] = np.nan
    labels: dict[str, NDArray[np.float64]] = {"click": click, "like": like, "share": share, "watch": watch}
    labels["mood"] = rng.integers(0, 2, NUM_ROWS).astype(np.float64)
    names = [name for task in SCHEMA.tasks for name in task.output_names]
    outputs = {name: np.round(rng.normal(size=NUM_ROWS) + common, 1).astype(np.float64) for name in names}
    return labels, outputs


def test_correlations_are_over_the_rows_that_both_tasks_are_defined_on(
    columns: Columns,
) -> None:
    labels, outputs = columns
    found = correlate_tasks(MEASURED, labels, outputs)
    assert found["names"] == ["click", "like", "share", "watch"]
    in_space = labels["click"] == 1
    known = {
        name: ~np.isnan(labels[name]) & (in_space if name in ("like", "share") else True) for name in found["names"]
    }
    for one, first in enumerate(found["names"]):
        for other, second in enumerate(found["names"]):
            both = known[first] & known[second]
            assert found["labels"]["rows"][one][other] == both.sum()
            for measure, function in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
                expected = function(outputs[first], outputs[second]).statistic
                assert found["predictions"][measure][one][other] == pytest.approx(expected, abs=2e-6)
            if {first, second} in ({"click", "like"}, {"click", "share"}):
                assert found["labels"]["pearson"][one][other] is None, "all are clicked"
            else:
                expected = stats.pearsonr(labels[first][both], labels[second][both]).statistic
                assert found["labels"]["pearson"][one][other] == pytest.approx(expected, abs=2e-6)


def test_a_correlation_without_variance_is_none(
    columns: Columns,
) -> None:
    labels, outputs = columns
    outputs["like"][:] = 0.1
    outputs["share"][7] = np.nan
    labels["share"][:] = np.nan
    found = correlate_tasks(MEASURED, labels, outputs)
    for measure in ("pearson", "spearman"):
        matrix = found["predictions"][measure]
        assert matrix[1] == [None] * 4
        assert matrix[0][2] is not None, "a row without a prediction is left out"
    assert found["labels"]["pearson"][2] == [None] * 4
    assert found["labels"]["rows"][2] == [0] * 4


def test_tasks_of_classes_alone_have_no_correlations(columns: Columns) -> None:
    mood = [thing for thing in MEASURED if thing.name == "mood"]
    assert correlate_tasks(mood, *columns) == {
        "rows": NUM_ROWS,
        "names": [],
        "predictions": {"pearson": [], "spearman": []},
        "labels": {"pearson": [], "rows": []},
    }
