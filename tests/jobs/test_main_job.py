"""The main job from raw logs to ranked candidates, as a user runs it, and what each verb prints last."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from test_mistakes import gatehouse, written

from pipeline.run_config import load_run_config

ROOT = Path(__file__).parents[2]


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_run_takes_raw_logs_to_a_report_and_ranked_candidates(
    demo_settings: dict[str, Any], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**demo_settings, "workspace": str(tmp_path / "run")}))
    code, error = gatehouse(monkeypatch, capsys, "run", "--config", str(path))
    assert (code, error) == (0, "")
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    names = [task["name"] for task in report["tasks"]]
    assert names == ["click", "like", "joint_like", "purchase", "joint_purchase", "watch"]
    assert report["tasks"][0]["metrics"]["auc"]["fraction_of_best"] > 0
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    ranked = pq.read_table(tmp_path / "run" / "ranked" / "part-00000.parquet")
    assert ranked.column_names[:5] == ["request_id", "user_id", "rank", "item_id", "score"]
    assert ranked.num_rows == 200
    assert str(ranked["item_id"][0].as_py()) in page


def test_resume_goes_on_after_a_stage_that_is_done(make_config: Any, monkeypatch: Any, capsys: Any) -> None:
    config = make_config()
    before = _digests(config.dataset_dir)
    code, error = gatehouse(monkeypatch, capsys, "run", "--config", written(config), "--resume")
    assert (code, error) == (0, "")
    assert _digests(config.dataset_dir) == before
    assert (config.scores_dir / "manifest.json").exists()


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "jobs" / "configs").glob("*.yaml")))
def test_every_shipped_configuration_loads(name: str) -> None:
    from pipeline.assemble import check_model
    from pipeline.score.run import check_score

    config = load_run_config(ROOT / "jobs" / "configs" / name)
    check_model(config.data_schema, config.model)
    if config.score:
        check_score(config)


def test_there_are_configurations_for_the_demo_and_both_public_data_sets() -> None:
    names = {path.name for path in (ROOT / "jobs" / "configs").glob("*.yaml")}
    assert {"demo.yaml", "kuairand.yaml", "census_income.yaml"} <= names


@pytest.mark.parametrize("name", ["kuairand.yaml", "census_income.yaml"])
def test_a_public_data_set_that_is_not_there_is_one_clear_line(name: str, monkeypatch: Any, capsys: Any) -> None:
    config = ROOT / "jobs" / "configs" / name
    code, error = gatehouse(
        monkeypatch, capsys, "run", "--config", str(config), "--set", "inputs=/nowhere", "--overwrite"
    )
    assert code == 3
    assert error == (
        "error: the input folder /nowhere is not there. "
        "Give the folder that holds the raw files: --set inputs=FOLDER.\n"
    )


def test_help_answers_without_torch_or_ray() -> None:
    script = (
        "import sys; sys.argv = ['gatehouse', '--help']\n"
        "from jobs.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'pyarrow', 'matplotlib'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip().splitlines()[-1] == "[]"
    for verb in ("run", "simulate", "preprocess", "train", "evaluate", "score", "doctor"):
        assert f" {verb} " in result.stdout
