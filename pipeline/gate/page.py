"""The page of a decision, `decision.html`: one file that opens offline, with each rule, its numbers and how it went."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from pipeline.evaluate.page.environment import open_templates
from pipeline.evaluate.page.summary import format_interval, format_p
from pipeline.evaluate.report.wording import format_difference, format_value, label_of
from pipeline.files import write_text
from pipeline.gate.form import Decision, Rule

TEMPLATES = Path(__file__).parent / "templates"
COMPARISONS = ("max_loss", "min_gain", "slices.max_loss")
# At the top of the page; the tables have the others.
MAX_REFUSALS = 10
# Of the plot of one difference.
WIDTH, HEIGHT, MARGIN = 150, 20, 6
CAPTIONS = {
    "Tasks": "A gain is positive where the challenger is better, whichever way the metric goes. In its plot the dot is "
    "the gain, the bar its interval, the thin line no difference and the dashed line the bound; of max_loss the whole "
    "bar must lie right of it.",
    "Slices": "A slice is refused where its loss is significant, p adjusted for the number of slices, and beyond the "
    "bound. The worst come first.",
    "Data": "How far the data are from those of the earlier dataset; what is nearest its bound comes first.",
}


def render_decision(decision: Decision, path: Path) -> None:
    """Writes the page; equal decisions give equal bytes."""
    environment = open_templates(TEMPLATES)
    policy = decision.policy.model_dump(mode="json")
    page = environment.get_template("decision.html.j2").render(
        decision=decision,
        groups=_groups(decision.rules),
        # Slices can be many, and come last.
        refusals=[
            one.reason for one in sorted(decision.rules, key=lambda one: one.slice is not None) if not one.passed
        ],
        captions=CAPTIONS,
        max_refusals=MAX_REFUSALS,
        level=f"{100 * (1 - decision.policy.alpha):g}%",
        policy=yaml.safe_dump({"gate": policy}, sort_keys=False),
    )
    write_text(path, page)


def _groups(rules: Iterable[Rule]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each table, in the order of the page; of slices and data what did not pass or nearly so first."""
    groups: dict[str, list[Rule]] = {"Tasks": [], "Slices": [], "Data": [], "Report": []}
    for one in rules:
        is_of_task = one.metric is not None and one.slice is None
        name = "Slices" if one.rule.startswith("slices") else "Data" if one.rule.startswith("drift") else "Report"
        groups["Tasks" if is_of_task else name].append(one)
    for name, sign in (("Slices", 1), ("Data", -1)):
        # In bounds, which unlike values compare between metrics.
        groups[name].sort(key=lambda one: (one.passed, sign * (one.value or 0) / abs(one.bound or 1)))
    return {name: [_row(one) for one in own] for name, own in groups.items() if own}


def _row(one: Rule) -> dict[str, Any]:
    is_gain = one.rule in COMPARISONS
    form = format_difference if is_gain else format_value
    name = one.feature or one.task or ""
    return {
        "passed": one.passed,
        "name": f"{one.slice.dimension} {one.slice.value}" if one.slice else name,
        "about": " ".join(filter(None, (name if one.slice else "", one.metric and label_of(one.metric)))),
        "rule": one.rule.removeprefix("slices.").removeprefix("drift."),
        "value": "" if one.value is None else form(one.value),
        "interval": _interval(one),
        "p": format_p(one.p_value) if one.p_value is not None else "",
        "bound": "" if one.bound is None else form(one.bound),
        "plot": Markup(_draw(one)) if is_gain and one.value is not None else "",
        "reason": one.reason,
    }


def _interval(one: Rule) -> str:
    if one.high is None:
        return "" if one.low is None else f"from {format_value(one.low)}"
    return format_interval(one.low, one.high)


def _draw(one: Rule) -> str:
    """A gain with its interval, the place of no difference in the middle, and the bound; on a scale of its own."""
    numbers = {"low": one.low, "value": one.value, "high": one.high, "bound": one.bound, "zero": 0.0}
    reach = max(abs(number) for number in numbers.values() if number is not None) or 1.0
    at = {name: f"{WIDTH / 2 + (WIDTH / 2 - MARGIN) * (number or 0) / reach:.1f}" for name, number in numbers.items()}
    color = "#1f5a96" if one.passed else "#a83a06"
    middle, bottom = HEIGHT // 2, HEIGHT - 1
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="gain {format_difference(one.value)}, from {format_interval(one.low, one.high)}; bound '
        f'{format_difference(one.bound)}">'
        f'<path d="M{at["zero"]} 1V{bottom}" stroke="#aab4bf"/>'
        f'<path d="M{at["bound"]} 1V{bottom}" stroke="#1f2933" stroke-dasharray="3 2"/>'
        f'<path d="M{at["low"]} {middle}H{at["high"]}" stroke="{color}" stroke-width="3" opacity="0.55"/>'
        f'<circle cx="{at["value"]}" cy="{middle}" r="3.5" fill="{color}"/></svg>'
    )
