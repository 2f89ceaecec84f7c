"""Every plot of the diagnostics is well-formed, says in words what it shows, and is the same each time."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipeline.evaluate.diagnostics.scores import ScoreDistribution
from pipeline.evaluate.page import diagnostic_plots
from pipeline.evaluate.page.diagnostic_plots import (
    MAX_FEATURES,
    draw_importance,
    draw_matrix,
    draw_scores,
    draw_slice_weights,
    draw_tables,
)
from pipeline.evaluate.page.plots import BLUE, INK, LINE_COLORS, MUTED, ORANGE, PALE, draw_mean_weights

SVG = "{http://www.w3.org/2000/svg}"


def words_of(svg: str) -> str:
    """The text alternative of a plot, which begins with its tooltip."""
    root = ET.fromstring(svg)
    assert root.attrib["role"] == "img"
    (title,) = root.findall(f"{SVG}title")
    assert root.attrib["aria-label"].startswith(f"{title.text}: ")
    return root.attrib["aria-label"]


def loss(worsening: float | None, error: float | None) -> dict[str, Any]:
    metric = {"worsening": worsening, "standard_error": error, "relative": worsening}
    return {"tasks": {"click": {"metric": metric, "log_loss": metric}}}


def make_importance(num_features: int) -> dict[str, Any]:
    features = [{"name": f"feature_{place}", **loss(0.1 / (place + 1), 0.01)} for place in range(num_features)]
    return {"tasks": {"click": {"metric": "auc"}}, "features": features}


def make_table(name: str, rows: int, untrained: int | None, low: float | None) -> dict[str, Any]:
    norms = {"5": low, "50": low and 3 * low, "95": low and 10 * low}
    return {"name": name, "rows": rows, "used_rows": rows - 2, "untrained_rows": untrained, "norms": norms}


def make_scores(positives: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    label = np.arange(400) < positives
    return ScoreDistribution.of(1 / (1 + np.exp(-rng.normal(size=400))), label.astype(float)).describe()


MATRIX: list[list[float | None]] = [
    [1.0, 0.5, None, -0.25],
    [0.5, 1.0, None, 0.75],
    [None, None, None, None],
    [-0.25, 0.75, None, 1.0],
]
LEVEL = {
    "experts": ["expert 0", "expert 1"],
    "mean_weight": {"click": [0.5, 0.5], "like": [1.0, None]},
    "slices": [
        {"dimension": "day", "value": "a & b", "rows": 9, "mean_weight": {"click": [0.4, 0.6], "like": [1.0, None]}},
        {"dimension": "day", "value": "c", "rows": 9, "mean_weight": {"click": [0.9, 0.1], "like": [1.0, None]}},
    ],
}
PLOTS: dict[str, Callable[[], str]] = {
    "importance": lambda: draw_importance("click", make_importance(5)),
    "tables": lambda: draw_tables([make_table("user", 500, 20, 0.2), make_table("<item>", 90, None, 0.1)]),
    "scores": lambda: draw_scores("click", make_scores(100)),
    "matrix": lambda: draw_matrix("correlation", ["a", "b", "c", "d"], MATRIX),
    "slices": lambda: draw_slice_weights("experts", "click", LEVEL),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_well_formed_says_what_it_shows_and_repeats(name: str) -> None:
    svg = PLOTS[name]()
    assert len(words_of(svg)) > 40
    assert "nan" not in svg
    assert PLOTS[name]() == svg


def test_importance_shows_the_first_features_with_what_is_lost_without_them() -> None:
    words = words_of(draw_importance("click", make_importance(MAX_FEATURES + 3)))
    assert words.startswith("Importance of features for click: AUC lost: feature_0 0.1 ± 0.02; feature_1 0.05 ± 0.02;")
    assert f"feature_{MAX_FEATURES - 1} " in words
    assert f"feature_{MAX_FEATURES} " not in words


def test_importance_that_is_not_defined_is_said_to_be_so() -> None:
    importance = make_importance(1)
    importance["features"].append({"name": "other", **loss(None, None)})
    svg = draw_importance("click", importance)
    assert "other not defined" in words_of(svg)
    assert "nan" not in svg


def test_tables_show_what_is_known_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostic_plots, "MAX_TABLES", 3)
    tables = [
        make_table("tiny", 5, 0, 0.1),
        make_table("user", 502, 125, 0.2),
        make_table("item", 90, None, 0.1),
        make_table("unused", 80, 78, None),
    ]
    assert words_of(draw_tables(tables)) == (
        "Embedding tables: user: 502 rows, 75.0% trained, norms 0.2 to 2, median 0.6; "
        "item: 90 rows, not known how many were trained, norms 0.1 to 1, median 0.3; unused: 80 rows, 0.0% trained."
    )


@pytest.mark.parametrize(
    ("positives", "labels"), [(100, ["negative", "positive"]), (0, ["negative"]), (400, ["positive"])]
)
def test_scores_show_the_labels_that_there_are(positives: int, labels: list[str]) -> None:
    words = words_of(draw_scores("click", make_scores(positives)))
    assert [label for label in ("negative", "positive") if f" {label} rows" in words] == labels


def test_scores_in_the_outermost_bins_are_drawn() -> None:
    scores = ScoreDistribution.of(np.array([0.0, 1.0, 1.0, 0.5]), np.array([0.0, 1.0, 1.0, 0.0])).describe()
    assert "half of the 2 positive rows" in words_of(draw_scores("click", scores))


def test_a_matrix_shows_each_pair_once_and_no_name_without_a_pair() -> None:
    svg = draw_matrix("correlation", ["a", "b", "c", "d"], MATRIX)
    minus = "\N{MINUS SIGN}"
    assert words_of(svg) == f"Correlation: b and a +0.50; d and a {minus}0.25; d and b +0.75."
    assert {text.text for text in ET.fromstring(svg).iter(f"{SVG}text")} & set("abcd") == set("abd")


def test_the_slice_that_differs_most_comes_after_all_rows() -> None:
    words = words_of(draw_slice_weights("experts", "click", LEVEL))
    assert words.index("all rows: ") < words.index("day: c: ") < words.index("day: a & b: ")
    assert words_of(draw_slice_weights("experts", "like", LEVEL)).endswith("day: c: expert 0 1.00.")


def luminance(color: str) -> float:
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    """As the Web Content Accessibility Guidelines 2.2 define it."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_lines_and_dots_stand_out_from_white_and_text_more() -> None:
    assert min(contrast(color, "#ffffff") for color in (*LINE_COLORS, PALE)) >= 3
    assert min(contrast(color, "#ffffff") for color in (INK, MUTED, BLUE, ORANGE)) >= 4.5


def test_numbers_can_be_read_on_every_cell() -> None:
    weights = {"tasks": ["click"], "experts": list("abcdef"), "mean_weight": [[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]]}
    pairs = [None, -1.0, -0.5, 0.5, 1.0]
    matrix = [pairs, *([value, None, None, None, None] for value in pairs[1:])]
    for svg, num_cells in (
        (draw_mean_weights("weights", weights), 6),
        (draw_matrix("pairs", list("abcde"), matrix), 4),
    ):
        cells = set(re.findall(r"fill: (#[0-9a-f]{6})", svg)) - {INK, MUTED, "#ffffff"}
        assert len(cells) >= num_cells - 1
        assert min(contrast(INK, cell) for cell in cells) >= 4.5
