"""One trial: measured on the validation split alone, resumed where it was stopped, done once."""

import threading
from pathlib import Path
from typing import Any

import pytest
from changed_settings import MakeConfig
from poisoned_test_split import poison_test_split

from pipeline.errors import ArtifactError, LockedError, StorageError
from pipeline.evaluate.run import evaluate
from pipeline.lock import locked
from pipeline.train.checkpoints.checkpoint import list_checkpoints
from pipeline.train.telemetry import Telemetry, read_history
from pipeline.train.trainer import Trainer
from pipeline.tune.trial import OUTCOME_NAME, read_outcome, run_trial

TASKS = {"click", "like", "purchase", "watch"}
VALUES = {"train.max_epochs": 1}


class KilledError(Exception):
    """Stands for the end of the process."""


def test_a_trial_never_opens_the_test_split_and_measures_what_an_evaluation_of_the_validation_split_does(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("run", evaluate={"importance_rows": 0, "slices": [], "num_replicates": 10})
    opened = poison_test_split(config, monkeypatch)
    outcome = run_trial(config, VALUES)
    assert opened == []
    assert outcome.failed is None
    assert outcome.metrics.keys() == TASKS
    on_validation = config.evaluate.model_copy(update={"split": "validation", "truth": None})
    report = evaluate(config.model_copy(update={"evaluate": on_validation}))
    expected = {task["name"]: task["metrics"][task["main_metric"]]["value"] for task in report["tasks"]}
    assert {name: one.value for name, one in outcome.metrics.items()} == {name: expected[name] for name in TASKS}
    # The poison works: who reads the test split meets it.
    with pytest.raises(ArtifactError, match=r"shard .*test-00000\.arrow has 0 bytes"):
        evaluate(config)


def test_a_trial_that_was_stopped_goes_on_from_its_checkpoint_to_the_same_numbers_and_is_not_done_twice(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"checkpoint_every_steps": 10, "checkpoint_in_background": False}
    clean, stopped = make_config("clean", train=training), make_config("stopped", train=training)
    expected = run_trial(clean, VALUES)

    record = Telemetry.record

    def stop_at_25(self: Telemetry, step: int, *others: Any) -> None:
        if step == 25:
            raise KilledError
        record(self, step, *others)

    with monkeypatch.context() as patch:
        patch.setattr(Telemetry, "record", stop_at_25)
        with pytest.raises(KilledError):
            run_trial(stopped, VALUES)
    assert read_outcome(stopped.workspace_dir) is None
    assert [path.name for path in list_checkpoints(stopped.checkpoints_dir)][-1] == "step-00000020"

    steps: list[int] = []

    def note(self: Telemetry, step: int, *others: Any) -> None:
        steps.append(step)
        record(self, step, *others)

    monkeypatch.setattr(Telemetry, "record", note)
    found = run_trial(stopped, VALUES)
    assert steps[0] == 21
    assert (found.metrics, found.step) == (expected.metrics, expected.step)
    losses = [[one["losses"] for one in read_history(config.workspace_dir)] for config in (clean, stopped)]
    assert losses[0] == losses[1]
    assert len(list_checkpoints(stopped.checkpoints_dir)) == 1

    monkeypatch.setattr(Trainer, "train", None)
    assert run_trial(stopped, VALUES) == found == read_outcome(stopped.workspace_dir)


def test_a_training_that_diverges_is_an_outcome_and_a_full_disk_is_none(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("run", train={"dense_optimizer": {"learning_rate": 1e30}})
    outcome = run_trial(config, VALUES)
    assert outcome.failed is not None
    assert "is not a number at step 2" in outcome.failed
    assert outcome.metrics == {}
    assert read_outcome(config.workspace_dir) == outcome

    def fail(*_: Any, **__: Any) -> None:
        raise StorageError("the disk is full", "free space")

    other = make_config("other")
    monkeypatch.setattr("pipeline.tune.trial.train", fail)
    with pytest.raises(StorageError):
        run_trial(other, VALUES)
    assert read_outcome(other.workspace_dir) is None


def test_a_trial_waits_for_the_process_of_a_search_that_was_killed(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("run")
    monkeypatch.setattr("pipeline.tune.trial.train", lambda *_, **__: pytest.fail("it is not begun"))
    monkeypatch.setattr("pipeline.tune.trial.WAIT_SECONDS", 0.0)
    with locked(config.workspace_dir, "another"), pytest.raises(LockedError, match="run another"):
        run_trial(config, VALUES)
    monkeypatch.undo()
    monkeypatch.setattr("pipeline.tune.trial._measure_validation", lambda *_: {})
    holding = threading.Event()

    def hold() -> None:
        with locked(config.workspace_dir, "another"):
            holding.set()
            threading.Event().wait(0.2)

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait()
    assert run_trial(config, VALUES).failed is None
    holder.join()


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "trial.json cannot be read: Expecting property name"), ('{"trial_version": 2}', "trial_version")],
)
def test_a_damaged_outcome_is_named_with_what_to_do(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / OUTCOME_NAME).write_text(content)
    with pytest.raises(ArtifactError) as caught:
        read_outcome(tmp_path)
    assert said in str(caught.value)
    assert f"Remove {tmp_path}: the trial begins anew." in str(caught.value)
    assert "\n" not in str(caught.value)
