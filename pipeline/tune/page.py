"""The page of a search, `tune.html`: one file that opens offline, in the style of the evaluation's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from pipeline.evaluate.page.environment import open_templates
from pipeline.evaluate.page.plots import BLUE, INK, MUTED, ORANGE, STYLE, to_svg
from pipeline.evaluate.report.wording import format_value, label_of
from pipeline.files import write_text
from pipeline.tune.config import TunedKeyConfig
from pipeline.tune.form import Trial, TuneReport
from pipeline.tune.space import as_yaml, show
from pipeline.tune.summary import format_gain, name_of, short_names, verdict_of

TEMPLATES = Path(__file__).parent / "templates"
MAX_TRIALS_ON_PAGE = 200
MAX_PLOTS = 20
# Of one tick, and of all that stand level beside each other.
MAX_TICK_CHARACTERS, MAX_LEVEL_CHARACTERS = 18, 36
CAPTION = (
    "Each dot is a trial; the star is the best one, the square the configuration as it stands, and a cross a trial "
    "that breaks a constraint. Other parameters differ too from dot to dot."
)


def render_tune(report: TuneReport, path: Path) -> None:
    """Writes what tune.json holds as one page that needs no other file, no network and no script."""
    environment = open_templates(TEMPLATES)
    keys = list(report.parameters)
    page = environment.get_template("tune.html.j2").render(
        report=report,
        best=None if report.best is None else report.trials[report.best],
        num_feasible=sum(one.feasible for one in report.trials),
        num_failed=sum(one.failed is not None for one in report.trials),
        objective=", ".join(
            f"{name} {label_of(task.metric)}" + ("" if task.weight == 1 else f" (weight {task.weight:g})")
            for name, task in report.tasks.items()
            if task.weight
        ),
        constraints=[_describe_constraint(report, name) for name in report.constraints],
        values=_yaml_of_best(report),
        keys=[name.replace(".", ".\N{ZERO WIDTH SPACE}") for name in short_names(keys)],
        labels=[f"{name} {label_of(task.metric)}" for name, task in report.tasks.items()],
        rows=[_row(report, report.trials[number], keys) for number in report.ranking[:MAX_TRIALS_ON_PAGE]],
        num_left_out=max(0, len(report.trials) - MAX_TRIALS_ON_PAGE),
        caption=CAPTION,
        figures=_figures(report),
    )
    write_text(path, page)


def _describe_constraint(report: TuneReport, name: str) -> str:
    rules = report.constraints[name].model_dump(exclude_none=True)
    words = {"min": "at least", "max": "at most", "max_loss": "loses at most"}
    told = " and ".join(f"{words[rule]} {bound}" for rule, bound in rules.items())
    return f"{name} {label_of(report.tasks[name].metric)} {told}"


def _yaml_of_best(report: TuneReport) -> str:
    """What the best trial sets, to read; empty where that is nothing."""
    if not report.best:
        return ""
    return "\n".join(f"{key}: {as_yaml(value)}" for key, value in report.trials[report.best].parameters.items())


def _row(report: TuneReport, trial: Trial, keys: Sequence[str]) -> dict[str, Any]:
    return {
        "name": name_of(trial),
        "verdict": verdict_of(report, trial),
        "values": [show(trial.parameters[key]) if key in trial.parameters else "" for key in keys],
        "objective": format_gain(trial.objective),
        "cells": [_cell(trial, name) for name in report.tasks],
        "reasons": trial.reasons,
        "seconds": "" if trial.seconds is None else f"{trial.seconds:,.0f} s",
    }


def _cell(trial: Trial, name: str) -> tuple[str, str]:
    own = trial.tasks.get(name)
    if own is None:
        return "", ""
    return format_value(own.value), "" if own.gain is None or not trial.number else format_gain(own.gain)


# --- plots


def _figures(report: TuneReport) -> list[dict[str, Any]]:
    """A plot for each parameter, if there are two trials with an objective."""
    drawn = [one for one in report.trials if one.objective is not None]
    return [
        {"title": key, "about": "", "caption": "", "svg": Markup(draw_parameter(report, key))}
        for key in list(report.parameters)[:MAX_PLOTS]
        if sum(key in one.parameters for one in drawn) > 1
    ]


def draw_parameter(report: TuneReport, key: str) -> str:
    """The objective of each trial, in percent, against the value of one parameter."""
    one = report.parameters[key]
    trials = [trial for trial in report.trials if trial.objective is not None and key in trial.parameters]
    listed = {} if _is_numeric(one, trials, key) else _listed(one, trials, key)
    place_of = {text: place for place, text in enumerate(listed)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.5, 2.9), layout="constrained")
        axes = figure.add_subplot(xlabel="", ylabel="objective, %")
        axes.axhline(0, color=MUTED, linestyle="--", linewidth=1)
        for kind, label, style in _KINDS:
            own = [trial for trial in trials if _kind(report, trial) == kind]
            if own:
                values = [trial.parameters[key] for trial in own]
                x = [place_of[as_yaml(value)] if listed else value for value in values]
                axes.plot(x, [100 * (trial.objective or 0.0) for trial in own], linestyle="", label=label, **style)
        _scale(axes, one, listed)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.locator_params(axis="y", nbins=5)
        figure.legend(loc="outside lower center", ncols=2, columnspacing=1.2, handletextpad=0.3)
        return to_svg(figure, f"objective against {key}", _describe(report, trials, key))


_EDGE: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.6}
# In the order of drawing: kind, legend, marker.
_KINDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("not feasible", "not feasible", {"marker": "x", "color": ORANGE, "markersize": 6, "markeredgewidth": 1.6}),
    ("feasible", "trial", {"marker": "o", "color": BLUE, "markersize": 5, **_EDGE}),
    ("base", "as it stands", {"marker": "s", "color": INK, "markersize": 6, **_EDGE}),
    ("best", "best", {"marker": "*", "color": BLUE, "markersize": 12, **_EDGE}),
)


def _kind(report: TuneReport, trial: Trial) -> str:
    if trial.number == report.best:
        return "best"
    return "base" if not trial.number else "feasible" if trial.feasible else "not feasible"


def _is_numeric(one: TunedKeyConfig, trials: Sequence[Trial], key: str) -> bool:
    """Whether the axis is one of numbers: of a range, unless trial 0 has something else there, such as null."""
    return one.values is None and all(_is_number(trial.parameters[key]) for trial in trials)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(one: TunedKeyConfig, trials: Sequence[Trial], key: str) -> dict[str, Any]:
    """The values on an axis of values, by their texts: in the order of the list, and then what trial 0 has."""
    values = [*(one.values or ()), *(trial.parameters[key] for trial in trials)]
    return {as_yaml(value): value for value in values}


def _scale(axes: Axes, one: TunedKeyConfig, listed: Mapping[str, Any]) -> None:
    if listed:
        shown = [show(value) for value in listed.values()]
        labels = [
            text if len(text) <= MAX_TICK_CHARACTERS else f"{text[: MAX_TICK_CHARACTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
            for text in shown
        ]
        is_long = sum(map(len, labels)) > MAX_LEVEL_CHARACTERS
        slant: Any = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
        axes.set_xticks(range(len(labels)), labels, **slant)
        axes.set_xlim(-0.5, len(labels) - 0.5)
    elif one.scale == "log":
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=6))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.locator_params(axis="x", nbins=5, integer=one.is_whole)


def _describe(report: TuneReport, trials: Sequence[Trial], key: str) -> str:
    parts = []
    for trial in sorted(trials, key=lambda trial: report.ranking.index(trial.number)):
        kind = _kind(report, trial)
        about = "" if kind == "feasible" else f" ({kind.replace('base', 'as it stands')})"
        parts.append(f"{show(trial.parameters[key])} {format_gain(trial.objective)}{about}")
    return "; ".join(parts) + "."
