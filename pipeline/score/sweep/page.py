"""The page of a sweep, `sweep.html`: one file that opens offline, in the style of the evaluation's."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.evaluate.page.environment import open_templates
from pipeline.evaluate.page.plots import BLUE, INK, ORANGE, PALE, STYLE, to_svg
from pipeline.evaluate.report.wording import format_value
from pipeline.files import write_text
from pipeline.score.sweep.results import label_of, pareto_front
from pipeline.score.sweep.summary import MAX_TRIALS_ON_PAGE, is_best, metrics_of, paste_line, table_rows, verdict_of
from pipeline.score.sweep.trials import CURRENT, NDCG_PREFIX

TEMPLATES = Path(__file__).parent / "templates"
MAX_PLOTS = 10
CAPTION = (
    "Each dot is a trial. The line joins the front: trials that no other one beats in both tasks on the half of the "
    "choice; where it turns back, the halves disagree. Bars are 95% intervals."
)


def render_sweep(report: Mapping[str, Any], path: Path) -> None:
    """Writes what sweep.json holds as one page that needs no other file, no network and no script."""
    environment = open_templates(TEMPLATES)
    best = report["trials"][report["best"]]
    page = environment.get_template("sweep.html.j2").render(
        report=report,
        label=label_of(report["metric"], report["k"]),
        labels=[label_of(name, report["k"]) for name in metrics_of(report)],
        verdict=verdict_of(best["differences"].get(CURRENT, {}).get(report["metric"])),
        paste_line=paste_line(report),
        rows=table_rows(report),
        num_left_out=max(0, len(report["trials"]) - MAX_TRIALS_ON_PAGE),
        worth=", ".join(f"{task} {value:g}" for task, value in report["values"].items()),
        caption=CAPTION,
        figures=_figures(report),
    )
    write_text(path, page)


def _figures(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A plot for each pair of tasks that both are defined."""
    entries = [*report["references"], *report["trials"]]
    tasks = [
        name.removeprefix(NDCG_PREFIX)
        for name in metrics_of(report)
        if name.startswith(NDCG_PREFIX) and any(entry["metrics"][name]["value"] is not None for entry in entries)
    ]
    return [
        {
            "title": f"{y} against {x}",
            "about": "",
            "caption": "",
            "svg": Markup(draw_trade_off(report, x, y)),
        }
        for x, y in list(itertools.combinations(tasks, 2))[:MAX_PLOTS]
    ]


def draw_trade_off(report: Mapping[str, Any], x: str, y: str) -> str:
    """Every ranking by the NDCG of two tasks, with the front of the trials; at least one is defined."""
    metrics = (NDCG_PREFIX + x, NDCG_PREFIX + y)
    trials = [one for one in report["trials"] if _point(one, metrics) and _point(one, metrics, "chosen_by")]
    points_R2 = np.array([_point(one, metrics) for one in trials], np.float64).reshape(-1, 2)
    chosen_R2 = np.array([_point(one, metrics, "chosen_by") for one in trials], np.float64).reshape(-1, 2)
    front_R2 = points_R2[pareto_front(chosen_R2)]
    front_R2 = front_R2[np.lexsort((-front_R2[:, 1], front_R2[:, 0]))]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.5, 3.6), layout="constrained")
        axes = figure.add_subplot(xlabel=label_of(metrics[0], report["k"]), ylabel=label_of(metrics[1], report["k"]))
        axes.plot(*points_R2.T, "o", color=PALE, markersize=3, alpha=0.55, markeredgewidth=0, label="trial")
        axes.plot(*front_R2.T, "o-", color=BLUE, linewidth=0.9, markersize=2.5, label="front")
        for entry, color, marker, label in _marked(report, trials):
            _mark(axes, entry, metrics, color, marker, label)
        axes.ticklabel_format(useOffset=False)
        axes.locator_params(nbins=4)
        figure.legend(loc="outside lower center", ncols=3, columnspacing=1.2, handletextpad=0.5)
        return to_svg(figure, f"trade-off of {x} and {y}", _describe(report, trials, metrics, len(front_R2)))


def _marked(
    report: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], str, str, str]]:
    """The rankings that have a name, with a colour, a marker and that name."""
    markers = itertools.cycle("^vDPX<>p")
    marked = [
        (entry, ORANGE, "s", "in use") if entry["name"] == CURRENT else (entry, INK, next(markers), entry["name"])
        for entry in report["references"]
    ]
    return [*marked, *((entry, BLUE, "*", "best trial") for entry in trials if is_best(report, entry))]


def _mark(axes: Axes, entry: Mapping[str, Any], metrics: tuple[str, str], color: str, marker: str, label: str) -> None:
    point = _point(entry, metrics)
    if point is None:
        return
    x, y = point
    cells = [entry["metrics"][name] for name in metrics]
    if marker in "s*" and all(cell["low"] is not None for cell in cells):
        across, up = ([[cell["value"] - cell["low"]], [cell["high"] - cell["value"]]] for cell in cells)
        axes.errorbar(x, y, xerr=across, yerr=up, fmt="none", ecolor=color, elinewidth=0.8, alpha=0.6)
    size = 9 if marker == "*" else 5.5
    edge: Any = {"markeredgecolor": "white", "markeredgewidth": 0.6}
    axes.plot([x], [y], marker, color=color, markersize=size, label=label, zorder=3, **edge)


def _point(entry: Mapping[str, Any], metrics: tuple[str, str], field: str = "value") -> tuple[float, float] | None:
    x, y = (entry["metrics"][name][field] for name in metrics)
    return None if x is None or y is None else (x, y)


def _describe(
    report: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], metrics: tuple[str, str], num_on_front: int
) -> str:
    parts = [f"{len(trials)} trials, {num_on_front} of them on the front"]
    for entry, _, _, label in _marked(report, trials):
        point = _point(entry, metrics)
        parts.append(f"{label} {' and '.join(map(format_value, point)) if point else 'undefined'}")
    return "; ".join(parts) + "."
