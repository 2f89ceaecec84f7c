"""`gatehouse tune`: a real search of Ray Tune on loopback, killed and started again, and the mistakes of a user."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from changed_settings import MakeConfig, merged
from test_mistakes import gatehouse, one_line

from jobs.__main__ import main
from pipeline.run_config import load_run_config
from pipeline.shards.manifest import read_index
from pipeline.tune.form import TuneReport

ROOT = Path(__file__).resolve().parents[2]
RATE, BALANCER = "train.dense_optimizer.learning_rate", "model.balancer"
SPACE = {RATE: [0.01, 1e30], BALANCER: [{"kind": "fixed"}]}
KILL_SECONDS = 240


@pytest.fixture
def config_file(make_config: MakeConfig, demo_settings: dict[str, Any], tmp_path: Path) -> Path:
    """A search on the small log, whose test shards hold nothing that can be read."""
    config = make_config("run")
    for shard in read_index(config.dataset_dir).of_split("test"):
        os.truncate(config.dataset_dir / shard.path, 0)
    tune = {
        "parameters": SPACE,
        "trials": 3,
        "concurrent": 2,
        "weights": {"click": 1, "like": 1},
        "constraints": {"watch": {"max_loss": "50%"}},
    }
    path = tmp_path / "run.yaml"
    content = merged(demo_settings, {"workspace": str(tmp_path / "run"), "tune": tune, "seed": 3})
    path.write_text(yaml.safe_dump(content))
    return path


def read_search(config_file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((config_file.parent / "run" / "tune" / "tune.json").read_text())
    return content


def outcomes(config_file: Path) -> dict[str, bytes]:
    folder = config_file.parent / "run" / "tune" / "trials"
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/trial.json")}


@pytest.mark.ray
def test_a_search_ends_with_a_table_a_page_and_the_best_configuration_and_is_not_done_twice(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("tune", "--config", str(config_file))
    assert gatehouse(monkeypatch, capsys, *arguments, "--set", "tune.concurrent=1")[0] == 0
    search = read_search(config_file)
    TuneReport.model_validate_json((tmp_path / "run" / "tune" / "tune.json").read_text())
    assert len(search["trials"]) == 3, "one value with the base's balancer, one that diverges"
    good, bad = sorted(search["trials"][1:], key=lambda one: one["parameters"][RATE])
    assert (good["parameters"][RATE], bad["parameters"][RATE]) == (0.01, 1e30)
    assert "is not a number at step" in bad["failed"]
    assert good["objective"] > 0, "the base's rate is too low for one epoch"
    assert search["best"] == good["number"]
    assert search["ranking"][-1] == bad["number"]
    click, like = (good["tasks"][task] for task in ("click", "like"))
    for own in (click, like):
        assert own["gain"] == pytest.approx((own["value"] - own["base"]) / own["base"])
    assert good["objective"] == pytest.approx((click["gain"] + like["gain"]) / 2)
    best = load_run_config(tmp_path / "run" / "tune" / "best.yaml")
    assert best.train.dense_optimizer.learning_rate == 0.01
    assert best.workspace_dir == tmp_path / "run"
    assert (tmp_path / "run" / "tune" / "tune.html").is_file()
    assert (tmp_path / "run" / "tune" / "trials" / "1" / "config.resolved.yaml").is_file()
    assert not (tmp_path / "run" / "tune" / "ray").exists()

    # What is over is not run again, and a constraint is only held against it.
    before = outcomes(config_file)
    monkeypatch.setattr("jobs.tune.RayExecutor", lambda *_: pytest.fail("nothing is left to run"))
    monkeypatch.setattr(sys, "argv", ["gatehouse", *arguments, "--set", "tune.constraints.click.min=0.99"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "no trial keeps the constraints; trial" in said
    assert f"warning: trial {bad['number']} failed: the loss of" in said
    assert outcomes(config_file) == before
    assert read_search(config_file)["best"] is None
    assert not (tmp_path / "run" / "tune" / "best.yaml").exists()

    for change, said in (
        ("train.max_epochs=2", "train.max_epochs was 1, and is 2"),
        ("tune.seed=1", "seed was 0, and is 1"),
    ):
        code, error = gatehouse(monkeypatch, capsys, *arguments, "--set", change)
        assert code == 2
        assert f"holds a search with other settings ({said})" in one_line(error)
        assert "add --overwrite to start anew" in error
    assert outcomes(config_file) == before


@pytest.mark.ray
@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_a_search_that_is_killed_again_and_again_ends_as_an_undisturbed_one(config_file: Path) -> None:
    content = yaml.safe_load(config_file.read_text())
    content["tune"]["parameters"] = {RATE: [0.002, 0.005, 0.01, 0.02]}
    content["tune"]["trials"] = 5
    content["train"] |= {"max_epochs": 2, "checkpoint_every_steps": 10}
    config_file.write_text(yaml.safe_dump(content))
    kept: dict[str, bytes] = {}
    for wanted in (1, 3):
        search = start(config_file)
        deadline = time.monotonic() + KILL_SECONDS
        while len(outcomes(config_file)) < wanted and search.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        search.send_signal(signal.SIGKILL)
        search.wait()
        kept |= {number: own for number, own in outcomes(config_file).items() if number not in kept}
        assert wanted <= len(kept) < 5
    assert start(config_file).wait(KILL_SECONDS) == 0
    found = outcomes(config_file)
    assert {number: found[number] for number in kept} == kept

    expected = config_file.parent / "undisturbed"
    expected.mkdir()
    (expected / "run.yaml").write_text(yaml.safe_dump({**content, "workspace": str(expected / "run")}))
    (expected / "run").mkdir()
    (expected / "run" / "dataset").symlink_to(config_file.parent / "run" / "dataset")
    assert start(expected / "run.yaml").wait(KILL_SECONDS) == 0
    for number, own in outcomes(expected / "run.yaml").items():
        ours, theirs = json.loads(found[number]), json.loads(own)
        assert ours["metrics"] == theirs["metrics"]
        assert ours["step"] == theirs["step"]


def start(config_file: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "jobs", "tune", "--config", str(config_file)]
    with (config_file.parent / "tune.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("tune=null", "has no section tune"),
        ("tune.parameters={train.max_epoch: [1, 2]}", "unknown key train.max_epoch. Did you mean 'max_epochs'"),
        ("tune.parameters={train.max_epochs: [1, 0]}", "train.max_epochs is 0: should be greater than or equal to 1"),
        ("tune.parameters={train.num_lanes: {low: 4, high: 7}}", "is not a multiple of num_lanes 7"),
        ("tune.parameters={model.body.num_exprts: [1]}", "unknown key num_exprts. Did you mean 'num_experts'"),
        ("tune.parameters={model.balancer: [{kind: pcgrd}]}", "'pcgrd', which is not in the catalogue"),
        ("tune.parameters={seed: {low: 2, high: 1}}", "tune.parameters.seed: low 2 is not below high 1"),
        ("tune.parameters={seed: {low: 0, high: 1, scale: log}}", "on a log scale it must be above 0"),
        ("tune.parameters={schema.features.0.min_count: [1, 5]}", "trials share one dataset and are measured alike"),
        ("tune.weights={clik: 1}", "tune.weights names 'clik', which the schema does not have"),
        ("tune.constraints={lik: {min: 0.5}}", "tune.constraints names 'lik', which the schema does not have"),
        ("tune.constraints={like: {max_loss: much}}", "such as 1%"),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: str, said: str
) -> None:
    code, error = gatehouse(monkeypatch, capsys, "tune", "--config", str(config_file), "--set", change)
    assert code == 2
    assert said in one_line(error)
    assert not (config_file.parent / "run" / "tune").exists()


def test_without_a_dataset_it_says_what_to_run(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    change = f"workspace={tmp_path / 'empty'}"
    code, error = gatehouse(monkeypatch, capsys, "tune", "--config", str(config_file), "--set", change)
    assert code == 3
    assert "holds no complete dataset" in one_line(error)
    assert "Run `preprocess`" in error
