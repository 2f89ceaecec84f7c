"""`gatehouse score --sweep`: what it prints, and mistakes in its section, which are one line."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from swept_runs import SWEEP, Change, changes_of, files_of, train_swept

from jobs.__main__ import main
from pipeline.errors import ConfigError
from pipeline.run_config import RunConfig
from pipeline.score.sweep.run import sweep


@pytest.fixture(scope="module")
def trained(demo_settings: dict[str, Any], dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return train_swept(demo_settings, dataset, tmp_path_factory.mktemp("sweep") / "run")


@pytest.fixture
def changed(trained: RunConfig, tmp_path: Path) -> Change:
    return changes_of(trained, tmp_path)


def gatehouse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["gatehouse", *words])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def write_config(config: RunConfig, folder: Path) -> str:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True)))
    return str(path)


def test_the_command_prints_a_table_a_sentence_and_a_line_to_paste(
    changed: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = changed()
    code, out, err = gatehouse(monkeypatch, capsys, "score", "--sweep", "--config", write_config(config, tmp_path))
    assert (code, err) == (0, "")
    report = json.loads(files_of(config)["sweep.json"])
    lines = out.splitlines()
    assert re.match(r"ranking +formula +value@3 +NDCG@3 of click", next(line for line in lines if "ranking" in line))
    assert any(re.match(r"purchase alone +joint_purchase +[0-9.]+", line) for line in lines)
    assert any(line.startswith("best trial ") and report["fusion"] in line for line in lines)
    assert report["verdict"] in lines
    assert yaml.safe_load(lines[lines.index("for the configuration, under score:") + 1]) == {"fusion": report["fusion"]}
    assert lines[-1] == f"sweep of the fusion: {config.workspace_dir / 'sweep' / 'sweep.html'}"
    assert any(line.startswith("sweep: ") and "parts of the sweep measured" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("formula=click ** c", "score.sweep.formula 'click ** c' names 'c', which is not an output of the model"),
        ("formula=click ** a", "score.sweep.parameters has 'b', which score.sweep.formula does not name"),
        ("formula=click.real ** a", "score.sweep.formula 'click.real ** a' has '.', which is not in its grammar"),
        ("parameters={}", "score.sweep.parameters is {}: needs at least 1"),
        ("parameters.a=[]", "score.sweep.parameters.a"),
        ("parameters.a=[x]", "score.sweep.parameters.a"),
        ("parameters.a={low: 1}", "score.sweep.parameters.a: a parameter needs a list of numbers"),
        ("parameters.a={low: 2, high: 1}", "a parameter needs a list of numbers, or a low and a higher high"),
        ("parameters.a=[.nan]", "score.sweep.parameters.a"),
        ("parameters={click: [1], b: [1]}", "score.sweep.parameters has 'click', which is an output of the model"),
        ("parameters={exp: [1], b: [1]}", "score.sweep.parameters has 'exp', which is a function"),
        ("parameters={'a b': [1], b: [1]}", "score.sweep.parameters has 'a b', which is no name"),
        ("parameters.a=[200]", "has the exponent 200, outside of -100 to 100"),
        ("num_trials=5", "score.sweep: num_trials is for ranges {low, high}; of lists every combination is tried"),
        ("num_trials=0", "score.sweep.num_trials is 0"),
        ("values={}", "score.sweep.values is {}: needs at least 1"),
        ("values={clik: 1}", "score.sweep.values names 'clik', which is no task whose"),
        ("metric=ndcg_clik", "score.sweep.metric is 'ndcg_clik'. Did you mean 'ndcg_click'"),
        ("split=train", "score.sweep.split is 'train'"),
        ("formla=click", "unknown key score.sweep.formla. Did you mean 'formula'"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_section_is_one_line(
    trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, change: str, said: str
) -> None:
    settings = trained.model_dump(mode="json", by_alias=True)
    settings["score"]["sweep"] = SWEEP
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**settings, "workspace": str(tmp_path / "run")}))
    code, _, error = gatehouse(
        monkeypatch, capsys, "score", "--sweep", "--config", str(path), "--set", f"score.sweep.{change}"
    )
    assert code == 2
    (line,) = error.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "run" / "report").exists()


def test_too_large_a_grid_and_no_section_are_refused(changed: Change) -> None:
    many = changed("many", parameters={"a": list(range(60)), "b": list(range(60))})
    with pytest.raises(
        ConfigError, match=r"score\.sweep\.parameters gives 3,600 trials, and a sweep has at most 2,000"
    ):
        sweep(many)
    none = many.model_copy(update={"score": many.score and many.score.model_copy(update={"sweep": None})})
    with pytest.raises(ConfigError, match=r"the configuration has no section score\.sweep"):
        sweep(none)
