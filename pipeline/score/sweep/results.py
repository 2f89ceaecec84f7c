"""From sums to what sweep.json says: estimates, differences, the Pareto front, and which trial is the best.

A trial is chosen, and the front found, on one half of the units; values, intervals and differences are those of the
other half.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.evaluate.metrics.resample import Estimate
from pipeline.evaluate.report.compare import SIGNIFICANCE, describe
from pipeline.evaluate.report.wording import format_difference, format_p_value, format_value
from pipeline.score.sweep.measure import CHOOSING, REPORTING, Sums
from pipeline.score.sweep.trials import NDCG_PREFIX, VALUE, Plan, Ranking

DIFFERENCE_FIELDS = ("difference", "difference_low", "difference_high", "p_value")


def label_of(metric: str, k: int) -> str:
    return f"value@{k}" if metric == VALUE else f"NDCG@{k} of {metric.removeprefix(NDCG_PREFIX)}"


class Results:
    """The estimates of all rankings, on both halves."""

    def __init__(self, plan: Plan, sums: Sums) -> None:
        self.plan, self.sums = plan, sums
        with np.errstate(all="ignore"):
            self.values_RM2B = sums.gained / sums.over
        self.values_RM2B[sums.not_finite > 0] = np.nan

    def estimate(self, place: int, metric: int, half: int) -> Estimate:
        values = self.values_RM2B[place, metric, half]
        if np.isfinite(values[0]):
            return Estimate(float(values[0]), None, values[1:])
        if num_rows := int(self.sums.not_finite[place]):
            reason = f"the formula is not finite on {num_rows:,} rows"
        else:
            reason = "no list has a positive"
        return Estimate(None, reason, values[1:])

    def choose(self, metric: str) -> int:
        """The place of the best trial on the choosing half, the first one of equals.

        Raises:
            ConfigError: no trial has a value.
        """
        chosen = self.values_RM2B[:, self.plan.metrics.index(metric), CHOOSING, 0].copy()
        chosen[[ranking.role != "trial" for ranking in self.plan.rankings]] = np.nan
        if np.isnan(chosen).all():
            place = next(i for i, ranking in enumerate(self.plan.rankings) if ranking.role == "trial")
            reason = self.estimate(place, self.plan.metrics.index(metric), CHOOSING).reason
            raise ConfigError(
                f"no trial of score.sweep has a {metric}: {reason}", "change the formula, or sweep over another split"
            )
        return int(np.nanargmax(chosen))

    def front(self) -> NDArray[np.bool_]:
        """The trials that no other trial beats in all tasks, on the choosing half: [R]."""
        is_trial = np.array([ranking.role == "trial" for ranking in self.plan.rankings])
        # A task whose NDCG is defined of no ranking has no say.
        ndcg = self.values_RM2B[:, 1:, CHOOSING, 0]
        ndcg = ndcg[:, ~np.isnan(ndcg).all(axis=0)]
        candidates = np.flatnonzero(is_trial & ~np.isnan(ndcg).any(axis=1))
        is_on_front = np.zeros(len(is_trial), bool)
        is_on_front[candidates] = pareto_front(ndcg[candidates])
        return is_on_front

    def describe(self, place: int, is_on_front: bool) -> dict[str, Any]:
        """The entry of a ranking in sweep.json."""
        ranking = self.plan.rankings[place]
        references = [i for i, other in enumerate(self.plan.rankings) if other.role != "trial" and i != place]
        return {
            "name": ranking.name,
            "formula": ranking.formula,
            "parameters": dict(ranking.parameters),
            "metrics": {
                name: {
                    **_of(describe(self.estimate(place, metric, REPORTING), None), ("value", "low", "high", "reason")),
                    "chosen_by": self.estimate(place, metric, CHOOSING).value,
                }
                for metric, name in enumerate(self.plan.metrics)
            },
            "differences": {
                self.plan.rankings[other].name: {
                    name: self.difference(place, other, metric) for metric, name in enumerate(self.plan.metrics)
                }
                for other in references
            },
            "on_front": is_on_front,
        }

    def difference(self, place: int, other: int, metric: int) -> dict[str, Any]:
        """Of two rankings of the same rows, on the reporting half: the first less the second."""
        return _of(
            describe(self.estimate(place, metric, REPORTING), self.estimate(other, metric, REPORTING)),
            DIFFERENCE_FIELDS,
        )


def pareto_front(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows of [R, T] no other row beats: at least as high in every column and higher in one."""
    return np.array(
        [not ((values >= one).all(axis=1) & (values > one).any(axis=1)).any() for one in values], dtype=bool
    )


def judge(best: Mapping[str, Any], current: Ranking | None, metric: str, k: int, units: str) -> str:
    """A sentence on whether the best trial is better than the formula in use."""
    cell, label = best["metrics"][metric], label_of(metric, k)
    start = f'The best of all trials by {label} is "{best["formula"]}"'
    if cell["value"] is None:
        return f"{start}; on the {units} that it is reported on it is undefined: {cell['reason']}."
    start = f"{start}, with {format_value(cell['value'])}"
    if current is None:
        return f"{start}; there is no formula in use to compare it with."
    difference, low, high, p = (best["differences"][current.name][metric][name] for name in DIFFERENCE_FIELDS)
    other = f'the formula in use, "{current.formula}"'
    if difference is None:
        return f"{start}; {other}, is undefined on these rows."
    if p is None:
        return f"{start}, {format_difference(difference)} from {other}, with too few {units} for an interval."
    about = (
        f"{format_difference(difference)}, 95% interval {format_difference(low)} to {format_difference(high)}, "
        f"{format_p_value(p)}"
    )
    if p >= SIGNIFICANCE:
        return f"{start}: not significantly different from {other} ({about})."
    return f"{start}: significantly {'better' if difference > 0 else 'worse'} than {other} ({about})."


def _of(cell: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: cell[name] for name in names}
