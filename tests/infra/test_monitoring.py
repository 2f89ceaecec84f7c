"""Dashboard, alerts and scrape configuration: they name what `gatehouse monitor` exports, and Prometheus takes them."""

import inspect
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import monitor
from pipeline.monitor.metrics import METRICS, PREFIX

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "monitoring"
OPERATIONS = ROOT / "infra" / "docs" / "operations.md"
HEADINGS = ("The champion is stale", "The gate refuses", "Training does not advance", "The registry cannot be read")
NAME = re.compile(rf"\b{PREFIX}(\w+)")
GRID_COLUMNS = 24
NEEDS_PROMTOOL = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return loaded


def targets() -> Iterator[tuple[str, str]]:
    """The expression and the legend of every query of the dashboard."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"], target["legendFormat"]


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def names_in(*expressions: str) -> set[str]:
    return {name for expression in expressions for name in NAME.findall(expression)}


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_metric_that_is_looked_at_is_exported_and_the_other_way_round() -> None:
    variables = [one["query"]["query"] for one in dashboard()["templating"]["list"] if one["type"] == "query"]
    shown = names_in(*(expression for expression, _ in targets()), *variables)
    assert shown == set(METRICS)
    assert names_in(*(alert["expr"] for alert in alerts())) <= set(METRICS)


def test_every_label_in_a_legend_or_a_summary_is_one_of_its_metrics() -> None:
    texts = list(targets())
    texts += [
        (alert["expr"], label)
        for alert in alerts()
        for label in re.findall(r"{{ \$labels(\.\w+) }}", alert["annotations"]["summary"])
    ]
    named = 0
    for expression, text in texts:
        known = {label for name in names_in(expression) for label in METRICS[name].labels}
        labels = set(re.findall(r"{{(\w+)}}|^\.(\w+)$", text))
        named += len(labels)
        assert {first or second for first, second in labels} <= known, expression
    assert named > 10


def test_every_alert_says_what_to_do_and_where_it_is_written() -> None:
    anchors = {heading.lower().replace(" ", "-") for heading in HEADINGS}
    linked = set()
    for alert in alerts():
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert len(re.findall(r"[.:] [A-Z]", alert["annotations"]["summary"])) == 1, "what it is, and what to do"
        path, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert ROOT / path == OPERATIONS
        linked.add(anchor)
    assert linked == anchors


@pytest.mark.skipif(not OPERATIONS.exists(), reason="operations.md is not there")
def test_the_headings_that_alerts_point_to_are_there() -> None:
    headings = [line.lstrip("# ") for line in OPERATIONS.read_text().splitlines() if line.startswith("#")]
    assert [heading for heading in HEADINGS if heading not in headings] == []


def test_the_panels_of_the_dashboard_stand_side_by_side() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= GRID_COLUMNS
        for cell in (
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]


def test_every_panel_reads_the_chosen_prometheus_and_monitor_and_says_what_it_is() -> None:
    found = dashboard()
    names = {one["name"]: one["type"] for one in found["templating"]["list"]}
    assert names == {"datasource": "datasource", "instance": "query"}
    for panel in found["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith(".")
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert len(NAME.findall(target["expr"])) == target["expr"].count('{instance=~"$instance"}')


def test_prometheus_scrapes_where_the_monitor_serves() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    (scraped,) = config["scrape_configs"]
    default = inspect.signature(monitor.main).parameters["listen"].default
    assert scraped["static_configs"] == [{"targets": [default]}]
    assert config["rule_files"] == ["alerts.yaml"]


@NEEDS_PROMTOOL
def test_prometheus_takes_the_configuration_and_the_alerts() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "config", FOLDER / "prometheus.yaml")


@NEEDS_PROMTOOL
def test_alerts_fire_where_they_should_and_nowhere_else() -> None:
    cases = Path(__file__).with_name("alert_cases.yaml")
    tested = {
        one["alertname"] for case in yaml.safe_load(cases.read_text())["tests"] for one in case["alert_rule_test"]
    }
    assert tested == {alert["alert"] for alert in alerts()}
    assert "SUCCESS" in promtool("test", "rules", cases)


@NEEDS_PROMTOOL
def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:query:{place}", "expr": expression.replace("$instance", ".*")}
        for place, (expression, _) in enumerate(targets())
    ]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", path)
