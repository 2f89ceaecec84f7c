"""Figures of the report's page on experts and gradients, from the inspections of a training run.

A figure is {"title", "about", "svg", "caption"}, and one of several panels {"title", "legend", "panels", "caption"}
with a {"title", "about", "svg"} per panel. Where there is nothing to draw there is no figure.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from markupsafe import Markup

from pipeline.evaluate.page.plots import draw_lines, draw_mean_weights, line_styles

Line = dict[int, float]
Figure = dict[str, Any]
Inspections = Sequence[Mapping[str, Any]]

MAX_PAIRS = 6
ENTROPY_CAPTION = (
    "How evenly a task's gate spreads the weight of a row, averaged over the inspected training batch: 1 is equal "
    "shares, 0 a single expert. Neither end is better by itself."
)
GATES_CAPTION = (
    "The mean weight of each expert in a task's gate over the inspected training batch, averaged over neighbours where "
    "there are many; the dashed grey line is an equal share. Lines near it may still hide rows that are treated "
    "differently: the entropy tells. All panels have the same scale."
)
NORMS_CAPTION = (
    "The length of each task's gradient on the shared part of the model, before the balancer's weights, at the "
    "inspected steps, averaged over neighbours where there are many. A task far above the others has most say in how "
    "the shared part moves, unless the balancer weighs it down. Batches in which a task has no gradient are left out."
)
COSINES_CAPTION = (
    "The cosine between the gradients of two tasks on the shared part at the inspected steps, averaged over neighbours "
    "where there are many. Below 0 (dashed), a small step down one task's gradient alone raises the other's loss on "
    "the same batch; above 0 it lowers it. A batch is a noisy sample, so the mean says more than any dip."
)
LOSS_WEIGHTS_CAPTION = "The balancer's factor on each task's loss, on top of the task's configured weight."
SHARED_WEIGHTS_CAPTION = (
    "The balancer's factor on what each task sends back into the shared part, on top of its factor on the loss."
)


def expert_levels(mixtures: Mapping[str, Any], inspections: Inspections, split: str) -> list[dict[str, Any]]:
    """The figures of each level of experts: {"name", "title", empty of a single level, "figures", "panels" or None}.

    `mixtures` are those of the report, measured on the split.
    """
    levels = dict.fromkeys([*mixtures, *(level for record in inspections for level in record["mixtures"])])
    sections = []
    for level in levels:
        seen = [record for record in inspections if level in record["mixtures"]]
        figures = [
            _mean_weights(level, mixtures[level], split) if level in mixtures else None,
            _entropy(level, seen) if seen else None,
        ]
        sections.append(
            {
                "name": level,
                "title": level if len(levels) > 1 else "",
                "figures": [figure for figure in figures if figure],
                "panels": _gate_weights(level, seen) if seen else None,
            }
        )
    return sections


def gradient_figures(inspections: Inspections) -> list[Figure]:
    """The norms of the tasks' gradients, and the balancer's weights unless they are all one."""
    norms = _by_task(inspections, "gradients", "norm")
    # A mean with zeros in it would tell how often a rare task has a row in the batch.
    norms = {task: {step: norm for step, norm in line.items() if norm > 0} for task, line in norms.items()}
    figures = [_over_steps("norm of the gradients", norms, NORMS_CAPTION)]
    for part, name, caption in (
        ("loss", "weights of the losses", LOSS_WEIGHTS_CAPTION),
        ("shared", "weights on the shared part", SHARED_WEIGHTS_CAPTION),
    ):
        weights = _by_task(inspections, "weights", part)
        if any(weight != 1 for line in weights.values() for weight in line.values()):
            figures.append(_over_steps(name, weights, caption))
    return [figure for figure in figures if figure]


def cosine_panels(inspections: Inspections) -> Figure | None:
    """A panel per pair of tasks, the most negative mean cosine first, at most `MAX_PAIRS`."""
    tasks = list(inspections[-1]["gradients"]["norm"]) if inspections else []
    lines = {
        (tasks[one], tasks[other]): _line(
            (record["step"], record["gradients"]["cosine"][one][other])
            for record in inspections
            if all(record["gradients"]["norm"][tasks[place]] > 0 for place in (one, other))
        )
        for one, other in combinations(range(len(tasks)), 2)
    }
    means = {pair: fmean(line.values()) for pair, line in lines.items() if line}
    if not means:
        return None
    drawn = sorted(means, key=lambda pair: means[pair])[:MAX_PAIRS]
    bound = min(1.0, 1.1 * max(0.1, *(abs(value) for pair in drawn for value in lines[pair].values())))
    panels = []
    for one, other in drawn:
        name = f"cosine of the gradients of {one} and {other}"
        line = {name: lines[one, other]}
        svg = draw_lines(name, line, styles=line_styles([name]), limits=(-bound, bound), reference=0.0, is_panel=True)
        about = f"mean {means[one, other]:+.2f}".replace("-", "\N{MINUS SIGN}")
        panels.append({"title": f"{one}, {other}", "about": about, "svg": Markup(svg)})
    which = " The pair with the lowest mean comes first." if len(drawn) > 1 else ""
    if len(means) > MAX_PAIRS:
        which = f" Of {len(means)} pairs of tasks the {MAX_PAIRS} with the lowest means are drawn, the lowest first."
    title = "Agreement of the tasks' gradients"
    return {"title": title, "legend": [], "panels": panels, "caption": COSINES_CAPTION + which}


def _mean_weights(level: str, mixture: Mapping[str, Any], split: str) -> Figure | None:
    is_seen = [weight is not None for weights in mixture["mean_weight"] for weight in weights]
    if not any(is_seen):
        return None
    caption = (
        f"How much of each expert a task's gate takes, averaged over all rows of the {split} split: a row adds up to "
        "1, and darker is more."
    )
    if not all(is_seen):
        caption += " An empty cell is an expert that the task does not see."
    svg = Markup(draw_mean_weights(f"mean gate weight in {level}", mixture))
    return {"title": "Mean weight", "about": f"{split} split", "svg": svg, "caption": caption}


def _entropy(level: str, seen: Inspections) -> Figure | None:
    entropy = {
        task: _line((record["step"], record["mixtures"][level]["entropy"][task]) for record in seen)
        for task in seen[-1]["mixtures"][level]["entropy"]
    }
    return _over_steps("entropy of the gates", entropy, ENTROPY_CAPTION, level=level, limits=(0.0, 1.04))


def _gate_weights(level: str, seen: Inspections) -> Figure | None:
    """A panel per task with a line per expert that its gate sees."""
    last = seen[-1]["mixtures"][level]
    lines = {
        task: {
            expert: _line((record["step"], record["mixtures"][level]["mean_weight"][task][place]) for record in seen)
            for place, expert in enumerate(last["experts"])
        }
        for task in last["mean_weight"]
    }
    weights = [weight for of_task in lines.values() for line in of_task.values() for weight in line.values()]
    styles = line_styles(last["experts"])
    panels = []
    for task, of_task in lines.items():
        drawn = {expert: line for expert, line in of_task.items() if line}
        if drawn:
            svg = draw_lines(
                f"gate weights of {task} in {level}",
                drawn,
                styles=styles,
                limits=(0.0, min(1.04, 1.08 * max(weights))),
                reference=1 / len(drawn),
                is_panel=True,
            )
            panels.append({"title": task, "about": "", "svg": Markup(svg)})
    if not panels:
        return None
    legend = [{"name": expert, "color": color, "dash": dash} for expert, (color, dash) in styles.items()]
    title = "Weights of the experts during training"
    return {"title": title, "legend": legend, "panels": panels, "caption": GATES_CAPTION}


def _over_steps(
    name: str,
    lines: Mapping[str, Line],
    caption: str,
    *,
    level: str = "",
    limits: tuple[float, float] | None = None,
) -> Figure | None:
    """One figure with a line per task."""
    if not any(lines.values()):
        return None
    svg = draw_lines(f"{name} in {level}" if level else name, lines, styles=line_styles(list(lines)), limits=limits)
    return {"title": f"{name[0].upper()}{name[1:]}", "about": "", "svg": Markup(svg), "caption": caption}


def _by_task(inspections: Inspections, part: str, quantity: str) -> dict[str, Line]:
    tasks = inspections[-1][part][quantity] if inspections else ()
    return {task: _line((record["step"], record[part][quantity][task]) for record in inspections) for task in tasks}


def _line(points: Iterable[tuple[int, float | None]]) -> Line:
    """Steps and values, without those that are missing or not finite."""
    return {step: value for step, value in points if value is not None and math.isfinite(value)}
