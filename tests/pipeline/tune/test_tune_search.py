"""A whole search with its trials in this process: what stays closed, what is kept, and how it ends."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from changed_settings import MakeConfig, merged
from poisoned_test_split import poison_test_split

from pipeline.config import build
from pipeline.errors import ArtifactError, StorageError, TrainingError, UsageError
from pipeline.run_config import RunConfig
from pipeline.tune import run as tune_run
from pipeline.tune.form import Outcome, TuneReport
from pipeline.tune.plan import TUNE_FOLDER, WORK_NAME, Planned, unfinished
from pipeline.tune.report import BEST_YAML, TUNE_HTML, TUNE_JSON
from pipeline.tune.run import Note, tune
from pipeline.tune.trial import OUTCOME_NAME, run_trial

RATE = "train.dense_optimizer.learning_rate"
Search = Callable[..., tuple[RunConfig, TuneReport]]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the trials that are run, here instead of by Ray Tune."""
    numbers: list[int] = []

    def run_here(_: RunConfig, left: dict[int, Planned], __: Any, note: Note) -> None:
        for one in left.values():
            numbers.append(one.number)
            try:
                note(one.number, run_trial(one.config, one.values))
            except StorageError as error:
                note(one.number, unfinished(one, str(error)))

    monkeypatch.setattr(tune_run, "_run_on_ray", run_here)
    return numbers


@pytest.fixture
def search(make_config: MakeConfig, demo_settings: dict[str, Any], done: list[int]) -> Search:
    def start(section: Mapping[str, Any], *, overwrite: bool = False, **changes: Any) -> tuple[RunConfig, TuneReport]:
        changed = merged({"train": {"global_batch_size": 1024}, "tune": dict(section)}, changes)
        config = make_config("run", **changed)
        settings = merged(demo_settings, {"workspace": config.workspace, **changed})
        return config, tune(config, settings, lambda _: pytest.fail("Ray is not started"), overwrite=overwrite)

    return start


def test_no_trial_and_no_choice_opens_the_test_split(
    make_config: MakeConfig, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = poison_test_split(make_config("run"), monkeypatch)
    _, report = search({"parameters": {RATE: [0.01]}})
    assert opened == []
    assert report.split == "validation"
    assert [one.feasible for one in report.trials] == [True, True]


def test_the_best_configuration_is_the_users_with_the_values_of_the_best_trial(
    search: Search, demo_settings: dict[str, Any]
) -> None:
    config, report = search({"parameters": {RATE: [0.01], "model.balancer": [{"kind": "pcgrad"}]}})
    folder = config.workspace_dir / TUNE_FOLDER
    content = yaml.safe_load((folder / BEST_YAML).read_text())
    assert report.best == 1
    expected = merged(demo_settings, {"train": {"dense_optimizer": {"learning_rate": 0.01}, "global_batch_size": 1024}})
    expected["model"] = {**expected["model"], "balancer": {"kind": "pcgrad"}}
    assert {key: own for key, own in content.items() if key not in ("workspace", "tune")} == {
        key: own for key, own in expected.items() if key != "workspace"
    }
    assert build(RunConfig, content, "the tests").workspace == config.workspace
    assert TuneReport.model_validate_json((folder / TUNE_JSON).read_text()) == report
    assert report.trials[0].parameters == {RATE: 0.001, "model.balancer": {"kind": "fixed"}}
    assert report.trials[0].objective == 0.0


def test_finished_trials_are_kept_and_more_are_added_to_them(search: Search, done: list[int]) -> None:
    space = {"parameters": {RATE: {"low": 0.001, "high": 0.02}}}
    _, first = search({**space, "trials": 2})
    assert done == [0, 1]
    _, second = search({**space, "trials": 3, "concurrent": 2, "weights": {"click": 1}})
    assert done == [0, 1, 2]
    assert [one.tasks for one in second.trials[:2]] == [one.tasks for one in first.trials]
    gain = second.trials[1].tasks["click"].gain
    assert second.trials[1].objective == gain
    search({**space, "trials": 2}, overwrite=True)
    assert done == [0, 1, 2, 0, 1]


def test_a_failure_of_the_storage_is_tried_again_and_one_of_the_training_is_not(
    search: Search, done: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise StorageError("the disk is full", "free space")

    space = {"parameters": {RATE: [1e30]}}
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.tune.trial.train", fail)
        with pytest.raises(TrainingError) as caught:
            search(space)
    assert "every trial failed: trial 0, the configuration as it stands: the disk is full. Free space" in str(
        caught.value
    )
    assert caught.value.exit_code == 3
    _, report = search(space)
    assert [one.failed is None for one in report.trials] == [True, False]
    assert report.best == 0
    assert done == [0, 1, 0, 1]
    search(space)
    assert done == [0, 1, 0, 1], "a training that diverged would diverge again"


def test_a_search_whose_every_trial_fails_is_an_error_and_is_written_down(search: Search, tmp_path: Path) -> None:
    training = {"dense_optimizer": {"learning_rate": 1e30}}
    with pytest.raises(TrainingError, match=r"every trial failed: .* is not a number at step 2"):
        search({"parameters": {"seed": [3]}}, train=training)
    folder = tmp_path / "run" / TUNE_FOLDER
    report = TuneReport.model_validate_json((folder / TUNE_JSON).read_text())
    assert [one.failed is not None for one in report.trials] == [True, True]
    assert report.best is None
    assert (folder / TUNE_HTML).is_file()
    assert not (folder / BEST_YAML).exists()


@pytest.mark.parametrize(
    ("section", "changes", "said"),
    [
        ({"parameters": {RATE: [0.02]}}, {}, rf"parameters.{RATE}.values was \[0.01\], and is \[0.02\]"),
        ({"parameters": {RATE: [0.01], "seed": [1]}}, {}, "parameters.seed was null, and is"),
        ({"parameters": {RATE: [0.01]}, "seed": 5}, {}, "seed was 0, and is 5"),
        ({"parameters": {RATE: [0.01]}}, {"model": {"tower_widths": [16]}}, r"model.tower_widths was \[8\], and is"),
        ({"parameters": {RATE: [0.01]}}, {"evaluate": {"weighted": False}}, "weighted was true, and is false"),
    ],
)
def test_a_changed_configuration_is_an_error_that_says_what_changed(
    search: Search, done: list[int], section: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    begin(search, {"parameters": {RATE: [0.01]}})
    with pytest.raises(UsageError, match=rf"holds a search with other settings \({said}") as caught:
        search(section, **changes)
    assert "add --overwrite to start anew" in str(caught.value)
    assert done == []


def begin(search: Search, section: dict[str, Any]) -> None:
    """A search that is killed before its first trial."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune_run, "_run_on_ray", stop)
        with pytest.raises(KeyboardInterrupt):
            search(section)


def stop(*_: Any) -> None:
    raise KeyboardInterrupt


def test_what_was_damaged_is_named(search: Search, tmp_path: Path) -> None:
    section = {"parameters": {RATE: [0.01]}}
    begin(search, section)
    folder = tmp_path / "run" / TUNE_FOLDER
    outcome = Outcome(
        trial_version=1, parameters={RATE: 0.5}, metrics={}, step=None, num_steps=None, seconds=None, failed="no"
    )
    (folder / "trials" / "1").mkdir(parents=True)
    (folder / "trials" / "1" / OUTCOME_NAME).write_text(outcome.model_dump_json())
    with pytest.raises(ArtifactError, match=r"holds another trial than a trial of tune.parameters \(.*=0.01\)"):
        search(section)
    (folder / WORK_NAME).write_text("{")
    with pytest.raises(ArtifactError, match=r"work\.json is not JSON"):
        search(section)
