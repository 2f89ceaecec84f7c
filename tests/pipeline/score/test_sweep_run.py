"""A sweep of the fusion end to end on a small log: its files, its page and restarts."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from changed_settings import MakeConfig
from swept_runs import Change, changes_of, files_of, train_swept

from pipeline.config import RESOLVED_NAME
from pipeline.evaluate import scoring
from pipeline.evaluate.prediction_table import write_part
from pipeline.executor import InProcessExecutor
from pipeline.run_config import RunConfig
from pipeline.score.config import SweepConfig
from pipeline.score.formula import parse_fusion
from pipeline.score.sweep import measure as measuring
from pipeline.score.sweep.form import Sweep
from pipeline.score.sweep.page import render_sweep
from pipeline.score.sweep.run import sweep
from pipeline.score.sweep.trials import plan_sweep

RANDOM = {"parameters": {"a": {"low": -1, "high": 2}, "b": [0, 1]}, "num_trials": 12, "seed": 3}
TASKS = ["click", "like", "purchase", "watch"]


@pytest.fixture(scope="module")
def trained(demo_settings: dict[str, Any], dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return train_swept(demo_settings, dataset, tmp_path_factory.mktemp("sweep") / "run")


@pytest.fixture
def changed(trained: RunConfig, tmp_path: Path) -> Change:
    return changes_of(trained, tmp_path)


def test_a_sweep_writes_what_its_form_says(changed: Change) -> None:
    config = changed()
    report = sweep(config)
    folder = config.workspace_dir / "sweep"
    assert sorted(path.name for path in folder.iterdir()) == [RESOLVED_NAME, "sweep.html", "sweep.json"]
    assert json.loads((folder / "sweep.json").read_text()) == report
    Sweep.model_validate(report)
    assert not config.report_dir.exists()
    assert report["split"] == "validation"
    assert [one["name"] for one in report["references"]] == ["score.fusion", *TASKS]
    formulas = {one["name"]: one["formula"] for one in report["references"]}
    assert formulas["purchase"] == "joint_purchase"
    assert formulas["watch"] == "click * watch"
    assert [one["parameters"] for one in report["trials"]] == [{"a": a, "b": b} for a in (0, 1, 2) for b in (0, 0.5)]
    assert list(report["trials"][0]["metrics"]) == ["value", *(f"ndcg_{task}" for task in TASKS)]
    chosen_by = [one["metrics"]["value"]["chosen_by"] for one in report["trials"]]
    assert report["best"] == chosen_by.index(max(chosen_by))
    assert report["fusion"] == report["trials"][report["best"]]["formula"]
    outputs = [name for task in config.data_schema.tasks for name in task.output_names]
    assert parse_fusion(report["fusion"], outputs)
    assert report["choosing"]["units"] + report["reporting"]["units"] > 100
    # The same ranking by another name.
    same, alone = report["trials"][2], report["references"][1]
    assert same["formula"] == "click ** 1 * joint_purchase ** 0"
    assert same["metrics"] == alone["metrics"]
    assert same["differences"]["click"]["value"]["difference"] == 0
    assert same["differences"]["score.fusion"] == alone["differences"]["score.fusion"]


def test_the_same_sweep_gives_the_same_files_and_another_seed_other_trials(
    changed: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again, other = changed("run", **RANDOM), changed("again", **RANDOM), changed("other", **RANDOM)
    sweep(first)
    monkeypatch.setattr(measuring, "RANKINGS_PER_ITEM", 5)
    sweep(again, InProcessExecutor(2))
    one, two = (json.loads(files_of(config)["sweep.json"]) for config in (first, again))
    for report in (one, two):
        report["model"], report["title"] = None, None
    assert one == two
    assert len(one["trials"]) == 12
    assert all(-1 <= trial["parameters"]["a"] <= 2 for trial in one["trials"])
    assert {trial["parameters"]["b"] for trial in one["trials"]} == {0, 1}
    reseeded = other.model_copy(
        update={"score": other.score and other.score.model_copy(update={"sweep": _seeded(other, 4)})}
    )
    drawn = [[trial.parameters for trial in plan_sweep(config).rankings[5:]] for config in (first, reseeded)]
    assert drawn[0] == [trial["parameters"] for trial in one["trials"]]
    assert drawn[0] != drawn[1]


def _seeded(config: RunConfig, seed: int) -> SweepConfig:
    assert config.score
    assert config.score.sweep
    return config.score.sweep.model_copy(update={"seed": seed})


def test_a_restart_scores_only_what_is_missing(changed: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = changed("undisturbed")
    sweep(undisturbed)
    config = changed("run")
    written: list[Path] = []

    def write_some(path: Path, *others: Any, **more: Any) -> int:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        return write_part(path, *others, **more)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "write_part", write_some)
        with pytest.raises(KeyboardInterrupt):
            sweep(config)
    assert not (config.workspace_dir / "sweep").exists()
    names = {path.name for path in written}
    scored: list[str] = []

    def write_noting(path: Path, *others: Any, **more: Any) -> int:
        scored.append(path.name)
        return write_part(path, *others, **more)

    monkeypatch.setattr(scoring, "write_part", write_noting)
    sweep(config)
    assert scored
    assert not names & {*scored}
    one, other = (json.loads(files_of(own)["sweep.json"]) for own in (undisturbed, config))
    assert one["trials"] == other["trials"]


def test_the_test_split_is_opened_only_if_asked_for_and_the_report_says_so(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, changed: Change
) -> None:
    config = changed()
    shards = {path.name for path in config.dataset_dir.glob("*test*")}
    read: list[str] = []
    reader = scoring.read_batches

    def noting(dataset_dir: Path, piece: Any, batch_size: int) -> Any:
        read.append(Path(piece.shard.path).name)
        return reader(dataset_dir, piece, batch_size)

    monkeypatch.setattr(scoring, "read_batches", noting)
    assert "test split" not in " ".join(sweep(config)["notes"])
    assert shards
    assert not shards & {*read}
    report = sweep(changed("asked", split="test"))
    assert shards == {name for name in read if "test" in name}
    assert report["split"] == "test"
    assert report["notes"][0].startswith("chosen on the test split")


def test_a_formula_in_use_that_reads_a_column_is_not_compared(changed: Change) -> None:
    report = sweep(changed(fusion="click * price"))
    assert [one["name"] for one in report["references"]] == TASKS
    assert "the formula in use is not compared: score.fusion 'click * price' names 'price'" in report["notes"][0]
    assert report["verdict"].endswith("there is no formula in use to compare it with.")


# --- the page


def test_the_page_is_whole_and_has_every_ranking(changed: Change) -> None:
    config = changed()
    report = sweep(config)
    page = files_of(config)["sweep.html"].decode()
    assert "<script" not in page
    addresses = {*re.findall(r'(?:src|href)="([^"]*)"', page)}
    assert {"#main", "#result", "#trade-offs", "#trials"} < addresses
    assert all(one == "data:," or f'id="{one[1:]}"' in page for one in addresses)
    assert html.escape(report["verdict"]) in page.replace("&#34;", "&quot;")
    assert f"score:\n  fusion: {report['fusion']}</pre>" in page
    assert page.count('<tr class="reference">') == 5
    assert page.count('<th scope="row">') == len(report["trials"]) + 5
    plots = re.findall(r'<svg role="img" aria-label="([^"]*)"', page)
    assert len(plots) == 6
    assert plots[0].startswith("Trade-off of click and like: 6 trials, ")
    assert "in use 0." in plots[0]
    assert "best trial 0." in plots[0]
    assert all(page.count(f'id="{name}"') == 1 for name in re.findall(r' id="([^"]*)"', page))


def test_a_trial_that_is_not_finite_says_so_on_the_page(changed: Change) -> None:
    config = changed(formula="(click - a) ** 0.5", parameters={"a": [0, 0.9]})
    report = sweep(config)
    assert report["fusion"] == "(click - 0) ** 0.5"
    page = files_of(config)["sweep.html"].decode()
    assert re.search(
        r'trial 2<small>a\s=\s0\.9</small></th>\s*<td class="undefined" colspan="5">undefined: the form', page
    )


def test_hostile_names_stay_text_on_the_page(changed: Change, tmp_path: Path) -> None:
    report = sweep(changed())
    report["title"] = "<img src=x onerror=alert(1)>"
    report["notes"] = ["<script>alert(1)</script>"]
    render_sweep(report, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<img" not in page
    assert "<script" not in page
