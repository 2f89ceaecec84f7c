"""`gatehouse score --sweep` end to end on a small log: its files, its page, restarts, and mistakes in its section."""

import html
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from changed_settings import MakeConfig, merged

from jobs.__main__ import main
from pipeline.config import RESOLVED_NAME, build
from pipeline.errors import ConfigError
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
from pipeline.train.run import train

SWEEP: dict[str, Any] = {
    "formula": "click ** a * joint_purchase ** b",
    "parameters": {"a": [0, 1, 2], "b": [0, 0.5]},
    "k": 3,
    "values": {"click": 1, "purchase": 20, "watch": 0.01},
}
RANDOM = {"parameters": {"a": {"low": -1, "high": 2}, "b": [0, 1]}, "num_trials": 12, "seed": 3}
TASKS = ["click", "like", "purchase", "watch"]

Change = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def trained(demo_settings: dict[str, Any], dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    workspace = tmp_path_factory.mktemp("sweep") / "run"
    workspace.mkdir()
    (workspace / "dataset").symlink_to(dataset)
    settings = merged(
        demo_settings, {"workspace": str(workspace), "evaluate": {"num_replicates": 20, "batch_size": 256}}
    )
    config = build(RunConfig, merged(settings, {"score": {"sweep": SWEEP}}), "the tests")
    train(config)
    return config


@pytest.fixture
def changed(trained: RunConfig, tmp_path: Path) -> Change:
    """The trained run with another sweep, in a workspace of its own."""

    def change(name: str = "run", fusion: str = "click * purchase ** 0.5", **section: Any) -> RunConfig:
        workspace = tmp_path / name
        workspace.mkdir()
        for folder in (trained.dataset_dir, trained.checkpoints_dir):
            (workspace / folder.name).symlink_to(folder)
        settings = trained.model_dump(mode="json", by_alias=True)
        own = {**SWEEP, **section}
        settings["score"] |= {"fusion": fusion, "sweep": {key: own[key] for key in own if own[key] is not None}}
        return build(RunConfig, {**settings, "workspace": str(workspace)}, "the tests")

    return change


def files_of(config: RunConfig) -> dict[str, bytes]:
    folder = config.workspace_dir / "sweep"
    return {name: (folder / name).read_bytes() for name in ("sweep.json", "sweep.html")}


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


# --- the command


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
