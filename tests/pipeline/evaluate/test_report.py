"""The report holds what was measured, and its page opens offline, escapes what it shows and repeats byte for byte."""

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.evaluate.metrics import Predictions
from pipeline.evaluate.page import MAX_ALARMS, render_html
from pipeline.evaluate.plots import MAX_TRAIN_POINTS, draw_bars, draw_calibration, draw_mean_weights, draw_training
from pipeline.evaluate.report import build_report, measure_task, summary_rows, write_report_json

VOID = {"meta", "link", "br", "hr", "img", "input"}
RANKED = {"columns": ["request_id", "rank", "item_id", "score"], "rows": [["r1", 1, 7, 0.25], ["r2", 1, None, 0.5]]}


class Page(HTMLParser):
    """Reads a page, and fails on an element that is not closed where it should be."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def make_report(click: str = "click") -> dict[str, Any]:
    rng = np.random.default_rng(0)
    truth = rng.random(400)
    label = (rng.random(400) < truth).astype(float)
    users = rng.integers(0, 20, 400)
    prediction = np.clip(truth + rng.normal(0, 0.2, 400), 0, 1)
    own = label == 1
    class_truth = np.stack([truth / 2, truth / 2, 1 - truth], axis=1)
    return build_report(
        title="Evaluation of a small run",
        split="test",
        num_rows=400,
        checkpoint_step=1200,
        checkpoint_path="run/checkpoints/1200",
        schema_fingerprint="0123456789abcdef" * 4,
        tasks=[
            measure_task(click, "binary", Predictions(prediction, label, users, truth)),
            measure_task("like", "binary", Predictions(prediction[own], np.zeros(own.sum())), space=click),
            measure_task("joint_like", "binary", Predictions(prediction, label), space=click, scope="all impressions"),
            measure_task("watch", "regression", Predictions(9 * prediction[own], 9 * truth[own]), space=click),
            measure_task("stay", "watch_time", Predictions(9 * prediction, 9 * truth)),
            measure_task("reaction", "multiclass", Predictions(class_truth, 2 - 2 * label, users, class_truth)),
        ],
        mixtures={
            "level 1": {
                "tasks": [click, "like"],
                "experts": ["expert 0", "expert 1", "expert 2"],
                "mean_weight": [[0.5, 0.3, 0.2], [0.0, 1.0, None]],
            }
        },
        alarms=["level 1: expert 'expert 2' is dead"],
        newer_values={"item": {"values": 800, "newer": 12}, "user": {"values": 400, "newer": 0}},
    )


def make_history(click: str = "click") -> list[dict[str, Any]]:
    return [
        {"step": step, "epoch": 0, "kind": kind, "losses": {click: 1 / step, "like": 2 / step}, "total": 3 / step}
        for kind, steps in (("train", range(1, 500)), ("validation", (250, 499)))
        for step in steps
    ]


def make_inspections(click: str = "click") -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "epoch": 0,
            "mixtures": {
                level: {
                    "experts": ["expert 0", "expert 1", "expert 2"],
                    "mean_weight": {click: [0.5, 0.3, 0.2], "like": [step / 500, 1 - step / 500, None]},
                    "entropy": {click: 0.9, "like": 0.4},
                    "similarity": [[1.0, 0.1, 0.0], [0.1, 1.0, 0.2], [0.0, 0.2, 1.0]],
                }
                for level in ("level 1", "level 2")
            },
            "alarms": [],
            "gradients": {"norm": {click: 0.1, "like": 0.2}, "cosine": [[1.0, -0.25], [-0.25, 1.0]]},
            "weights": {"loss": {click: 1.0, "like": 0.5}, "shared": {click: 1.0, "like": 1.0}},
        }
        for step in range(50, 500, 50)
    ]


@pytest.fixture
def page(tmp_path: Path) -> Page:
    render_html(make_report(), tmp_path / "report.html", make_history(), make_inspections(), RANKED)
    return Page(tmp_path / "report.html")


def test_report_json_reads_back_equal_and_leaves_no_other_file(tmp_path: Path) -> None:
    report = make_report()
    write_report_json(report, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == report
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert report["report_version"] == 2


def test_a_task_section_names_its_space_and_counts_its_rows() -> None:
    click, like, joint, watch, stay, reaction = make_report()["tasks"]
    assert (click["space"], click["scope"], click["rows"]) == (None, "own space", 400)
    assert (like["space"], like["scope"], like["rows"], like["positives"]) == (
        "click",
        "own space",
        click["positives"],
        0,
    )
    assert (joint["name"], joint["scope"], joint["rows"]) == ("joint_like", "all impressions", 400)
    assert (watch["positives"], watch["calibration_curve"]) == (None, [])
    assert (stay["kind"], list(stay["metrics"])) == ("watch_time", list(watch["metrics"]))
    assert (reaction["positives"], reaction["calibration_curve"]) == (None, [])
    assert list(reaction["metrics"]) == ["auc", "log_loss", "normalised_entropy", "accuracy"]
    assert set(click["metrics"]["auc"]) == {"value", "reason", "best", "fraction_of_best"}


def test_a_failed_write_keeps_the_old_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report_json(make_report(), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_report_json({"value": float("nan")}, path)
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_summary_rows_mark_what_is_undefined_and_what_does_not_apply() -> None:
    report = make_report()
    headers, rows = summary_rows(report)
    click, like, joint, watch, stay, reaction = (dict(zip(headers, row, strict=True)) for row in rows)
    assert headers[:7] == ["task", "measured on", "rows", "positives", "AUC", "best", "reached"]
    auc = report["tasks"][0]["metrics"]["auc"]
    assert (click["AUC"], click["best"]) == (f"{auc['value']:.4f}", f"{auc['best']:.4f}")
    assert click["reached"] == f"{auc['fraction_of_best']:.1%}"
    assert (click["measured on"], like["measured on"]) == ("all impressions", "rows with click")
    assert joint["measured on"] == "all impressions"
    assert (like["AUC"], like["best"], like["MAE"]) == ("\N{EN DASH}", "\N{EN DASH}", "")
    assert (watch["AUC"], watch["positives"], watch["R²"] != "") == ("", "", True)
    assert (stay["AUC"], stay["MAE"] != "", stay["accuracy"]) == ("", True, "")
    assert (reaction["positives"], reaction["reached"], reaction["GAUC"]) == ("", "100.0%", "")
    assert reaction["accuracy"] == f"{report['tasks'][-1]['metrics']['accuracy']['value']:.4f}"


def test_summary_rows_have_no_best_where_no_truth_is_known() -> None:
    report = make_report()
    report["tasks"] = report["tasks"][1:3]
    headers, rows = summary_rows(report)
    assert "best" not in headers
    assert all(len(row) == len(headers) for row in rows)


def test_the_page_asks_for_nothing_outside_itself(page: Page) -> None:
    assert {"script", "iframe", "object", "embed", "img", "base", "form"}.isdisjoint(tag for tag, _ in page.tags)
    loading = {"src", "srcset", "href", "xlink:href", "action", "data", "poster", "background", "ping"}
    targets = [value or "" for _, attrs in page.tags for name, value in attrs.items() if name in loading]
    assert targets
    assert all(target.startswith(("#", "data:")) for target in targets)
    assert "@import" not in page.source
    assert set(re.findall(r"url\((.)", page.source)) <= {"#"}


def test_ids_are_unique_and_every_reference_is_met(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    references = set(re.findall(r'(?:url\(|href=")#([^)"]+)', page.source))
    assert references
    assert references <= set(ids)


def test_every_plot_has_a_text_alternative(page: Page) -> None:
    plots = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)
    alternatives = [(plot["aria-label"] or "").split(":")[0] for plot in plots]
    assert alternatives == [
        *(f"Calibration of {task}" for task in ("click", "like", "joint_like")),
        *(f"Loss of {task}" for task in ("click", "like", "all tasks")),
        "Mean gate weight in level 1",
        "Entropy of the gates in level 1",
        "Gate weights of click in level 1",
        "Gate weights of like in level 1",
        "Entropy of the gates in level 2",
        "Gate weights of click in level 2",
        "Gate weights of like in level 2",
        "Norm of the gradients",
        "Weights of the losses",
        "Cosine of the gradients of click and like",
    ]


def test_every_plot_stands_in_a_figure_with_a_caption(page: Page) -> None:
    figures = re.findall(r"<figure.*?</figure>", page.source, re.DOTALL)
    assert sum(figure.count("<svg") for figure in figures) == page.source.count("<svg")
    assert all(re.search(r"<figcaption>[A-Z][^<]+\.</figcaption>", figure) for figure in figures)


def test_each_kind_of_task_has_a_table_that_explains_its_metrics(page: Page) -> None:
    captions = re.findall("<caption>(.*?)</caption>", page.source)
    assert captions == ["Binary tasks", "Multiclass tasks", "Regression tasks", "Watch time tasks"]
    assert "averaged over the classes that occur" in page.text
    assert "The chance that a random positive row" in page.text


def test_the_alarms_of_the_last_inspection_are_shown_in_words(tmp_path: Path) -> None:
    render_html(make_report(), tmp_path / "report.html", [], [], None)
    assert "level 1: expert 'expert 2' is dead" in Page(tmp_path / "report.html").text
    many = make_report() | {"alarms": [f"alarm {place}." for place in range(MAX_ALARMS + 3)]}
    render_html(many, tmp_path / "report.html", [], [], None)
    text = Page(tmp_path / "report.html").text
    assert f"alarm {MAX_ALARMS - 1}." in text
    assert f"alarm {MAX_ALARMS}." not in text
    assert "and 3 more, which report.json lists" in text


def test_the_page_says_why_a_metric_is_undefined(page: Page) -> None:
    assert "all labels are 0" in page.text
    assert "the rows have no user key" in page.text
    assert "\N{EN DASH}" in page.text


def test_names_and_values_are_escaped(tmp_path: Path) -> None:
    name = '<b>"click" & $x$</b>'
    report = make_report(name)
    report["title"] = "<script>alert(1)</script>"
    ranked = {"columns": ["request_id", "<i>"], "rows": [["<u>", 0.5]]}
    report["alarms"] = ["<em>"]
    render_html(report, tmp_path / "report.html", make_history(name), make_inspections(name), ranked)
    page = Page(tmp_path / "report.html")
    assert {"b", "i", "u", "em", "script"}.isdisjoint(tag for tag, _ in page.tags)
    assert name in page.text


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    for file in ("first.html", "second.html"):
        render_html(make_report(), tmp_path / file, make_history(), make_inspections(), copy.deepcopy(RANKED))
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


def test_a_page_with_only_a_summary_renders(tmp_path: Path) -> None:
    report = make_report() | {"mixtures": {}, "alarms": []}
    report["tasks"] = [task for task in report["tasks"] if task["kind"] == "regression"]
    render_html(report, tmp_path / "report.html", [], [], None)
    page = Page(tmp_path / "report.html")
    assert "svg" not in {tag for tag, _ in page.tags}
    assert re.findall("<h2>(.*?)</h2>", page.source) == ["Summary"]
    assert "watch" in page.text


def test_the_last_finite_loss_of_a_step_is_drawn(tmp_path: Path) -> None:
    def record(step: int, loss: float) -> dict[str, Any]:
        return {"step": step, "epoch": 0, "kind": "train", "losses": {"click": loss}, "total": loss}

    history = [record(1, 0.9), record(2, 7.0), record(3, float("nan")), record(2, 0.5)]
    render_html(make_report(), tmp_path / "report.html", history, [], None)
    assert "train ends at 0.5000 at step 2 and is lowest, 0.5000, at step 2." in Page(tmp_path / "report.html").source


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


def make_statistics(name: str = "price", text: str = "york") -> dict[str, Any]:
    """As preprocessing wrote it before there were profiles: a numeric, a categorical, a hashed and a list feature."""
    by_split = {"train": 100, "validation": 10, "test": 10}
    none = dict.fromkeys(by_split, 0)
    unseen = {"train": 0.0, "validation": 0.25, "test": 0.5}
    sparse = {"values": by_split, "nulls": none | {"train": 4}, "unseen_fraction": unseen}
    lists = {"values": by_split, "nulls": none, "unseen_fraction": unseen, "null_lists": none | {"train": 7}}
    return {
        "rows": by_split,
        "features": {
            name: {"kind": "numeric", "nulls": none | {"train": 20}, "non_finite": none | {"train": 3}},
            "city": {"kind": "categorical", "table": "city", **sparse},
            "bucket": {"kind": "categorical", "table": "bucket", **sparse},
            "seen": {"kind": "history", "table": "city", "empty_lists": none | {"train": 9}, **lists},
        },
        "tables": {"city": {"rows": 5, "distinct_values": 3}, "bucket": {"rows": 10}},
        "tasks": {
            "click": {"rows": by_split, "mean": unseen | {"test": None}},
            "mood": {"rows": by_split | {"test": 0}, "classes": {text: by_split, "cold": none}},
        },
    }


def make_rich_statistics(name: str = "price", text: str = "york") -> dict[str, Any]:
    """The same with profiles, top values, drift and a quarantine."""
    statistics = make_statistics(name, text)
    quantiles = {"0": -2.5, "5": 0.0, "50": 1.0, "95": 1234.5, "100": 1e9}
    histogram = {"edges": [0.5, 1.5], "counts": [70, 0, 7]}
    profile = {"quantiles": quantiles, "histogram": histogram, "distinct": None, "distinct_in_sample": 50}
    statistics["features"][name]["profile"] = {"train": profile}
    statistics["features"]["seen"]["lengths"] = {"train": {"mean": 2.25, "quantiles": {"100": 9}}}
    statistics["tables"]["city"] |= {"num_values": 80, "top_values": [[text, 40], ["b" * 99, 20], ["", 10], ["d", 1]]}
    index = {"of": "feature", "name": name, "measure": "population stability index", "before": None, "now": None}
    rate = {"of": "task", "name": "click", "measure": "change of the mean label", "before": 0.1, "now": 0.2}
    statistics["drift"] = {
        "previous": "old/dataset",
        "findings": [
            {**index, "value": 0.75, "threshold": 0.25, "is_over": True, "reason": None},
            {**rate, "value": 1.0, "threshold": 0.25, "is_over": True, "reason": None},
            {**index, "name": "city", "value": None, "threshold": 0.25, "is_over": False, "reason": "too few"},
        ],
    }
    reasons = [{"reason": f"column {name!r} is below 0", "rows": 12, "first": f"{text!r} in log.csv, row 7"}]
    statistics["quarantine"] = {"rows": 1200, "quarantined": 12, "reasons": reasons}
    return statistics


def render_data(folder: Path, statistics: dict[str, Any]) -> tuple[Page, list[list[str]]]:
    """The page, and the cells of its table of features as text."""
    report = make_report() | {"tasks": [], "mixtures": {}, "alarms": []}
    render_html(report, folder / "report.html", [], [], None, statistics)
    page = Page(folder / "report.html")
    table = page.source[page.source.index('<table class="features">') :].partition("</table>")[0]
    rows = [re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL) for row in table.split("<tr>")[1:]]
    plain = [[re.sub("<title>.*?</title>", "", cell) for cell in row] for row in rows]
    return page, [[" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in row] for row in plain]


def test_the_data_section_shows_what_statistics_without_profiles_have(tmp_path: Path) -> None:
    page, rows = render_data(tmp_path, make_statistics())
    assert rows == [
        ["feature", "values", "null", "distinct", "unseen train", "unseen validation", "unseen test"],
        ["price numeric", "77", "20.0% 3 not finite", "\N{EN DASH}", "", "", ""],
        ["city categorical", "96", "4.0%", "3", "0.0%", "25.0%", "50.0%"],
        ["bucket categorical", "96", "4.0%", "hashed", "", "", ""],
        ["seen history", "100", "7.0% 9.0% empty", "3", "0.0%", "25.0%", "50.0%"],
    ]
    assert "rift" not in page.text
    assert "quarantine" not in page.text
    labels = page.source[page.source.index("<caption>Labels</caption>") :]
    assert re.findall(r"<td.*?>(.*?)</td>", labels) == [
        *("100", "0.0000", "10", "0.2500", "10", "\N{EN DASH}"),
        *("100", "york 100.0%<br>cold 0.0%", "10", "york 100.0%<br>cold 0.0%", "0", "\N{EN DASH}"),
    ]


def test_the_data_section_says_what_is_newer_than_the_model(tmp_path: Path) -> None:
    page, _ = render_data(tmp_path, make_statistics())
    assert "item: 12 of 800 values (1.5%) are newer than the model and count as unseen" in page.text
    assert "user: " not in page.text


def test_the_data_section_shows_profiles_and_drift(tmp_path: Path) -> None:
    page, rows = render_data(tmp_path, make_rich_statistics())
    headers, *features = rows
    price, city, bucket, seen = (dict(zip(headers, row, strict=True)) for row in features)
    shown = "quantiles or top values"
    assert (price["distinct"], price["drift"]) == ("≥ 50", "0.7500")
    assert price[shown] == "0 % -2.5 5 % 0 50 % 1 95 % 1.23e+03 100 % 1e+09"
    assert (city[shown], city["drift"]) == (f"york 50.0% {'b' * 23}… 25.0% (empty) 12.5%", "\N{EN DASH}")
    assert (bucket[shown], bucket["drift"]) == ("", "")
    assert seen[shown].endswith("table of city, 2.2 per row, at most 9")
    alternatives = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"][-3:]
    assert alternatives[0] == "Distribution of price: from -2.5 to 1e+09, the median is 1."
    values = f"york 50.0%, {'b' * 23}… 25.0%, (empty) 12.5%"
    assert alternatives[1] == f"Values of city: the most frequent values are {values}."
    notices = re.findall(r"<li>(.*?)</li>", page.source[page.source.index("Drift from old/dataset:") :])
    assert notices[:3] == [
        "feature &#39;price&#39;: population stability index is 0.75, above 0.25",
        "task &#39;click&#39;: change of the mean label is 1, above 0.25, from 0.1 to 0.2",
        "column &#39;price&#39; is below 0: 12 rows, the first &#39;york&#39; in log.csv, row 7",
    ]
    assert "12 of 1,200 rows are left out, in quarantine:" in page.text


def test_a_dataset_without_drift_says_so(tmp_path: Path) -> None:
    statistics = make_rich_statistics()
    calm = [{**finding, "is_over": False} for finding in statistics["drift"]["findings"]]
    statistics["drift"]["findings"] = calm
    page, _ = render_data(tmp_path, statistics)
    assert (
        "No drift from old/dataset: 2 comparisons, none above its threshold; 1 could not be made, and statistics.json "
        "says why." in page.text
    )


def test_names_and_values_of_the_data_are_escaped(tmp_path: Path) -> None:
    page, _ = render_data(tmp_path, make_rich_statistics('<b>"x" & $y$</b>', "<i>&"))
    assert {"b", "i"}.isdisjoint(tag for tag, _ in page.tags)
    assert page.text.count("<i>&") >= 3


def test_a_bar_that_is_not_empty_is_visible() -> None:
    path = draw_bars("counts", [1_000_000, 0, 1], "two bars").partition(' d="')[2]
    assert path.count("M") == 2
    assert "M24.00 28v-1.00h" in path
    assert draw_bars("counts", [0, 0], "none").count("M") == 0
