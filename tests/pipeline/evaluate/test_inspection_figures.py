"""The figures on experts and gradients show what was inspected, no more, and nothing where there is nothing."""

import math
from itertools import combinations
from typing import Any

import pytest

from pipeline.evaluate.page.inspections import MAX_PAIRS, cosine_panels, expert_levels, gradient_figures
from pipeline.evaluate.page.plots import DASHES, LINE_COLORS, MAX_LINE_POINTS, draw_lines, line_styles

EXPERTS = ["click 0", "like 0", "shared 0"]


def record(step: int, norms: dict[str, float], cosine: float = 0.0, **weights: dict[str, float]) -> dict[str, Any]:
    """An inspection with the same cosine between all tasks, and weights of one unless others are given."""
    ones = dict.fromkeys(norms, 1.0)
    return {
        "step": step,
        "epoch": 0,
        "mixtures": {},
        "alarms": [],
        "gradients": {"norm": norms, "cosine": [[1.0 if a == b else cosine for b in norms] for a in norms]},
        "weights": {"loss": ones, "shared": ones, **weights},
    }


def with_experts(step: int, click: list[float | None], like: list[float | None], *levels: str) -> dict[str, Any]:
    mixture = {
        "experts": EXPERTS,
        "mean_weight": {"click": click, "like": like},
        "entropy": {"click": 0.75, "like": 0.5},
        "similarity": [[1.0] * 3] * 3,
    }
    return record(step, {"click": 1.0, "like": 1.0}) | {"mixtures": dict.fromkeys(levels, mixture)}


def test_without_inspections_nothing_is_drawn() -> None:
    assert expert_levels({}, [], "test") == []
    assert gradient_figures([]) == []
    assert cosine_panels([]) is None


def test_a_body_without_experts_has_no_levels() -> None:
    assert expert_levels({}, [record(50, {"click": 1.0, "like": 1.0})], "test") == []


def test_a_panel_shows_the_experts_that_the_task_sees() -> None:
    seen = [with_experts(50, [0.9, None, 0.1], [None, 0.2, 0.8], "experts")]
    seen.append(with_experts(100, [0.7, None, 0.3], [None, 0.4, 0.6], "experts"))
    (level,) = expert_levels({}, seen, "test")
    click, like = level["panels"]["panels"]
    assert (click["title"], like["title"]) == ("click", "like")
    assert (
        "experts: click 0 from 0.9 at step 50 to 0.7 at step 100; shared 0 from 0.1 at step 50 to 0.3 at step 100."
        in click["svg"]
    )
    assert "click 0" not in like["svg"]
    assert [entry["name"] for entry in level["panels"]["legend"]] == EXPERTS
    for entry in level["panels"]["legend"]:
        panels = [panel for panel in (click, like) if f"{entry['name']} from" in panel["svg"]]
        assert panels
        assert all(f"stroke: {entry['color']}" in panel["svg"] for panel in panels)


def test_levels_have_titles_where_there_are_several() -> None:
    one, several = ("experts",), ("level 1", "level 2")
    for levels, titles in ((one, [""]), (several, ["level 1", "level 2"])):
        seen = [with_experts(50, [0.5, None, 0.5], [None, 0.5, 0.5], *levels)]
        assert [level["title"] for level in expert_levels({}, seen, "test")] == titles


def test_the_mean_weights_are_those_of_the_evaluated_split() -> None:
    mixture = {"tasks": ["click", "like"], "experts": EXPERTS, "mean_weight": [[0.5, None, 0.5], [None, 0.25, 0.75]]}
    (level,) = expert_levels({"experts": mixture}, [], "validation")
    (figure,) = level["figures"]
    assert level["panels"] is None
    assert "like: like 0 0.25, shared 0 0.75." in figure["svg"]
    assert "all rows of the validation split" in figure["caption"]
    assert "An empty cell" in figure["caption"]
    full = mixture | {"mean_weight": [[0.2, 0.3, 0.5]] * 2}
    (level,) = expert_levels({"experts": full}, [], "validation")
    assert "An empty cell" not in level["figures"][0]["caption"]


def test_a_level_whose_weights_are_all_unknown_has_no_heat_map() -> None:
    mixture = {"tasks": ["click"], "experts": EXPERTS, "mean_weight": [[None, None, None]]}
    (level,) = expert_levels({"experts": mixture}, [], "test")
    assert level["figures"] == []


def test_values_that_are_not_finite_are_left_out() -> None:
    seen = [with_experts(step, [math.nan, None, math.nan], [None, 0.5, 0.5], "experts") for step in (50, 100)]
    (level,) = expert_levels({}, seen, "test")
    assert [panel["title"] for panel in level["panels"]["panels"]] == ["like"]
    (figure,) = gradient_figures(
        [record(50, {"click": math.nan, "like": 2.0}), record(100, {"click": 1.0, "like": 3.0})]
    )
    assert "click from 1 at step 100 to 1 at step 100; like from 2 at step 50 to 3 at step 100." in figure["svg"]


def test_a_batch_without_a_gradient_of_a_task_is_left_out() -> None:
    inspections = [record(50, {"click": 1.0, "like": 0.0}, cosine=0.0), record(100, {"click": 1.0, "like": 2.0}, 0.5)]
    (norms,) = gradient_figures(inspections)
    assert "like from 2 at step 100" in norms["svg"]
    cosines = cosine_panels(inspections)
    assert cosines is not None
    assert [panel["about"] for panel in cosines["panels"]] == ["mean +0.50"]
    assert cosine_panels(inspections[:1]) is None


def test_the_balancers_weights_are_drawn_unless_they_are_all_one() -> None:
    norms = {"click": 1.0, "like": 1.0}
    for weights, titles in (
        ({}, []),
        ({"loss": {"click": 1.0, "like": 0.5}}, ["Weights of the losses"]),
        ({"shared": {"click": 2.0, "like": 0.0}}, ["Weights on the shared part"]),
    ):
        figures = gradient_figures([record(50, norms), record(100, norms, 0.0, **weights)])
        assert [figure["title"] for figure in figures] == ["Norm of the gradients", *titles]


@pytest.mark.parametrize(("norm", "is_logarithmic"), [(2.0, False), (200.0, True)])
def test_norms_that_span_decades_have_a_logarithmic_scale(norm: float, is_logarithmic: bool) -> None:
    (figure,) = gradient_figures([record(step, {"click": 1.0, "like": norm}) for step in (50, 100)])
    assert ("logarithmic scale" in figure["svg"]) == is_logarithmic


def test_the_pairs_that_disagree_most_are_drawn_first_and_the_caption_says_how_many() -> None:
    tasks = list("abcde")
    pairs = list(combinations(range(5), 2))
    inspection = record(50, dict.fromkeys(tasks, 1.0))
    for place, (one, other) in enumerate(pairs):
        cosine = 0.5 - 0.1 * place
        inspection["gradients"]["cosine"][one][other] = inspection["gradients"]["cosine"][other][one] = cosine
    figure = cosine_panels([inspection])
    assert figure is not None
    assert [panel["title"] for panel in figure["panels"]] == ["d, e", "c, e", "c, d", "b, e", "b, d", "b, c"]
    assert figure["panels"][0]["about"] == "mean \N{MINUS SIGN}0.40"
    assert f"Of 10 pairs of tasks the {MAX_PAIRS} with the lowest means are drawn" in figure["caption"]


def test_no_two_of_24_lines_look_alike() -> None:
    names = [f"expert {place}" for place in range(len(LINE_COLORS) * len(DASHES))]
    assert len(set(line_styles(names).values())) == 24
    assert line_styles([*names, "one more"])["one more"] == line_styles(names)["expert 0"]


def test_long_lines_are_thinned_to_means_and_keep_their_ends_in_words() -> None:
    styles = line_styles(["click"])
    few, many = (
        draw_lines("norm", {"click": {step: step % 7 + 1.0 for step in range(num_steps)}}, styles=styles)
        for num_steps in (MAX_LINE_POINTS, 100_000)
    )
    assert len(many) < 1.1 * len(few)
    assert "click from 1 at step 0 to 5 at step 99,999." in many


def test_a_line_of_one_step_is_a_dot() -> None:
    styles = line_styles(["click"])
    dot, line = (
        draw_lines("norm", {"click": dict.fromkeys(steps, 1.0)}, styles=styles, is_panel=True)
        for steps in ([50], [50, 100])
    )
    assert f"fill: {LINE_COLORS[0]}" in dot
    assert f"fill: {LINE_COLORS[0]}" not in line
