"""The page of a decision: every rule with its numbers, one file, legible in a browser and on a phone."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paired_reports import FINDINGS, decide_on, make_report

# isort: split
# Found by way of paired_reports.
from headless_chromium import CHROMIUM, OpenPage
from parsed_page import ParsedPage
from test_browser_page import LOW_CONTRAST

from pipeline.gate.form import Decision
from pipeline.gate.page import render_decision
from pipeline.preprocess.checks.drift import Finding

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
POLICY: dict[str, Any] = {
    "tasks": {"click": {"auc": {"min": 0.7, "max_loss": 0.002, "min_gain": 0}, "calibration": {"min": 0.95}}}
}
GONE = Finding("feature", "country", "presence", None, None, None, None, True, "is gone")


def refuse() -> Decision:
    return decide_on(make_report({"like": 0.6}), POLICY, [*FINDINGS, GONE])


def open_page(decision: Decision, folder: Path) -> ParsedPage:
    render_decision(decision, folder / "decision.html")
    return ParsedPage(folder / "decision.html")


def test_the_page_has_a_row_for_each_rule_and_every_reason_of_a_refusal(tmp_path: Path) -> None:
    decision = refuse()
    page = open_page(decision, tmp_path)
    rows = [row for table in page.tables("").values() for row in table[1:]]
    assert len(rows) == len(decision.rules)
    assert sum("failed" in row for row in rows) == len(decision.refusals) > 5
    text = " ".join(page.text.split())
    assert f"{len(decision.refusals)} of {len(decision.rules)} rules failed:" in text
    assert "not promoted" in text
    of_slices = [" in country " in one or " in day " in one for one in re.findall(r"<li>(.*)</li>", page.source)[:10]]
    assert of_slices == sorted(of_slices)
    for reason in decision.refusals[:3]:
        assert reason in text
    (gone,) = (row for row in rows if row[:3] == ["country", "drift", "failed"])
    assert gone[3] == "feature 'country': presence: is gone"


def test_a_promotion_says_so_and_shows_the_policy_with_its_defaults(tmp_path: Path) -> None:
    decision = decide_on(make_report())
    text = open_page(decision, tmp_path).text
    assert f"All {len(decision.rules)} rules passed." in text
    assert "failed" not in text
    assert "max_label_rate_change: 0.3" in text
    assert "click in country nz: too few rows or positives" in text


def test_a_first_model_has_no_champion_and_no_comparison(tmp_path: Path) -> None:
    page = open_page(decide_on(make_report(has_baseline=False), findings=None, champion=None), tmp_path)
    assert {"Tasks", "Report"} == {*page.tables("")}
    assert "svg" not in [tag for tag, _ in page.tags]


def test_many_refusals_are_counted_where_the_page_begins(tmp_path: Path) -> None:
    report = make_report()
    template = report["slices"][0]
    for place in range(40):
        one = copy.deepcopy(template) | {"value": f"value {place}"}
        one["tasks"]["click"]["metrics"]["auc"] |= {"value": None, "reason": "all labels are 1"}
        report["slices"].append(one)
    assert "and 30 more, in the tables" in open_page(decide_on(report), tmp_path).text


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    report = make_report()
    report["title"] = report["model"]["path"] = report["slices"][0]["value"] = hostile
    unknown = Finding("feature", hostile, "another", None, None, None, None, True)
    page = open_page(decide_on(report, findings=[*FINDINGS, unknown]), tmp_path)
    assert hostile in page.text
    assert {"script", "img", "link"} & {tag for tag, _ in page.tags} == {"link"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("decision") / "decision.html"
    render_decision(refuse(), file)
    return file


@pytest.fixture(scope="module", params=[1200, 390])
def opened(path: Path, request: pytest.FixtureRequest) -> Iterator[OpenPage]:
    with OpenPage(path, width_pixels=request.param) as page:
        yield page


@pytest.mark.browser
@in_browser
def test_in_a_browser_the_page_is_quiet_legible_and_no_wider_than_the_screen(opened: OpenPage, path: Path) -> None:
    assert {one for one in opened.requests if not one.startswith("data:")} == {path.as_uri()}
    assert opened.errors == []
    assert opened.evaluate(LOW_CONTRAST) == []
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert opened.evaluate("document.querySelectorAll('td svg').length") > 10
    unnamed = "Array.from(document.querySelectorAll('svg')).filter((svg) => !svg.getAttribute('aria-label'))"
    assert opened.evaluate(f"{unnamed}.length") == 0


@pytest.mark.browser
@in_browser
def test_a_dot_lies_right_of_the_bound_where_a_loss_is_within_it(opened: OpenPage) -> None:
    sides = opened.evaluate("""Array.from(document.querySelectorAll('#tasks tbody tr'))
        .filter((row) => row.cells[1].textContent === 'max_loss').map((row) => {
            const [zero, bound] = row.querySelectorAll('path'), dot = row.querySelector('circle');
            const at = (shape) => Number(shape.getAttribute('d').match(/[\\d.]+/)[0]);
            return [row.cells[2].textContent, Number(dot.getAttribute('cx')) > at(bound)]; })""")
    assert [*map(tuple, sides)] == [("passed", True), ("failed", False), ("failed", False), ("passed", True)]
