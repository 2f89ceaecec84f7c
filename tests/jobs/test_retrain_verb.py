"""`gatehouse retrain`: what it prints, and the exit code of each end."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_mistakes import gatehouse, one_line

from pipeline.registry.registry import Registry
from pipeline.simulate.run import simulate

FIRST_SLOT, SECOND_SLOT = "2025-01-09", "2025-01-10"
FEATURES = ["user_id", "item_id", "device", "hour"]


def settings(folder: Path) -> dict[str, Any]:
    return {
        "workspace": str(folder / "work"),
        "inputs": str(folder / "log"),
        "schema": {
            "keys": {"user": "user_id", "item": "item_id", "request": "request_id", "time": "timestamp"},
            "features": [{"name": name, "kind": "categorical"} for name in FEATURES],
            "tasks": [{"name": "click", "kind": "binary", "label": "click"}],
        },
        "preprocess": {"log": {"path": "log"}, "split": {"kind": "order"}},
        "model": {"front_end": {"embedding_dim": 4}, "body": {"kind": "shared_bottom", "widths": [8]}},
        "train": {"device": "cpu", "max_epochs": 4, "global_batch_size": 128},
        "evaluate": {"slices": [], "num_replicates": 100, "importance_rows": 0},
        "score": {
            "candidates": {"path": "candidates.parquet"},
            "items_column": "items",
            "fusion": "click",
            "top_k": 3,
        },
        "registry": {"location": str(folder / "registry")},
        "retrain": {
            "first_slot": FIRST_SLOT,
            "train_slots": 2,
            "score": True,
            "gate": {"default": {"calibration": {"min": 0.3, "max": 3}}, "drift": {"max_psi": 10}},
        },
    }


def write(folder: Path, content: dict[str, Any]) -> str:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> str:
    simulate(tmp_path / "log", 7500, seed=5, num_days=5, num_users=60, num_items=110, num_candidate_requests=5)
    return write(tmp_path, settings(tmp_path))


def test_a_promotion_is_0_and_a_refusal_4_with_its_reasons(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["gatehouse", "retrain", "--config", config, "--until", FIRST_SLOT]
    assert exit_code(monkeypatch, arguments) == 0
    said = capsys.readouterr().out
    assert "trained anew on 2025-01-06 to 2025-01-08, measured on 2025-01-08 to 2025-01-09" in said
    assert "slot 2025-01-09: version 1 promoted; " in said
    assert re.search(r"\n  click AUC 0\.\d{4}\n", said)
    assert list((tmp_path / "work" / "retrain" / FIRST_SLOT / "ranked").glob("*.parquet"))

    assert exit_code(monkeypatch, [*arguments[:-1], "2025-01-09T23:00"]) == 0
    assert capsys.readouterr().out == "no slot is due\n"

    arguments += ["--set", "retrain.gate.tasks.click.auc.min=0.99"]
    assert exit_code(monkeypatch, [*arguments[:5], SECOND_SLOT, *arguments[6:]]) == 4
    said = capsys.readouterr().out
    assert "trained on from version 1 on 2025-01-08 to 2025-01-09, measured on 2025-01-09 to 2025-01-10" in said
    assert "slot 2025-01-10: version 2 refused; " in said
    assert re.search(r"\n  click AUC 0\.\d{4} \(gain .?[\de.-]+\)\n", said)
    assert "below 0.99" in said
    champion = Registry.open(str(tmp_path / "registry")).champion()
    assert champion is not None
    assert champion.version == 1
    assert list((tmp_path / "work" / "retrain" / SECOND_SLOT / "ranked").glob("*.parquet"))


def exit_code(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> int:
    from jobs.__main__ import main

    monkeypatch.setattr(sys, "argv", arguments)
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["gatehouse", "retrain", "--config", config, "--until", SECOND_SLOT, "--dry-run"]
    assert exit_code(monkeypatch, arguments) == 0
    first, second = capsys.readouterr().out.splitlines()[1:3]
    assert first.split()[:2] == ["2025-01-09", "00:00"]
    assert "2025-01-06 to 2025-01-08" in first
    assert "anew" in first
    assert "4,500" in first
    assert "from the slot before" in second
    assert "3,000" in second
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "registry").exists()


def test_a_lease_that_another_holds_is_75(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Registry.open(str(tmp_path / "registry")).held("another", 60):
        code, error = gatehouse(monkeypatch, capsys, "retrain", "--config", config)
    assert code == 75
    assert "run another, since" in one_line(error)


def test_a_damaged_champion_is_3(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "champion.json").write_text("{")
    code, error = gatehouse(monkeypatch, capsys, "retrain", "--config", config)
    assert code == 3
    assert "champion.json is not JSON" in one_line(error)
    assert (tmp_path / "registry" / "champion.json").read_text() == "{"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"retrain": None}, "has no section retrain"),
        ({"registry": None}, "retrain needs the section registry"),
        ({"dataset": "elsewhere"}, "dataset is elsewhere, and a retraining keeps"),
        ({"score": None}, "retrain.score needs the section score"),
        ({"retrain": {"first_slot": FIRST_SLOT, "evry": "day"}}, "unknown key retrain.evry. Did you mean 'every'"),
        ({"retrain": {"first_slot": FIRST_SLOT, "gate": {"tasks": {"clik": {}}}}}, "'clik', which is no task"),
    ],
)
def test_a_mistake_in_the_configuration_is_2(
    config: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    said: str,
) -> None:
    path = write(tmp_path, settings(tmp_path) | changes)
    code, error = gatehouse(monkeypatch, capsys, "retrain", "--config", path)
    assert code == 2
    assert said in one_line(error)


def test_a_log_without_a_time_or_a_request_or_user_cannot_be_retrained_on(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = settings(tmp_path) | {"score": None}
    content["retrain"] |= {"score": False}
    for keys in ({"time": "timestamp"}, {"user": "user_id"}):
        content["schema"] |= {"keys": keys}
        code, error = gatehouse(monkeypatch, capsys, "retrain", "--config", write(tmp_path, content))
        assert (code, "retrain needs schema.keys.time" in error) == (2, True)


def test_an_end_that_is_no_time_is_2(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error = gatehouse(monkeypatch, capsys, "retrain", "--config", config, "--until", "soon")
    assert code == 2
    assert "--until 'soon' is no time" in one_line(error)
