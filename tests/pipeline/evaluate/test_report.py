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
from pipeline.evaluate.plots import MAX_TRAIN_POINTS, draw_calibration, draw_gates, draw_training
from pipeline.evaluate.report import build_report, measure_task, render_html, summary_rows, write_report_json

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
        ],
        gates={
            "tasks": [click, "like"],
            "experts": ["expert 0", "expert 1", "expert 2"],
            "mean_weight": [[0.5, 0.3, 0.2], [0.0, 1.0, None]],
        },
    )


def make_history(click: str = "click") -> list[dict[str, Any]]:
    return [
        {"step": step, "epoch": 0, "kind": kind, "losses": {click: 1 / step, "like": 2 / step}, "total": 3 / step}
        for kind, steps in (("train", range(1, 500)), ("validation", (250, 499)))
        for step in steps
    ]


@pytest.fixture
def page(tmp_path: Path) -> Page:
    render_html(make_report(), tmp_path / "report.html", make_history(), RANKED)
    return Page(tmp_path / "report.html")


def test_report_json_reads_back_equal_and_leaves_no_other_file(tmp_path: Path) -> None:
    report = make_report()
    write_report_json(report, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == report
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert report["report_version"] == 1


def test_a_task_section_names_its_space_and_counts_its_rows() -> None:
    click, like, joint, watch = make_report()["tasks"]
    assert (click["space"], click["scope"], click["rows"]) == (None, "own space", 400)
    assert (like["space"], like["scope"], like["rows"], like["positives"]) == (
        "click",
        "own space",
        click["positives"],
        0,
    )
    assert (joint["name"], joint["scope"], joint["rows"]) == ("joint_like", "all impressions", 400)
    assert (watch["positives"], watch["calibration_curve"]) == (None, [])
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
    click, like, joint, watch = (dict(zip(headers, row, strict=True)) for row in rows)
    assert headers[:7] == ["task", "measured on", "rows", "positives", "AUC", "best", "reached"]
    auc = report["tasks"][0]["metrics"]["auc"]
    assert (click["AUC"], click["best"]) == (f"{auc['value']:.4f}", f"{auc['best']:.4f}")
    assert click["reached"] == f"{auc['fraction_of_best']:.1%}"
    assert (click["measured on"], like["measured on"]) == ("all impressions", "rows with click")
    assert joint["measured on"] == "all impressions"
    assert (like["AUC"], like["best"], like["MAE"]) == ("\N{EN DASH}", "\N{EN DASH}", "")
    assert (watch["AUC"], watch["positives"], watch["R²"] != "") == ("", "", True)


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


def test_every_plot_has_a_text_alternative_and_a_caption(page: Page) -> None:
    plots = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(plots) == 3 + 3 + 1, "three calibration curves, three losses with their total, one heat map"
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)
    assert sum(tag == "figcaption" for tag, _ in page.tags) == len(plots)


def test_the_page_says_why_a_metric_is_undefined(page: Page) -> None:
    assert "all labels are 0" in page.text
    assert "the rows have no user key" in page.text
    assert "\N{EN DASH}" in page.text


def test_names_and_values_are_escaped(tmp_path: Path) -> None:
    name = '<b>"click" & $x$</b>'
    report = make_report(name)
    report["title"] = "<script>alert(1)</script>"
    ranked = {"columns": ["request_id", "<i>"], "rows": [["<u>", 0.5]]}
    render_html(report, tmp_path / "report.html", make_history(name), ranked)
    page = Page(tmp_path / "report.html")
    assert {"b", "i", "u", "script"}.isdisjoint(tag for tag, _ in page.tags)
    assert name in page.text


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    for file in ("first.html", "second.html"):
        render_html(make_report(), tmp_path / file, make_history(), copy.deepcopy(RANKED))
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


def test_a_page_with_only_a_summary_renders(tmp_path: Path) -> None:
    report = make_report() | {"gates": None}
    report["tasks"] = [task for task in report["tasks"] if task["kind"] == "regression"]
    render_html(report, tmp_path / "report.html", [], None)
    page = Page(tmp_path / "report.html")
    assert "svg" not in {tag for tag, _ in page.tags}
    assert "watch" in page.text


def test_the_last_finite_loss_of_a_step_is_drawn(tmp_path: Path) -> None:
    def record(step: int, loss: float) -> dict[str, Any]:
        return {"step": step, "epoch": 0, "kind": "train", "losses": {"click": loss}, "total": loss}

    history = [record(1, 0.9), record(2, 7.0), record(3, float("nan")), record(2, 0.5)]
    render_html(make_report() | {"gates": None}, tmp_path / "report.html", history, None)
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
    gates = make_report()["gates"]
    assert "click: expert 0 0.50, expert 1 0.30, expert 2 0.20; like: expert 0 0.00, expert 1 1.00." in draw_gates(
        gates
    )
