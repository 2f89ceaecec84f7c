"""What a person reads of a search: the sentences, the table of the terminal, and the page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fabricated_trials import PARAMETERS, constraints_of, outcome_of, report_of, set_by

# isort: split
# Found by way of fabricated_trials.
from headless_chromium import CHROMIUM, OpenPage
from parsed_page import ParsedPage
from test_browser_page import LOW_CONTRAST

from pipeline.evaluate.page.plots import words_of
from pipeline.tune.form import TuneReport
from pipeline.tune.page import draw_parameter, render_tune
from pipeline.tune.summary import best_rows, describe_best, format_gain, short_names

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
RATE, EXPERTS, BALANCER = PARAMETERS
BASE = {"click": 0.8, "watch": 20.0}


def searched() -> TuneReport:
    """Trial 3 would be the best one without the constraint, and trial 2 is."""
    values = [0.8, 0.79, 0.82, 0.88, 0.81]
    outcomes = [
        outcome_of({"click": click, "watch": 20.6 if number == 3 else 20.0}, **set_by(0.001 * 2**number, 1 + number))
        for number, click in enumerate(values)
    ]
    outcomes.append(outcome_of({}, failed="the loss is not a number. Lower the rates.", **set_by(0.1)))
    return report_of(outcomes, constraints_of(watch={"max_loss": "1%"}), wanted=9)


def test_the_sentences_say_what_the_best_gains_task_by_task_and_which_constraint_bound() -> None:
    report = searched()
    assert report.best == 2
    assert report.ranking == [2, 4, 0, 1, 3, 5]
    assert report.summary == [
        "trial 2 is the best of 6: click AUC 0.8200, +2.50% over 0.8000; watch MAE 20.00, 0.00% over 20.00",
        "watch max_loss 1% kept out trial 3 (objective +3.50%) with a higher objective than +1.25%",
    ]
    assert report.notes == [
        "the best of 6 trials looks better than it is on the validation split, where it was chosen; to measure it on "
        "test: gatehouse evaluate --config run/tune/trials/2/config.resolved.yaml",
        "the space holds 6 configurations that differ, fewer than the 9 trials asked for",
        "trial 5 failed: the loss is not a number. Lower the rates.",
    ]


def test_where_nothing_is_better_or_nothing_is_feasible_that_is_said() -> None:
    worse = [outcome_of(BASE), outcome_of({"click": 0.7, "watch": 20.0}, **set_by(0.1))]
    report = report_of(worse)
    assert report.best == 0
    assert report.summary == [
        "none of 2 trials is better than the configuration as it stands: click AUC 0.8000; watch MAE 20.00"
    ]
    assert report.notes == []
    report = report_of(worse, constraints_of(click={"min": 0.9}))
    assert report.best is None
    assert report.summary == [
        "no trial keeps the constraints; trial 0 is the nearest: click: AUC is 0.8000, below 0.9000"
    ]
    report = report_of([outcome_of({}, failed="it diverged."), *worse])
    assert report.summary == ["no trial is feasible; trial 0: failed: it diverged."]


def test_a_constraint_that_kept_nothing_out_is_said_to_have_not() -> None:
    assert report_of([outcome_of(BASE)], constraints_of(click={"min": 0.1})).summary[1:] == [
        "no constraint kept out a trial with a higher objective"
    ]


def test_the_terminal_shows_the_best_five_and_trial_0_with_short_names() -> None:
    report = report_of(
        [
            outcome_of({"click": 0.8 + 0.01 * n, "watch": 20.0}, **(set_by(0.01 * n, n, "pcgrad") if n else {}))
            for n in range(8)
        ]
    )
    headers, rows = best_rows(report)
    assert headers == ["trial", "", "objective", "click AUC", "watch MAE", "learning_rate", "num_experts", "balancer"]
    assert [row[0] for row in rows] == ["7", "6", "5", "4", "3", "as it stands"]
    assert rows[0] == ["7", "best", "+4.38%", "0.8700", "20.00", "0.07", "7", "pcgrad"]
    assert rows[-1] == ["as it stands", "", "0.00%", "0.8000", "20.00", "", "", ""]
    assert short_names(["a.rate", "b.rate", "b.size", "rate"]) == ["a.rate", "b.rate", "size", "rate"]


def test_the_best_so_far_is_a_feasible_one() -> None:
    report = searched()
    assert describe_best(report.trials) == ", best so far 2 (+1.25%)"
    assert describe_best(report.trials[:1]) == ", best so far as it stands (0.00%)"
    assert describe_best([report.trials[3]]) == describe_best([]) == ""
    assert [format_gain(gain) for gain in (None, 0.0, 0.0123, -0.5)] == ["–", "0.00%", "+1.23%", "−50.00%"]  # noqa: RUF001


def test_the_page_has_a_row_for_each_trial_the_best_first(tmp_path: Path) -> None:
    report = searched()
    render_tune(report, tmp_path / "tune.html")
    page = ParsedPage(tmp_path / "tune.html")
    header, *rows = page.tables("")["Trials"]
    assert header[:4] == ["trial", "objective", "click AUC", "watch MAE"]
    assert [row[0] for row in rows] == ["2 best", "4", "as it stands", "1", "3 not feasible", "5 failed"]
    assert rows[0][1:4] == ["+1.25%", "0.8200 +2.50%", "20.00 0.00%"]
    assert rows[4][-1] == "watch: MAE loses 0.6000, more than 0.2000"
    assert rows[5][-1] == "failed: the loss is not a number. Lower the rates."
    text = " ".join(page.text.split())
    assert all(sentence in text for sentence in [*report.summary, *report.notes])
    assert "6, 4 feasible, 1 failed" in text
    assert "train.dense_optimizer.learning_rate: 0.004" in text
    assert {"script", "img"}.isdisjoint(tag for tag, _ in page.tags)
    render_tune(report, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "tune.html").read_bytes()


def test_each_parameter_has_a_plot_that_says_what_it_shows(tmp_path: Path) -> None:
    report = searched()
    assert words_of(draw_parameter(report, RATE)) == (
        f"Objective against {RATE}: 0.004 +1.25% (best); 0.016 +0.63%; 0.001 0.00% (as it stands); 0.002 "
        "\N{MINUS SIGN}0.63%; 0.008 +3.50% (not feasible)."
    )
    render_tune(report, tmp_path / "tune.html")
    assert ParsedPage(tmp_path / "tune.html").source.count("<svg ") == 3


def test_a_value_that_a_range_cannot_hold_is_drawn_on_an_axis_of_values() -> None:
    values: list[dict[str, Any]] = [{RATE: None}, {RATE: 0.01}, {RATE: 0.02}]
    outcomes = [outcome_of(BASE, **one) for one in values]
    assert "null 0.00%" in words_of(draw_parameter(report_of(outcomes), RATE))


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    values: dict[str, Any] = {RATE: 0.1, EXPERTS: 1, BALANCER: {"kind": hostile}}
    outcomes = [outcome_of(BASE, **values), outcome_of({}, failed=hostile, **values), outcome_of(BASE, **values)]
    render_tune(report_of(outcomes).model_copy(update={"title": hostile}), tmp_path / "tune.html")
    page = ParsedPage(tmp_path / "tune.html")
    assert hostile in page.text
    assert "script" not in {tag for tag, _ in page.tags}


@pytest.fixture(scope="module", params=[1200, 390])
def opened(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[OpenPage]:
    path = tmp_path_factory.mktemp("tune") / "tune.html"
    render_tune(searched(), path)
    with OpenPage(path, width_pixels=request.param) as page:
        yield page


@pytest.mark.browser
@in_browser
def test_in_a_browser_the_page_is_quiet_legible_and_no_wider_than_the_screen(opened: OpenPage) -> None:
    assert len({one for one in opened.requests if not one.startswith("data:")}) == 1
    assert opened.errors == []
    assert opened.evaluate(LOW_CONTRAST) == []
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
