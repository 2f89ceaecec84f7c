"""The data section of the page shows what statistics.json has of each feature and task, and what changed."""

import re
from pathlib import Path
from typing import Any

from fabricated_report import make_report
from parsed_page import ParsedPage

from pipeline.evaluate.page.page import render_html
from pipeline.evaluate.page.plots import draw_bars


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


def render_data(folder: Path, statistics: dict[str, Any]) -> ParsedPage:
    render_html(make_report(), folder / "report.html", [], [], None, statistics)
    return ParsedPage(folder / "report.html")


def test_statistics_without_profiles_are_shown(tmp_path: Path) -> None:
    page = render_data(tmp_path, make_statistics())
    assert page.tables("Features")[""] == [
        ["feature", "values", "null", "distinct", "unseen train", "unseen validation", "unseen test"],
        ["price numeric", "77", "20.0% 3 not finite", "\N{EN DASH}", "", "", ""],
        ["city categorical", "96", "4.0%", "3", "0.0%", "25.0%", "50.0%"],
        ["bucket categorical", "96", "4.0%", "hashed", "", "", ""],
        ["seen history", "100", "7.0% 9.0% empty", "3", "0.0%", "25.0%", "50.0%"],
    ]
    assert "drift" not in page.text.lower()
    assert "quarantine" not in page.text
    assert [row[1:] for row in page.tables("Labels")[""][1:]] == [
        ["100", "0.0000", "10", "0.2500", "10", "\N{EN DASH}"],
        ["100", "york 100.0% cold 0.0%", "10", "york 100.0% cold 0.0%", "0", "\N{EN DASH}"],
    ]


def test_profiles_and_drift_are_shown(tmp_path: Path) -> None:
    page = render_data(tmp_path, make_rich_statistics())
    headers, *features = page.tables("Features")[""]
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


def test_drift_and_quarantine_need_attention(tmp_path: Path) -> None:
    page = render_data(tmp_path, make_rich_statistics())
    assert (
        "Data: drift from old/dataset: feature 'price': population stability index is 0.75, above 0.25, and 1 more"
        in page.text
    )
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
    assert (
        "No drift from old/dataset: 2 comparisons, none above its threshold; 1 could not be made, and statistics.json "
        "says why." in render_data(tmp_path, statistics).text
    )


def test_names_and_values_of_the_data_are_escaped(tmp_path: Path) -> None:
    page = render_data(tmp_path, make_rich_statistics('<b>"x" & $y$</b>', "<i>&"))
    assert {"b", "i"}.isdisjoint(tag for tag, _ in page.tags)
    assert page.text.count("<i>&") >= 3


def test_a_bar_that_is_not_empty_is_visible() -> None:
    path = draw_bars("counts", [1_000_000, 0, 1], "two bars").partition(' d="')[2]
    assert path.count("M") == 2
    assert "M24.00 28v-1.00h" in path
    assert draw_bars("counts", [0, 0], "none").count("M") == 0
