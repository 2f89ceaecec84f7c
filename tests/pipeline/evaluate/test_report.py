"""The report holds what was measured, and a terminal shows the main part of it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated_parts import make_columns, measure_columns

from pipeline.evaluate.measure.measure import Measurement
from pipeline.evaluate.prediction_table import Measured
from pipeline.evaluate.report.report import build_report, summary_rows, write_report_json


def make_measurement() -> Measurement:
    rng = np.random.default_rng(0)
    truth = rng.random(400)
    label = (rng.random(400) < truth).astype(float)
    prediction = np.clip(truth + rng.normal(0, 0.2, 400), 0, 1)
    class_truth = {"a": truth / 2, "b": truth / 2, "c": 1 - truth}
    things = [
        Measured("click", "binary", None, "own space", ("click",), ("click",)),
        Measured("like", "binary", "click", "own space", ("like",), ("click", "like")),
        Measured("joint_like", "binary", "click", "all impressions", ("joint_like",), ("click", "like")),
        Measured("watch", "regression", "click", "own space", ("watch",), ("click", "watch")),
        Measured("stay", "watch_time", None, "own space", ("stay",), ("stay",)),
        Measured("reaction", "multiclass", None, "own space", ("a", "b", "c"), ("reaction",)),
    ]
    columns = make_columns(prediction, label, slices={"day": ["monday", "tuesday"] * 200})
    labels = {"click": label, "like": np.zeros(400), "watch": 9 * truth, "stay": 9 * truth, "reaction": 2 - 2 * label}
    columns |= {f"label_{name}": own for name, own in labels.items()}
    outputs = {"click": prediction, "like": prediction, "joint_like": prediction, "watch": 9 * prediction}
    columns |= {f"prediction_{name}": own for name, own in (outputs | {"stay": 9 * prediction} | class_truth).items()}
    noise = rng.normal(0, 0.3, 400)
    columns |= {f"baseline_{name}": np.clip(own + noise, 0, 9) for name, own in outputs.items()}
    columns |= {f"truth_{name}": own for name, own in ({"click": truth} | class_truth).items()}
    return measure_columns(columns, things, num_replicates=20)


def make_report() -> dict[str, Any]:
    return build_report(
        make_measurement(),
        title="Evaluation of a small run",
        split="test",
        model={"step": 1200, "path": "run/checkpoints/1200"},
        baseline={"step": 600, "path": "old/checkpoints/600"},
        schema_fingerprint="0123456789abcdef" * 4,
        mixtures={
            "level 1": {
                "tasks": ["click", "like"],
                "experts": ["expert 0", "expert 1", "expert 2"],
                "mean_weight": [[0.5, 0.3, 0.2], [0.0, 1.0, None]],
            }
        },
        alarms=["level 1: expert 'expert 2' is dead"],
        newer_values={"item": {"values": 800, "newer": 12}, "user": {"values": 400, "newer": 0}},
        diagnostics={"tables": {}},
    )


def test_report_json_reads_back_equal_and_leaves_no_other_file(tmp_path: Path) -> None:
    report = make_report()
    write_report_json(report, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == report
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert report["report_version"] == 4


def test_a_report_says_what_was_measured_and_on_how_many_units() -> None:
    report = make_report()
    assert (report["rows"], report["units"], report["num_replicates"]) == (400, {"kind": "row", "count": 400}, 20)
    assert (report["model"]["step"], report["baseline"]["step"]) == (1200, 600)
    assert [(one["dimension"], one["value"], one["rows"]) for one in report["slices"]] == [
        ("day", "monday", 200),
        ("day", "tuesday", 200),
    ]
    assert report["gain"]["multi_task_gain"] > 0
    assert [line.split(":")[0] for line in report["summary"]] == [task["name"] for task in report["tasks"]]
    click, like, *_, reaction = report["summary"]
    assert re.match(r"click: AUC 0\.\d{4}, 0\.\d{4} better than the baseline \(95% interval .*, p < 0.001\)", click)
    assert like == "like: AUC is undefined: all labels are 0"
    assert re.match(r"reaction: AUC 0\.\d{4} \(95% interval 0\.\d{4} to 0\.\d{4}\)", reaction)


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
    assert [task["main_metric"] for task in (click, watch, stay, reaction)] == ["auc", "mae", "mae", "auc"]
    fields = "value low high reason baseline baseline_reason difference difference_low difference_high p_value"
    assert list(click["metrics"]["auc"]) == [*fields.split(), "best", "fraction_of_best"]


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
    assert (click["difference"], click["p"]) == (f"{auc['difference']:.4f}", "< 0.001")
    assert (like["difference"], like["p"], reaction["p"]) == ("\N{EN DASH}",) * 3
    assert (watch["AUC"], watch["positives"], watch["R²"] != "") == ("", "", True)
    assert (stay["AUC"], stay["MAE"] != "", stay["accuracy"]) == ("", True, "")
    assert (reaction["positives"], reaction["reached"], reaction["GAUC"]) == ("", "100.0%", "")
    assert reaction["accuracy"] == f"{report['tasks'][-1]['metrics']['accuracy']['value']:.4f}"


def test_summary_rows_have_no_best_where_no_truth_is_known() -> None:
    report = make_report()
    report["tasks"] = report["tasks"][1:3]
    headers, rows = summary_rows(report)
    assert "best" not in headers
    report["baseline"] = None
    assert summary_rows(report)[0] == headers[:-2]
    assert all(len(row) == len(headers) for row in rows)
