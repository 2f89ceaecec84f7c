"""From the sums of all ranges to the entries of the report: tasks, slices, and what all tasks gain together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.evaluate.measure.measured import BASELINE, MODEL, TRUTH
from pipeline.evaluate.measure.passes import Key, RangeSums, RankKey, Work
from pipeline.evaluate.metrics.calibration import calibration_curve
from pipeline.evaluate.metrics.catalogue import (
    MAIN_METRIC,
    METRICS,
    SLICE_METRICS,
    Measurable,
    estimate,
    name_in_report,
)
from pipeline.evaluate.metrics.resample import Estimate
from pipeline.evaluate.metrics.rows import FloatArray
from pipeline.evaluate.prediction_table import Measured
from pipeline.evaluate.report.compare import Compared, adjust_slices, compute_gain, describe, describe_best

MIN_SLICE_POSITIVES = 50


@dataclass(frozen=True)
class Results:
    """What the passes gave. `ranked`, [S, 4], is what is counted of each ranking and slice, as `Metric.exact` takes it.

    `slices` are the dimension and the value of each slice, of which the first is the whole split; `keys` are those that
    the rows have.
    """

    work: Work

    ranked: Mapping[RankKey, FloatArray]
    sums: RangeSums
    slices: Sequence[tuple[str, str]]
    keys: frozenset[str]
    k: int

    def describe_tasks(self) -> list[dict[str, Any]]:
        """The entries of the report's `tasks`."""
        return [self._describe_task(thing, models) for thing, models in self.work.things]

    def _describe_task(self, thing: Measured, models: Sequence[str]) -> dict[str, Any]:
        own = {model: self._estimate(thing, model, 0, METRICS[thing.kind]) for model in models}
        baseline, truth = own.get(BASELINE, {}), own.get(TRUTH, {})
        is_binary = thing.kind == "binary"
        rows, positives, _ = self.sums.tallies[thing.name][0].tolist()
        return {
            "name": thing.name,
            "kind": thing.kind,
            "space": thing.space,
            "scope": thing.scope,
            "rows": int(rows),
            "positives": int(positives) if is_binary else None,
            "metrics": {
                name_in_report(name, self.k): {
                    **describe(own[MODEL][name], baseline.get(name)),
                    **describe_best(metric, own[MODEL][name], truth.get(name)),
                }
                for name, metric in METRICS[thing.kind].items()
            },
            "main_metric": MAIN_METRIC[thing.kind],
            "calibration_curve": self._calibration_curve(thing) if is_binary else [],
        }

    def describe_slices(self, min_rows: int) -> list[dict[str, Any]]:
        """The entries of the report's `slices`: those that have rows, in the order of their dimensions."""
        entries = [
            {
                "dimension": dimension,
                "value": value,
                "rows": int(rows),
                "share": rows / self.sums.slice_rows[0],
                "small": bool(rows < min_rows),
                "tasks": {
                    thing.name: self._describe_in_slice(thing, models, place, min_rows)
                    for thing, models in self.work.things
                },
            }
            for place, ((dimension, value), rows) in enumerate(zip(self.slices, self.sums.slice_rows, strict=True))
            if place and rows
        ]
        adjust_slices(entries)
        return entries

    def _describe_in_slice(self, thing: Measured, models: Sequence[str], place: int, min_rows: int) -> dict[str, Any]:
        names = SLICE_METRICS[thing.kind]
        own = self._estimate(thing, MODEL, place, names)
        baseline = self._estimate(thing, BASELINE, place, names) if BASELINE in models else {}
        rows, positives, _ = self.sums.tallies[thing.name][place].tolist()
        is_binary = thing.kind == "binary"
        return {
            "rows": int(rows),
            "positives": int(positives) if is_binary else None,
            "small": bool(rows < min_rows or (is_binary and positives < MIN_SLICE_POSITIVES)),
            "metrics": {name: describe(own[name], baseline.get(name)) for name in names},
        }

    def compute_gain(self) -> dict[str, Any] | None:
        """The report's `gain`; a joint, which says again what its tasks do, does not count; None without a baseline."""
        compared = []
        for thing, models in self.work.things:
            if thing.scope == "own space" and BASELINE in models:
                name = MAIN_METRIC[thing.kind]
                model, baseline = (self._estimate(thing, model, 0, [name])[name] for model in (MODEL, BASELINE))
                compared.append(Compared(thing.name, METRICS[thing.kind][name], model, baseline))
        return compute_gain(compared) if compared else None

    def _estimate(
        self, thing: Measured, model: str, place: int, names: Sequence[str] | Mapping[str, Any]
    ) -> dict[str, Estimate]:
        key = Key(thing.name, model)
        rows, _, weight = self.sums.tallies[thing.name][place].tolist()
        measurable = Measurable(int(rows), weight, int(self.sums.not_finite[key][place]), self.keys)
        num_rankings = len(self.work.fits[key].bins)
        ranked = np.array([self.ranked[RankKey(*key, number)][place] for number in range(num_rankings)])
        nothing = np.zeros((0, 1 + self.work.num_replicates))
        sums = self.sums.sums.get((key, place), {})
        return {
            name: estimate(METRICS[thing.kind][name], sums.get(name, nothing), measurable, ranked) for name in names
        }

    def _calibration_curve(self, thing: Measured) -> Sequence[Mapping[str, Any]]:
        sums = self.sums.sums.get((Key(thing.name, MODEL), 0), {})
        return calibration_curve(sums["calibration_error"])
