"""The figures of a record as a table: headers, and one row per contestant with medians over the rounds."""

from collections.abc import Sequence
from statistics import median
from typing import Any

GB = 1e9
Table = tuple[list[str], list[list[str]]]
USAGE_HEADERS = ["CPU, s", "others' CPU, s", "peak RSS, GB", "anonymous, GB"]


def table_of_runs(found: dict[str, Any], unit: str, *, is_contest: bool) -> Table:
    """What takes as long as its whole run: units per second with the start and without, ranges "lowest to highest".

    `time` is, per unit, a multiple of what the first contestant took in the same round; `time after start` is the same
    without the start of either.
    """
    contestants = found["contestants"]
    headers = ["", "version", f"{unit}/s", "range", "start, s", f"{unit}/s after it", *USAGE_HEADERS]
    headers += ["time", "time after start"] if is_contest else []
    rows = []
    for one in contestants:
        num_rows, runs = one["num_rows"], one["runs"]
        speeds = [num_rows / run["seconds"] for run in runs]
        row = [
            *_name(one),
            f"{median(speeds):,.0f}",
            f"{min(speeds):,.0f} to {max(speeds):,.0f}",
            f"{_median_of(runs, 'start_seconds'):.1f}",
            f"{median(num_rows / (run['seconds'] - run['start_seconds']) for run in runs):,.0f}",
            *_usage(runs),
        ]
        if is_contest:
            row += [_ratios(*(_times(each, counts) for each in (one, contestants[0]))) for counts in (True, False)]
        rows.append(row)
    return headers, rows


def table_of_training(found: dict[str, Any]) -> Table:
    """What goes on at a steady pace, which is the median of a run's windows; of a round's step times, the floor."""
    contestants, checked = found["contestants"], found["checked"]
    tasks = list(next(iter(checked["auc"].values())))
    headers = ["", "version", "samples/s", "range", "of the floor", "time", "start, s", *USAGE_HEADERS]
    headers += [f"AUC {task}" for task in tasks]
    rows = []
    for one in contestants:
        runs, auc = one["runs"], checked["auc"][one["name"]]
        speeds = [median(run["window_speeds"]) for run in runs]
        first = [median(run["window_speeds"]) for run in contestants[0]["runs"]]
        row = [
            *_name(one),
            f"{median(speeds):,.0f}",
            f"{min(speeds):,.0f} to {max(speeds):,.0f}",
            f"{median(speeds) / floor_speed(found, one['name']):.0%}",
            _ratios([1 / speed for speed in speeds], [1 / speed for speed in first]),
            f"{_median_of(runs, 'start_seconds'):.1f}",
            *_usage(runs),
            *(f"{auc[task]:.4f}" for task in tasks),
        ]
        rows.append(row)
    return headers, rows


def table_of_prediction(found: dict[str, Any]) -> Table:
    """What goes on at a steady pace after a start, which counts for nobody; `time` is as in `table_of_runs`."""
    contestants = found["contestants"]
    headers = ["", "version", "samples/s", "range", "time", "start, s", *USAGE_HEADERS]
    first = _times(contestants[0], starts_count=False)
    rows = []
    for one in contestants:
        times = _times(one, starts_count=False)
        speeds = [1 / seconds for seconds in times]
        row = [
            *_name(one),
            f"{median(speeds):,.0f}",
            f"{min(speeds):,.0f} to {max(speeds):,.0f}",
            _ratios(times, first),
            f"{_median_of(one['runs'], 'start_seconds'):.1f}",
            *_usage(one["runs"]),
        ]
        rows.append(row)
    return headers, rows


def table_of_training_growth(found: dict[str, Any]) -> Table:
    """The pace of training at each point, and of gatehouse what part of the floor's that is."""
    headers = ["", "version", "samples/s", "range", "ms a step", "GFLOP a step", "of the floor", "start, s"]
    rows = []
    for one, point in zip(found["contestants"], found["settings"]["points"], strict=True):
        floor = found["checked"]["floors"][point["title"]]
        speeds = [median(run["window_speeds"]) for run in one["runs"]]
        seconds = point["batch_size"] / median(speeds)
        is_ours = point["precision"] is not None
        row = [
            *_name(one),
            f"{median(speeds):,.0f}",
            f"{min(speeds):,.0f} to {max(speeds):,.0f}",
            f"{1000 * seconds:,.1f}",
            f"{floor['flops'] / 1e9:.1f}" if is_ours else "",
            f"{floor['seconds'][point['precision']] / seconds:.0%}" if is_ours else "",
            f"{_median_of(one['runs'], 'start_seconds'):.1f}",
            *_usage(one["runs"]),
        ]
        rows.append(row)
    return headers + USAGE_HEADERS, rows


def floor_speed(found: dict[str, Any], name: str) -> float:
    """Samples per second of a step that takes no longer than the floor, in the precision of a contestant."""
    seconds = found["checked"]["floor"]["seconds"]
    return float(found["settings"]["batch_size"] / seconds["bfloat16" if "bfloat16" in name else "float32"])


def _name(one: dict[str, Any]) -> tuple[str, str]:
    name, versions = one["name"], one["versions"].items()
    return name, ", ".join(v if name.startswith(package) else f"{package} {v}" for package, v in versions)


def _usage(runs: Sequence[dict[str, Any]]) -> list[str]:
    seconds = [f"{_median_of(runs, name):.1f}" for name in ("cpu_seconds", "other_cpu_seconds")]
    return seconds + [f"{_median_of(runs, name) / GB:.2f}" for name in ("peak_rss_bytes", "peak_anonymous_bytes")]


def _times(one: dict[str, Any], starts_count: bool) -> list[float]:
    """Seconds per row of each round, without starts that are free."""
    counts = starts_count and not one.get("is_start_free")
    return [(run["seconds"] - (0 if counts else run["start_seconds"])) / one["num_rows"] for run in one["runs"]]


def _ratios(own: Sequence[float], first: Sequence[float]) -> str:
    """Times as multiples of another's in the same rounds."""
    ratios = [one / other for one, other in zip(own, first, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _median_of(runs: Sequence[dict[str, Any]], figure: str) -> float:
    return float(median(run[figure] for run in runs))
