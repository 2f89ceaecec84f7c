"""`gatehouse benchmark`: the whole measurement on a small log, and wrong options."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_mistakes import gatehouse

from pipeline.benchmark import score
from pipeline.benchmark.evaluate import contest as evaluate_contest
from pipeline.benchmark.process import Usage
from pipeline.benchmark.read import contest as read_contest
from pipeline.benchmark.rounds import Contestant, Frame, record
from pipeline.benchmark.train import contest as train_contest
from pipeline.benchmark.train import growth as train_growth
from pipeline.errors import SetupError


def test_preprocessing_is_measured_and_recorded(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    work, out = tmp_path / "work", tmp_path / "speed.jsonl"
    arguments = ("benchmark", "preprocess", "--rows", "20000", "--rounds", "2", "--threads", "1")
    code, error = gatehouse(monkeypatch, capsys, *arguments, "--work", str(work), "--out", str(out))
    assert (code, error) == (0, "")
    (found,) = map(json.loads, out.read_text().splitlines())
    assert found["checked"]["rows"] == {"train": 16_000, "validation": 2_000, "test": 2_000}
    assert found["machine"]["copy_bytes_per_second"] > 0
    (ours,) = found["contestants"]
    assert ours["versions"]["pyarrow"]
    assert len(ours["runs"]) == 2
    assert all(value > 0 for run in ours["runs"] for name, value in run.items() if name != "other_cpu_seconds")
    assert "## preprocess" in out.with_suffix(".md").read_text()
    assert not (work / "gatehouse" / "out").exists()


def test_growth_is_measured_drawn_and_recorded(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    work = tmp_path / "work"
    arguments = ("benchmark", "preprocess", "--growth", "--rows", "5000", "--rounds", "1", "--work", str(work))
    code, error = gatehouse(monkeypatch, capsys, *arguments)
    assert (code, error) == (0, "")
    (found,) = map(json.loads, (work / "results.jsonl").read_text().splitlines())
    names = [point["name"] for point in found["contestants"]]
    assert names == ["1,000 rows", "5,000 rows", "20,000 rows", "10 values", "1,000 values", "10,000 values"]
    assert [point["num_rows"] for point in found["contestants"]] == [1_000, 5_000, 20_000, 12_500, 12_500, 12_500]
    assert (work / "results.svg").read_text().startswith("<?xml")


def test_scoring_is_measured_shown_and_recorded(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    given: list[Any] = []

    def compare(*arguments: Any) -> dict[str, Any]:
        given.extend(arguments[:-1])
        contestant = Contestant("gatehouse", {"gatehouse": "1"}, (), tmp_path, 6)
        settings = {"requests": 2, "candidates": 3, "peer_rows": 5}
        return record("score", settings, [contestant], [[Usage(2.0, 0.5, 1.0, 0.0, 1, 1)]], arguments[0], {})

    monkeypatch.setattr(score, "compare_scoring", compare)
    options = ("--requests", "2", "--candidates", "3", "--rounds", "1", "--threads", "1", "--peers")
    code, error = gatehouse(monkeypatch, capsys, "benchmark", "score", *options, "--work", str(tmp_path))
    assert (code, error) == (0, "")
    assert given == [Frame(tmp_path, 1, 1, True), 2, 3]
    assert "peers predict 5." in (tmp_path / "results.md").read_text()


def test_growth_of_training_is_asked_for_with_peers(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    given: list[Any] = []

    def stop(*arguments: Any) -> dict[str, Any]:
        given.append(arguments[:-1])
        raise SetupError("it was asked for", "ask for no more")

    monkeypatch.setattr(train_growth, "grow_training", stop)
    options = ("--growth", "--peers", "--rounds", "2", "--threads", "1", "--work", str(tmp_path))
    code, error = gatehouse(monkeypatch, capsys, "benchmark", "train", *options)
    assert (code, error) == (2, "error: it was asked for. Ask for no more.\n")
    assert given == [(Frame(tmp_path, 2, 1, True),)]


def test_training_and_what_follows_are_asked_for_with_their_options(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    given: list[Any] = []

    def stop(*arguments: Any) -> dict[str, Any]:
        given.append(arguments[:-1])
        raise SetupError("it was asked for", "ask for no more")

    monkeypatch.setattr(train_contest, "compare_training", stop)
    monkeypatch.setattr(evaluate_contest, "compare_predicting", stop)
    monkeypatch.setattr(read_contest, "compare_reading", stop)
    options = ("--rows", "300000", "--rounds", "2", "--threads", "1", "--work", str(tmp_path))
    for arguments in (("train", "--body", "ple", "--peers"), ("evaluate", "--peers"), ("read",)):
        code, error = gatehouse(monkeypatch, capsys, "benchmark", *arguments, *options)
        assert (code, error) == (2, "error: it was asked for. Ask for no more.\n")
    with_peers, alone = Frame(tmp_path, 2, 1, True), Frame(tmp_path, 2, 1, False)
    assert given == [(with_peers, "ple", 300_000), (with_peers, 300_000), (alone, 300_000)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("preprocess", "--rows", "10"), "--rows is 10. Give at least 1,000."),
        (("preprocess", "--rounds", "0"), "--rounds is 0. Give at least 1."),
        (("preprocess", "--threads", "0"), "--threads is 0. Give a number from 1 to the "),
        (("preprocess", "--out", "speed.md"), "--out is speed.md. Give a file that ends in .jsonl"),
        (
            ("preprocess", "--growth", "--peers"),
            "--growth measures Gatehouse alone. Leave --peers out, or --growth.",
        ),
        (("score", "--requests", "0"), "--requests is 0. Give at least 1."),
        (("score", "--candidates", "0"), "--candidates is 0. Give at least 1."),
        (("train", "--rows", "199999"), "--rows is 199999. Give at least 200,000."),
        (("train", "--growth", "--body", "ple"), "--growth has rows and a body of its own. Leave --rows and --body"),
        (("train", "--growth", "--rows", "300000"), "--growth has rows and a body of its own. Leave --rows and --body"),
        (("evaluate", "--rows", "1"), "--rows is 1. Give at least 200,000."),
        (("read", "--rows", "1"), "--rows is 1. Give at least 200,000."),
    ],
)
def test_a_wrong_option_is_one_line(arguments: tuple[str, ...], said: str, monkeypatch: Any, capsys: Any) -> None:
    code, error = gatehouse(monkeypatch, capsys, "benchmark", *arguments)
    assert code == 2
    assert error.startswith(f"error: {said}")
    assert error.count("\n") == 1
