"""What a person reads of a search: sentences, the table of the best trials, and the name and gain of each."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.config import RESOLVED_NAME
from pipeline.evaluate.report.wording import UNDEFINED, format_value, label_of
from pipeline.tune.form import Trial, TuneReport
from pipeline.tune.objective import binding, order
from pipeline.tune.space import show

NUM_SHOWN = 5
MAX_LISTED = 3


def summarise(report: TuneReport, trials_wanted: int, folder: Path) -> TuneReport:
    """The report with its sentences; `folder` is that of the trials."""
    best = None if report.best is None else report.trials[report.best]
    notes = []
    if best is not None and best.number:
        notes.append(
            f"the best of {len(report.trials)} trials looks better than it is on the validation split, where it was "
            f"chosen; to measure it on test: gatehouse evaluate --config {folder / str(best.number) / RESOLVED_NAME}"
        )
    if len(report.trials) < trials_wanted:
        notes.append(
            f"the space holds {len(report.trials)} configurations that differ, fewer than the {trials_wanted} trials "
            "asked for"
        )
    failed = [one for one in report.trials if one.failed is not None]
    notes += [f"trial {one.number} failed: {one.failed}" for one in failed[:MAX_LISTED]]
    if len(failed) > MAX_LISTED:
        notes.append(f"{len(failed) - MAX_LISTED} more trials failed")
    return report.model_copy(update={"summary": list(_sentences(report, best)), "notes": notes})


def _sentences(report: TuneReport, best: Trial | None) -> list[str]:
    if best is None:
        nearest = report.trials[report.ranking[0]]
        if nearest.violation is None:
            return [f"no trial is feasible; trial 0: {'; '.join(report.trials[0].reasons)}"]
        return [f"no trial keeps the constraints; trial {nearest.number} is the nearest: {'; '.join(nearest.reasons)}"]
    gains = "; ".join(_describe_gain(report, best, name) for name in best.tasks)
    if not best.number:
        start = f"none of {len(report.trials)} trials is better than the configuration as it stands"
    else:
        start = f"trial {best.number} is the best of {len(report.trials)}"
    return [f"{start}: {gains}", *_describe_constraints(report, best)]


def _describe_gain(report: TuneReport, trial: Trial, name: str) -> str:
    own = trial.tasks[name]
    start = f"{name} {label_of(report.tasks[name].metric)} {format_value(own.value)}"
    if not trial.number or own.gain is None:
        return start
    return f"{start}, {format_gain(own.gain)} over {format_value(own.base)}"


def _describe_constraints(report: TuneReport, best: Trial) -> list[str]:
    kept_out = binding(report.trials, best)
    if not kept_out:
        return ["no constraint kept out a trial with a higher objective"] if report.constraints else []
    sentences = []
    for (task, rule), trials in kept_out.items():
        first = max(trials, key=lambda one: one.objective or 0.0)
        others = f" and {len(trials) - 1} more" if len(trials) > 1 else ""
        bound = getattr(report.constraints[task], rule)
        sentences.append(
            f"{task} {rule} {bound} kept out trial {first.number} (objective {format_gain(first.objective)}){others} "
            f"with a higher objective than {format_gain(best.objective)}"
        )
    return sentences


def best_rows(report: TuneReport) -> tuple[list[str], list[list[str]]]:
    """Headers and rows, as text for a terminal: the best trials, and trial 0 if it is none of them."""
    labels = [f"{name} {label_of(task.metric)}" for name, task in report.tasks.items()]
    numbers = report.ranking[:NUM_SHOWN]
    numbers += [0] if 0 not in numbers else []
    rows = []
    for number in numbers:
        trial = report.trials[number]
        metrics = [format_value(own.value if (own := trial.tasks.get(name)) else None) for name in report.tasks]
        values = [show(trial.parameters[key]) if key in trial.parameters else "" for key in report.parameters]
        rows.append([name_of(trial), verdict_of(report, trial), format_gain(trial.objective), *metrics, *values])
    return ["trial", "", "objective", *labels, *short_names(list(report.parameters))], rows


def short_names(keys: Sequence[str]) -> list[str]:
    """The end of each key that no other one has."""
    names = []
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        own = (end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1)
        names.append(next(own, key))
    return names


def describe_best(trials: Sequence[Trial]) -> str:
    """The best of the trials so far, as the end of a line; empty without a feasible one."""
    best = min(trials, key=order, default=None)
    if best is None or not best.feasible:
        return ""
    return f", best so far {name_of(best)} ({format_gain(best.objective)})"


def name_of(trial: Trial) -> str:
    return "as it stands" if not trial.number else str(trial.number)


def verdict_of(report: TuneReport, trial: Trial) -> str:
    """Best, failed or not feasible, in a word or two; empty of other trials."""
    if trial.number == report.best:
        return "best"
    return "failed" if trial.failed is not None else "" if trial.feasible else "not feasible"


def format_gain(gain: float | None) -> str:
    """A relative gain as a percentage with its sign."""
    if gain is None:
        return UNDEFINED
    text = f"{abs(gain):.2%}"
    return f"{'+' if gain > 0 else chr(0x2212) if gain < 0 else ''}{text}"
