"""Drift: how far the content of one statistics.json is from that of the dataset before it.

Values, nulls and labels are compared on the training rows. Unseen values are compared on the test, the latest rows: in
training a value is unseen only where `min_count` or `max_size` made it so.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.errors import ArtifactError, DataError
from pipeline.preprocess.config import DriftConfig
from pipeline.preprocess.profiles.profile import NumberProfile, bin_counts
from pipeline.shards.manifest import STATISTICS_NAME

PSI = "population stability index"
# A share of 0 has no logarithm; this one is the usual floor, one row in ten thousand.
SMALLEST_SHARE = 1e-4
# Of one table that count as a bin each; the rest is one more.
NUM_TOP_BINS = 20
# With fewer, the index of two samples of the same log comes near the threshold.
MIN_PSI_VALUES = 1000
# Of one message; statistics.json has them all.
MAX_LISTED = 8


@dataclass(frozen=True)
class Finding:
    """One comparison of a feature or a task. `value` is null where it is undefined, and `reason` then says why."""

    of: str
    name: str
    measure: str
    before: float | None
    now: float | None
    value: float | None
    threshold: float | None
    is_over: bool
    reason: str | None = None

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.of} {self.name!r}: {self.measure}: {self.reason}"
        sides = f", from {self.before:.4g} to {self.now:.4g}" if None not in (self.before, self.now) else ""
        above = f", above {self.threshold:g}" if self.is_over else ""
        return f"{self.of} {self.name!r}: {self.measure} is {self.value:.4g}{above}{sides}"


def psi(before: Sequence[float], now: Sequence[float]) -> float:
    """The population stability index of two counts over the same bins: the sum of (q - p) ln(q / p) over their shares.

    Siddiqi, Credit Risk Scorecards, 2006: below 0.1 is no change, above 0.25 a large one. It is the symmetric
    divergence of Kullback and Leibler. Shares below `SMALLEST_SHARE` count as that. Of two samples with n and m values
    of one distribution, it is about (bins - 1)(1/n + 1/m) (Yurdakul and Naranjo 2020).
    """
    p, q = (np.maximum(np.asarray(counts, np.float64) / np.sum(counts), SMALLEST_SHARE) for counts in (before, now))
    return float(np.sum((q - p) * np.log(q / p)))


def read_previous(location: str) -> dict[str, Any]:
    """The statistics of a dataset, from its folder or its statistics.json, local or remote.

    Raises:
        ArtifactError: the file is missing, or is not what preprocessing writes.
    """
    file = storage.join(location, STATISTICS_NAME) if storage.is_folder(location) else location
    try:
        content = json.loads(storage.read_bytes(file))
        if not isinstance(content, dict) or not {"features", "tables", "tasks", "rows"} <= content.keys():
            raise ValueError("it does not hold features, tables, tasks and rows")
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"the statistics of the previous dataset, {file}, cannot be read: {error}",
            "correct preprocess.contract.drift.previous, or remove it",
        ) from error
    return content


def find_drift(
    previous: Mapping[str, Any],
    current: Mapping[str, Any],
    profiles: Mapping[str, NumberProfile],
    config: DriftConfig,
) -> list[Finding]:
    """Compares two contents of statistics.json; `profiles` are those of the current numeric features in training.

    The findings that are over their threshold come first, and then the order of features and tasks.
    """
    findings: list[Finding] = []
    for of, section in (("feature", "features"), ("task", "tasks")):
        names = list(dict.fromkeys([*previous[section], *current[section]]))
        for name in names:
            before, now = previous[section].get(name), current[section].get(name)
            if before is None or now is None or before.get("kind") != now.get("kind"):
                findings.append(_changed(of, name, before, now))
            elif of == "feature":
                findings += _compare_feature(name, previous, current, profiles.get(name), config)
            else:
                findings.append(_compare_labels(name, before, now, config))
    return sorted(findings, key=lambda finding: not finding.is_over)


def _changed(of: str, name: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> Finding:
    if before is None or now is None:
        reason = "is new" if before is None else "is gone"
    else:
        reason = f"was {before.get('kind')}, is {now.get('kind')}"
    return Finding(of, name, "presence", None, None, None, None, True, reason)


def _compare_feature(
    name: str,
    previous: Mapping[str, Any],
    current: Mapping[str, Any],
    profile: NumberProfile | None,
    config: DriftConfig,
) -> Iterator[Finding]:
    before, now = previous["features"][name], current["features"][name]
    rates = (_null_rate(before, previous["rows"]), _null_rate(now, current["rows"]))
    yield _increase(name, "increase of the null rate", *rates, config.max_null_rate_increase)
    if now["kind"] == "numeric":
        yield _compare_numbers(name, before, profile, config)
        return
    rates = (before.get("unseen_fraction", {}).get("test"), now.get("unseen_fraction", {}).get("test"))
    yield _increase(name, "increase of the unseen rate", *rates, config.max_unseen_rate_increase)
    if now["table"] == name:  # the values of a shared table are compared once, under the feature that owns it
        yield _compare_values(name, previous["tables"].get(name, {}), current["tables"].get(name, {}), config)


def _null_rate(feature: Mapping[str, Any], rows: Mapping[str, int]) -> float | None:
    """Of training rows; of a feature with lists, those whose list is null."""
    nulls = feature.get("null_lists", feature.get("nulls", {})).get("train")
    return None if nulls is None or not rows.get("train") else nulls / rows["train"]


def _increase(name: str, measure: str, before: float | None, now: float | None, threshold: float) -> Finding:
    if before is None or now is None:
        reason = f"the {'previous' if before is None else 'current'} dataset does not tell the rate"
        return Finding("feature", name, measure, before, now, None, threshold, False, reason)
    return Finding("feature", name, measure, before, now, now - before, threshold, now - before > threshold)


def _compare_numbers(
    name: str, before: Mapping[str, Any], profile: NumberProfile | None, config: DriftConfig
) -> Finding:
    histogram = (before.get("profile", {}).get("train") or {}).get("histogram")
    if histogram is None or profile is None:
        return _psi_finding("feature", name, None, None, config)
    counts = bin_counts(profile.sample.values, np.asarray(histogram["edges"], np.float64))
    return _psi_finding("feature", name, histogram["counts"], counts, config)


def _compare_values(name: str, before: Mapping[str, Any], now: Mapping[str, Any], config: DriftConfig) -> Finding:
    """Bins are the most frequent values of the previous dataset, and the rest.

    A value that is not listed now counts as 0: it became rarer than `MAX_TOP_VALUES` others.
    """
    if not before.get("top_values") or not now.get("top_values"):
        return _psi_finding("feature", name, None, None, config)
    bins = [value for value, _ in before["top_values"][:NUM_TOP_BINS]]
    then, later = ([dict(table["top_values"]).get(value, 0) for value in bins] for table in (before, now))
    rest = [before["num_values"] - sum(then), now["num_values"] - sum(later)]
    if any(rest):
        then, later = [*then, rest[0]], [*later, rest[1]]
    return _psi_finding("feature", name, then, later, config)


def _psi_finding(of: str, name: str, before: list[int] | None, now: list[int] | None, config: DriftConfig) -> Finding:
    value, reason = None, None
    if before is None or now is None:
        reason = "one of the two datasets has no counts to compare"
    elif (fewest := min(sum(before), sum(now))) < MIN_PSI_VALUES:
        reason = f"{fewest:,} values are too few, it needs {MIN_PSI_VALUES:,}"
    else:
        value = psi(before, now)
    is_over = value is not None and value > config.max_psi
    return Finding(of, name, PSI, None, None, value, config.max_psi, is_over, reason)


def _compare_labels(name: str, before: Mapping[str, Any], now: Mapping[str, Any], config: DriftConfig) -> Finding:
    """The mean label; of a task with classes, how often each occurs."""
    if "classes" in before and "classes" in now:
        classes = list(before["classes"] | now["classes"])
        counts = [[side["classes"].get(one, {}).get("train", 0) for one in classes] for side in (before, now)]
        return _psi_finding("task", name, counts[0], counts[1], config)
    mean_before, mean_now = before.get("mean", {}).get("train"), now.get("mean", {}).get("train")
    value, reason = None, None
    if mean_before is None or mean_now is None:
        reason = "one of the two datasets has no mean label of the task"
    elif mean_before == 0:
        reason = "the previous mean label is 0"
    else:
        value = abs(mean_now / mean_before - 1)
    threshold = config.max_label_rate_change
    is_over = value is not None and value > threshold
    return Finding("task", name, "change of the mean label", mean_before, mean_now, value, threshold, is_over, reason)


def describe_drift(findings: Sequence[Finding], previous: str) -> dict[str, Any]:
    """For statistics.json."""
    return {"previous": previous, "findings": [asdict(finding) for finding in findings]}


def check_drift(findings: Sequence[Finding], config: DriftConfig) -> list[str]:
    """A warning for each finding that is over its threshold.

    Raises:
        DataError: there is one, and the action is to stop; one message for all of them.
    """
    warnings = [str(finding) for finding in findings if finding.is_over]
    if warnings and config.action == "stop":
        more = [f"{len(warnings) - MAX_LISTED} more"] if len(warnings) > MAX_LISTED else []
        raise DataError(
            f"the log has drifted from {config.previous}: {'; '.join(warnings[:MAX_LISTED] + more)}",
            "check what changed in the log; raise the threshold in preprocess.contract.drift, or set its action: warn",
        )
    return warnings
