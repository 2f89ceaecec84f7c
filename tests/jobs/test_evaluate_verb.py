"""`gatehouse evaluate` as a user runs it: a checkpoint, two of them, or a finished table; and its mistakes."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from changed_settings import MakeConfig
from test_mistakes import gatehouse, one_line, written

from jobs.__main__ import main
from pipeline.run_config import RunConfig
from pipeline.train.run import train

QUICK = {"num_replicates": 20, "importance_rows": 0}
USAGE_EXIT_CODE, DATA_EXIT_CODE = 2, 3


def run_evaluate(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: str) -> str:
    """What the verb prints; it ends well."""
    monkeypatch.setattr(sys, "argv", ["gatehouse", "evaluate", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    printed = capsys.readouterr()
    assert (stop.value.code or 0, printed.err) == (0, "")
    return str(printed.out)


def read_report(config: RunConfig) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((config.report_dir / "report.json").read_text())
    return report


def test_a_checkpoint_is_measured_and_the_report_named(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config = make_config(evaluate=QUICK)
    best = train(config)
    capsys.readouterr()
    printed = run_evaluate(monkeypatch, capsys, "--config", written(config))
    assert printed.splitlines()[-1] == f"report: {config.report_dir / 'report.html'}"
    assert "joint_purchase" in printed
    report = read_report(config)
    assert (report["model"]["path"], report["baseline"]) == (str(best), None)
    assert {one["dimension"] for one in report["slices"]} == {
        "new_user",
        "new_item",
        "country",
        "category",
        "device",
        "age",
    }

    printed = run_evaluate(monkeypatch, capsys, "--config", written(config), "--baseline", str(best))
    report = read_report(config)
    assert report["baseline"] == report["model"]
    # The model compared with itself.
    for task in report["tasks"]:
        assert all(metric["difference"] in (0.0, None) for metric in task["metrics"].values())


def finished_settings(folder: Path) -> tuple[Path, Path]:
    """A configuration, with no dataset anywhere, and the table that it fits."""
    table = pa.table(
        {
            "uid": [row % 5 for row in range(60)],
            "click": [int(row % 3 == 0) for row in range(60)],
            "prediction_click": [(row % 7) / 10 for row in range(60)],
        }
    )
    pq.write_table(table, folder / "table.parquet")
    settings = {
        "workspace": str(folder / "run"),
        "schema": {
            "keys": {"user": "uid"},
            "features": [{"name": "uid", "kind": "categorical"}],
            "tasks": [{"name": "click", "kind": "binary", "label": "click"}],
        },
        "preprocess": {"log": {"path": "log"}, "split": {"kind": "order"}},
        "evaluate": {"num_replicates": 20},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder / "run.yaml", folder / "table.parquet"


def test_a_finished_table_is_measured_with_neither_dataset_nor_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config, table = finished_settings(tmp_path)
    monkeypatch.chdir(tmp_path)
    printed = run_evaluate(monkeypatch, capsys, "--config", str(config), "--predictions", "table.parquet")
    assert printed.splitlines()[-1] == f"report: {tmp_path / 'run' / 'report' / 'report.html'}"
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert (report["rows"], report["units"]) == (60, {"kind": "user", "count": 5})
    assert report["model"] == {"step": None, "path": str(table)}
    assert not (tmp_path / "run" / "dataset").exists()


def test_a_finished_table_goes_without_a_checkpoint_and_a_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config, table = finished_settings(tmp_path)
    for option in ("--checkpoint", "--baseline"):
        arguments = ("--config", str(config), "--predictions", str(table), option, "somewhere")
        code, error = gatehouse(monkeypatch, capsys, "evaluate", *arguments)
        assert code == USAGE_EXIT_CODE
        assert f"--predictions goes without {option}" in one_line(error)


def test_a_finished_table_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config, _ = finished_settings(tmp_path)
    code, error = gatehouse(monkeypatch, capsys, "evaluate", "--config", str(config), "--predictions", "nowhere.csv")
    assert code == DATA_EXIT_CODE
    assert "nowhere.csv" in one_line(error)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (
            "evaluate.slices=[contry]",
            2,
            "evaluate.slices names 'contry', which is no feature or key of the schema. Did",
        ),
        ("evaluate.slices=[tags]", 2, "evaluate.slices names 'tags', a feature of kind multi_valued"),
        (
            "evaluate.slices=[{column: age, bucket: 3}]",
            2,
            "unknown key evaluate.slices.0.bucket. Did you mean 'buckets'",
        ),
        ("evaluate.baseline=nowhere", 3, "nowhere is not a complete checkpoint"),
        ("evaluate.weigthed=false", 2, "unknown key evaluate.weigthed. Did you mean 'weighted'"),
    ],
)
def test_a_wrong_setting_of_the_report_is_named_before_the_main_job_begins(
    demo_settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    change: str,
    code: int,
    said: str,
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**demo_settings, "workspace": str(tmp_path / "run")}))
    found, error = gatehouse(monkeypatch, capsys, "run", "--config", str(path), "--set", change)
    assert found == code, error
    assert said in one_line(error)
    assert not (tmp_path / "run" / "dataset").exists()
