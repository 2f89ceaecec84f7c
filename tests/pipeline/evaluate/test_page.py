"""The page of a report opens offline, escapes what it shows, says in words what it draws and repeats byte for byte."""

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated_report import RANKED, make_history, make_inspections, make_report
from parsed_page import ParsedPage

from pipeline.evaluate.page.environment import TEMPLATES
from pipeline.evaluate.page.page import MAX_ALARMS, TITLES, render_html
from pipeline.evaluate.page.plots import MAX_TRAIN_POINTS, draw_calibration, draw_mean_weights, draw_training
from pipeline.evaluate.page.slices import MAX_PRINTED
from pipeline.evaluate.page.summary import verdict

HEADINGS = ("h1", "h2", "h3", "h4")


def render(folder: Path, report: dict[str, Any], *told: Any) -> ParsedPage:
    render_html(report, folder / "report.html", *(told or ([], [], None)))
    return ParsedPage(folder / "report.html")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> ParsedPage:
    return render(tmp_path_factory.mktemp("page"), make_report(), make_history(), make_inspections(), RANKED)


def test_the_page_asks_for_nothing_outside_itself(page: ParsedPage) -> None:
    assert {"iframe", "object", "embed", "img", "base", "form"}.isdisjoint(tag for tag, _ in page.tags)
    loading = {"src", "srcset", "href", "xlink:href", "action", "data", "poster", "background", "ping"}
    targets = [value or "" for _, attrs in page.tags for name, value in attrs.items() if name in loading]
    assert targets
    assert all(target.startswith("#") or target == "data:," for target in targets)
    assert "@import" not in page.source
    assert set(re.findall(r"url\((.)", page.source)) <= {"#"}


def test_only_the_pages_own_script_may_run(page: ParsedPage) -> None:
    (policy,) = [attrs["content"] or "" for tag, attrs in page.tags if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert page.source.count("<script") == 1
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_ids_are_unique_and_every_reference_is_met(page: ParsedPage) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    references = set(re.findall(r'(?:url\(|href="|aria-labelledby=")#?([^)":,]+)', page.source)) - {"data"}
    assert references
    assert references <= set(ids)


def test_headings_follow_each_other_and_table_headers_have_a_scope(page: ParsedPage) -> None:
    assert ("html", {"lang": "en"}) in page.tags
    levels = [HEADINGS.index(tag) for tag, _ in page.tags if tag in HEADINGS]
    assert levels.count(0) == 1
    assert all(later <= earlier + 1 for earlier, later in zip([-1, *levels], levels, strict=False))
    assert {attrs.get("scope") for tag, attrs in page.tags if tag == "th"} == {"col", "row"}


def test_every_section_is_in_the_contents(page: ParsedPage) -> None:
    contents = page.source.partition("<nav")[2].partition("</nav>")[0]
    linked = re.findall('<a href="#([a-z]+)">([^<]+)</a>', contents)
    assert linked == list(TITLES.items())
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == [name for name, _ in linked]


def test_every_plot_says_in_words_what_it_shows(page: ParsedPage) -> None:
    plots = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)
    alternatives = [(plot["aria-label"] or "").split(":")[0] for plot in plots]
    assert alternatives == [
        *(f"{metric} by slice" for metric in ("AUC of click", "MAE of watch", "AUC of reaction")),
        *(f"Difference in {metric} by slice" for metric in ("AUC of click", "MAE of watch", "AUC of reaction")),
        *(f"Calibration of {task}" for task in ("click", "like", "joint_like")),
        "Predictions of click by label",
        "Correlation of the predictions",
        "Importance of features for click",
        "Mean gate weight in level 1",
        "Entropy of the gates in level 1",
        "Similarity of the experts in level 1",
        "Mean gate weight of click in level 1 by slice",
        "Gate weights of click in level 1",
        "Gate weights of like in level 1",
        "Entropy of the gates in level 2",
        "Gate weights of click in level 2",
        "Gate weights of like in level 2",
        "Embedding tables",
        *(f"Loss of {task}" for task in ("click", "like", "all tasks")),
        "Norm of the gradients",
        "Weights of the losses",
        "Cosine of the gradients of click and like",
    ]
    for plot in plots:
        assert (plot["aria-label"] or "-") in page.text


def test_every_plot_stands_in_a_figure_under_a_caption(page: ParsedPage) -> None:
    captions = page.captions_of_plots
    assert len(captions) == page.source.count("<svg")
    assert all(re.fullmatch(r"[A-Z].+\.", caption.strip(), re.DOTALL) for caption in captions)


def test_the_summary_comes_first_and_marks_what_is_worse(page: ParsedPage) -> None:
    report = make_report()
    places = [page.text.index(sentence) for sentence in report["summary"]]
    assert places == sorted(places)
    assert places[-1] < page.text.index("What the metrics mean")
    click, watch = (report["tasks"][place]["metrics"] for place in (0, 3))
    assert click["auc"]["p_value"] < 0.05 > watch["mae"]["p_value"]
    verdicts = re.findall(r'<li class="(better|worse|)">(\w+): ', page.source)
    assert verdicts == [("worse", "click"), ("", "like"), ("", "joint_like"), ("better", "watch"), ("", "reaction")]
    assert f"{click['auc']['fraction_of_best']:.1%} of the way from chance to the best possible" in page.text
    assert "mean relative gain of the main metrics over the baseline +" in page.text
    assert "; significantly worse while others are better (seesaw): click" in page.text


def test_each_task_has_a_table_of_values_intervals_and_differences(page: ParsedPage) -> None:
    tables = page.tables("Metrics of ")
    assert list(tables) == ["click", "like", "joint_like", "watch", "reaction"]
    auc = make_report()["tasks"][0]["metrics"]["auc"]
    assert tables["click"][0] == [
        *("metric", "value", "95% interval", "best", "reached", "baseline", "difference", "95% interval", "p")
    ]
    assert tables["click"][1][:5] == [
        *("AUC", f"{auc['value']:.4f}", f"{auc['low']:.4f} to {auc['high']:.4f}", f"{auc['best']:.4f}"),
        f"{auc['fraction_of_best']:.1%}",
    ]
    assert tables["click"][1][6] == f"\N{MINUS SIGN}{-auc['difference']:.4f} worse"
    assert [row[0] for row in tables["like"]] == ["metric", "log loss", "calibration error"]
    assert "AUC, PR-AUC, normalised entropy: undefined, all labels are 0" in page.text
    assert "The chance that a random positive row" in page.text


@pytest.mark.parametrize(
    ("value", "baseline", "expected"),
    [(0.9, 0.8, "better"), (1.2, 1.1, "worse"), (1.1, 1.2, "better"), (0.95, 1.2, ""), (1.3, 0.9, "")],
)
def test_calibration_is_better_nearer_1_and_neither_on_the_other_side_of_it(
    value: float, baseline: float, expected: str
) -> None:
    cell = {"value": value, "baseline": baseline, "difference": value - baseline, "p_value": 0.001}
    assert verdict({"kind": "binary"}, "calibration", cell) == expected


def test_what_only_one_of_the_models_has_is_said_to_be_undefined_of_the_other(tmp_path: Path) -> None:
    report = make_report()
    click = report["tasks"][0]["metrics"]
    differences = dict.fromkeys(("difference", "difference_low", "difference_high", "p_value"))
    click["auc"] |= {"baseline": None, "baseline_reason": "3 predictions are not finite", **differences}
    click["log_loss"] |= {"value": None, "low": None, "high": None, "reason": "there is none", **differences}
    _, auc, _, log_loss, *_ = render(tmp_path, report).tables("Metrics of ")["click"]
    assert auc[5:] == ["undefined: 3 predictions are not finite"]
    assert log_loss[:2] == ["log loss", "undefined: there is none"]


def test_without_a_baseline_nothing_is_compared(tmp_path: Path) -> None:
    page = render(tmp_path, make_report(has_baseline=False))
    assert page.tables("Metrics of ")["watch"][0] == ["metric", "value", "95% interval"]
    assert "baseline" not in page.text.lower()


def test_the_worst_slice_comes_first_and_small_ones_last(page: ParsedPage) -> None:
    header, *rows = page.tables("Slices")[""]
    assert header[:5] == ["slice", "task", "main metric", "to all rows", "difference from the baseline"]
    of_click = [row for row in rows if row[1].startswith("click")]
    assert of_click[-1][0] == "nz small country"
    values = [float(row[2].split()[0]) for row in of_click[:-1]]
    assert len(values) == 3
    assert values == sorted(values)
    of_watch = [float(row[2].split()[0]) for row in rows if row[1].startswith("watch")][:-1]
    assert of_watch == sorted(of_watch, reverse=True)
    assert "worse" in of_click[0][4]


def test_a_slice_that_became_worse_comes_before_a_low_one(tmp_path: Path) -> None:
    report = make_report()
    slices = {one["value"]: one["tasks"]["click"]["metrics"]["auc"] for one in report["slices"]}
    large = sorted((name for name in slices if name != "nz"), key=lambda name: slices[name]["value"])
    for name in large[:2]:
        slices[name]["adjusted_p_value"] = 0.4
    _, *rows = render(tmp_path, report).tables("Slices")[""]
    assert [row[0].removesuffix(" day").removesuffix(" country") for row in rows[:3]] == [large[2], *large[:2]]


def test_the_importance_of_every_feature_is_in_a_table(page: ParsedPage) -> None:
    assert page.tables("Importance of features")[""] == [
        ["feature", "click: AUC 0.7000"],
        ["price numeric", "0.1000 ± 0.0196"],
    ]


def test_tables_of_embeddings_and_their_features_are_told(page: ParsedPage) -> None:
    _, user = page.tables("Embedding tables")[""]
    assert user == ["user", "90", "88", "2.3%", "0", "0", "0", "0.3", "0.2 to 0.5", "3.0 of 8"]
    _, values = page.tables("Values of features")[""]
    assert values == ["user", "user", "400", "1.0%", "\N{EN DASH}"]


def test_on_paper_there_are_the_first_slices_of_each_task(tmp_path: Path) -> None:
    report = make_report()
    report["slices"] = [{**report["slices"][0], "value": f"value {place}"} for place in range(MAX_PRINTED + 2)]
    page = render(tmp_path, report)
    later = [attrs for tag, attrs in page.tags if tag == "tr" and "later" in (attrs.get("class") or "").split()]
    assert len(later) == 2 * len([task for task in report["tasks"] if task["rows"]])
    assert f"On paper, the first {MAX_PRINTED} slices of each task." in page.text


def test_what_needs_attention_is_told_at_the_top_and_in_its_section(tmp_path: Path) -> None:
    report = make_report()
    report["diagnostics"]["alarms"] = ["level 1: experts say the same"]
    report["diagnostics"]["tables"][0]["not_finite_rows"] = 3
    page = render(tmp_path, report)
    top = page.text[: page.text.index("Intervals are 95%")]
    for line in (
        f"Summary: worse than the baseline: {report['summary'][0]}",
        "Summary: worse while other tasks are better, a seesaw: click",
        "Slices: slices that are significantly worse than the baseline: click in country br, and 2 more",
        "Experts: on the test split: level 1: experts say the same",
        "Experts: at the last inspection of the training, on one batch: level 1: expert 'expert 2' is dead",
        "Embedding tables: damaged rows: user: 3 rows hold values that are not finite",
        "Data: the data have grown since the training of the model: item: 12 of 800 values",
    ):
        assert line in top
    below = page.text[len(top) :]
    for line in (
        "level 1: expert 'expert 2' is dead",
        "user: 3 rows hold values that are not finite",
        "item: 12 of 800 values (1.5%) are newer than the model and count as unseen",
    ):
        assert line in below
    assert "user: 0 of" not in page.text


def test_of_many_alarms_the_first_are_shown(tmp_path: Path) -> None:
    many = make_report() | {"alarms": [f"alarm {place}." for place in range(MAX_ALARMS + 3)]}
    text = render(tmp_path, many).text
    assert f"alarm {MAX_ALARMS - 1}." in text
    assert f"alarm {MAX_ALARMS}." not in text
    assert "and 3 more" in text


def test_names_and_values_are_escaped(tmp_path: Path) -> None:
    name = '<b>"click" & $x$</b>'
    report = make_report(name)
    report["title"] = "<script>alert(1)</script>"
    ranked = {"columns": ["request_id", "<i>"], "rows": [["<u>", 0.5]]}
    report["alarms"] = ["<em>"]
    report["slices"][0]["value"] = report["slices"][0]["dimension"] = "<s>"
    page = render(tmp_path, report, make_history(name), make_inspections(name), ranked)
    assert {"b", "i", "u", "em", "s"}.isdisjoint(tag for tag, _ in page.tags)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert name in page.text


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    for file in ("first.html", "second.html"):
        render_html(make_report(), tmp_path / file, make_history(), make_inspections(), copy.deepcopy(RANKED))
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


def test_a_report_of_a_finished_table_has_no_more_sections_than_it_can_fill(tmp_path: Path) -> None:
    report = make_report(has_slices=False) | {"mixtures": {}, "alarms": [], "newer_values": {}}
    report["diagnostics"] = {name: report["diagnostics"][name] for name in ("scores", "correlations")}
    page = render(tmp_path, report)
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == ["summary", "predictions"]
    report["tasks"], report["diagnostics"] = report["tasks"][3:4], {}
    report["summary"] = report["summary"][3:4]
    bare = render(tmp_path, report)
    assert "svg" not in {tag for tag, _ in bare.tags}
    assert "watch" in bare.text


def test_the_last_finite_loss_of_a_step_is_drawn(tmp_path: Path) -> None:
    def record(step: int, loss: float) -> dict[str, Any]:
        return {"step": step, "epoch": 0, "kind": "train", "losses": {"click": loss}, "total": loss}

    history = [record(1, 0.9), record(2, 7.0), record(3, float("nan")), record(2, 0.5)]
    page = render(tmp_path, make_report(), history, [], None)
    assert "train ends at 0.5000 at step 2 and is lowest, 0.5000, at step 2." in page.source


def test_a_long_training_curve_is_thinned_to_means() -> None:
    losses = np.random.default_rng(0).random(100_000).tolist()
    few, many = (draw_training("click", dict(enumerate(losses[:n])), {}) for n in (MAX_TRAIN_POINTS, 100_000))
    assert len(many) < 1.2 * len(few)


def test_the_text_alternatives_carry_the_numbers_of_the_plots() -> None:
    bucket = {"rows": 10, "mean_prediction": 0.2, "mean_label": 0.3, "low": 0.1, "high": 0.4}
    miss = bucket | {"mean_prediction": 0.5}
    assert "2 buckets" in draw_calibration({"name": "click", "calibration_curve": [bucket, miss]})
    assert "in 1 of them" in draw_calibration({"name": "click", "calibration_curve": [bucket, miss]})
    weights = draw_mean_weights("mean gate weight", make_report()["mixtures"]["level 1"])
    assert "click: expert 0 0.50, expert 1 0.30, expert 2 0.20; like: expert 0 0.00, expert 1 1.00." in weights


def test_the_script_cannot_end_early() -> None:
    assert "</" not in (TEMPLATES / "page.js").read_text()
