"""What the monitor says of trainings is what their files say, whatever a file looks like at that moment."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from monitored import FIRST_SLOT, errors_in, make_config, record, scrape, write_records

from pipeline.monitor import training
from pipeline.retrain.plan import folder_of
from pipeline.retrain.state import STAGES, SlotState, write_state
from pipeline.run_config import RunConfig
from pipeline.train import telemetry
from pipeline.train.checkpoints.checkpoint import CheckpointManifest, commit
from pipeline.train.run import one_rank_group

RUN = "workspace"


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    (tmp_path / "registry").mkdir()
    return make_config(tmp_path)


def finish(config: RunConfig, folder: Path, step: int, is_finished: bool) -> None:
    """Writes a checkpoint as a training does."""
    partial = folder / "checkpoints" / "partial"
    partial.mkdir(parents=True)
    manifest = CheckpointManifest(
        step=step,
        epoch=1,
        step_in_epoch=0,
        attempt="a",
        num_ranks=1,
        schema_fingerprint="s",
        data_schema=config.data_schema,
        vocabulary_version="v",
        vocabularies={},
        numbers="n",
        run_fingerprint="r",
        validation_losses=None,
        validation_total=None,
        best_validation_total=None,
        validations_without_improvement=0,
        is_finished=is_finished,
    )
    commit(partial, manifest, {})


def test_the_last_records_are_exported_as_they_are_written(config: RunConfig) -> None:
    folder = config.workspace_dir
    path = write_records(
        folder,
        record(10, 1.0, click=0.9, like=0.4),
        record(20, 3.0, "validation", click=0.8, like=0.3),
        record(60, 5.0, click=0.7, like=0.2),
        record(80, 9.0, click=0.6, like=0.1),
    )
    os.utime(path, (1_700_000_000, 1_700_000_000))
    values = scrape(config)
    assert {key: value for key, value in values.items() if key[0].startswith("training")} == {
        ("training_step", RUN): 80,
        ("training_planned_steps", RUN): 100,
        ("training_samples", RUN): 800,
        ("training_epoch", RUN): 1,
        ("training_loss", RUN, "train", "click"): 0.6,
        ("training_loss", RUN, "train", "like"): 0.1,
        ("training_loss", RUN, "validation", "click"): 0.8,
        ("training_loss", RUN, "validation", "like"): 0.3,
        ("training_samples_per_second", RUN): 50,
        ("training_record_timestamp_seconds", RUN): 1_700_000_000,
        ("training_finished", RUN): 0,
    }
    assert errors_in(values) == set()


def test_a_workspace_without_a_training_says_nothing_and_is_no_error(config: RunConfig) -> None:
    values = scrape(config)
    assert not [key for key in values if key[0].startswith("training")]
    assert errors_in(values) == set()


def test_a_workspace_that_is_not_there_is_an_error(config: RunConfig) -> None:
    config.workspace_dir.rmdir()
    said: list[str] = []
    assert errors_in(scrape(config, said)) == {"training"}
    assert said == [f"training: the workspace {config.workspace} is not there. Correct `workspace`; the first run "
                    "makes it."]  # fmt: skip


def test_a_file_that_grows_is_followed_and_a_line_without_its_end_is_not_there_yet(config: RunConfig) -> None:
    path = write_records(config.workspace_dir, record(10, 1.0))
    assert scrape(config)["training_step", RUN] == 10
    line = json.dumps(record(20, 2.0)) + "\n"
    for end in (len(line) // 2, len(line) - 1):
        with open(path, "a") as file:
            file.write(line[:end])
        values = scrape(config)
        assert (values["training_step", RUN], errors_in(values)) == (10, set())
        path.write_text(path.read_text()[:-end])
    write_records(config.workspace_dir, record(20, 2.0))
    assert scrape(config)["training_step", RUN] == 20


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_exported_as_it_is(config: RunConfig, loss: float) -> None:
    write_records(config.workspace_dir, record(10, 1.0, click=loss))
    values = scrape(config)
    assert values["training_loss", RUN, "train", "click"] == pytest.approx(loss, nan_ok=True)
    assert errors_in(values) == set()


def test_of_a_long_file_only_the_end_is_read(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    path = config.workspace_dir / "metrics.jsonl"
    path.write_text("no record at all\n" * 100)
    write_records(config.workspace_dir, *(record(step, float(step)) for step in range(1, 9)))
    assert errors_in(scrape(config)) == {"training"}
    monkeypatch.setattr(training, "TAIL_BYTES", 4 * len(json.dumps(record(8, 8.0))))
    values = scrape(config)
    assert (values["training_step", RUN], values["training_samples_per_second", RUN]) == (8, 10)
    assert errors_in(values) == set()
    assert ("training_loss", RUN, "validation", "click") not in values


def test_a_validation_at_the_end_leaves_the_speed_of_the_training(config: RunConfig) -> None:
    write_records(config.workspace_dir, record(10, 1.0), record(20, 2.0), record(20, 9.0, "validation"))
    values = scrape(config)
    assert values["training_samples_per_second", RUN] == 100
    assert {key[2] for key in values if key[0] == "training_loss"} == {"train", "validation"}


def test_a_speed_across_a_resumption_is_left_out(config: RunConfig) -> None:
    write_records(config.workspace_dir, record(10, 500.0), record(20, 30.0))
    assert ("training_samples_per_second", RUN) not in scrape(config)


def test_records_of_an_earlier_version_have_no_samples(config: RunConfig) -> None:
    old = [{key: value for key, value in record(step, step).items() if key != "samples"} for step in (10, 20)]
    write_records(config.workspace_dir, *old)
    values = scrape(config)
    assert values["training_step", RUN] == 20
    assert not {"training_samples", "training_samples_per_second"} & {key[0] for key in values}
    assert errors_in(values) == set()


@pytest.mark.parametrize(
    "line", ["{", '{"step": 5}', "[]", '{"step": "5"}', json.dumps(record(5, 1.0) | {"losses": 1})]
)
def test_a_damaged_record_is_an_error_and_the_others_go_on(config: RunConfig, line: str) -> None:
    (config.workspace_dir / "metrics.jsonl").write_text(line + "\n")
    values = scrape(config)
    assert errors_in(values) == {"training"}
    assert values["lease_held",] == 0
    assert ("training_step", RUN) not in values


@pytest.mark.parametrize(("step", "is_finished", "expected"), [(20, True, 1), (20, False, 0), (10, True, 0)])
def test_a_training_is_finished_by_its_last_checkpoint(
    config: RunConfig, step: int, is_finished: bool, expected: int
) -> None:
    write_records(config.workspace_dir, record(20, 1.0))
    finish(config, config.workspace_dir, step, is_finished)
    assert scrape(config)["training_finished", RUN] == expected


def test_a_damaged_checkpoint_costs_what_it_says_and_no_more(config: RunConfig) -> None:
    write_records(config.workspace_dir, record(20, 1.0))
    finish(config, config.workspace_dir, 20, True)
    (manifest,) = config.checkpoints_dir.glob("*/manifest.json")
    manifest.write_text("{}")
    values = scrape(config)
    assert errors_in(values) == {"training"}
    assert values["training_step", RUN] == 20
    assert ("training_finished", RUN) not in values


def test_the_newest_slot_is_exported_beside_the_workspace(config: RunConfig) -> None:
    for day, complete in ((0, STAGES), (1, STAGES[:2])):
        folder = folder_of(config, FIRST_SLOT.replace(day=FIRST_SLOT.day + day))
        write_records(folder, record(30 + day, 1.0))
        write_state(folder, SlotState(run_id="r", settings="s", champion=None, complete=complete))
    write_records(config.workspace_dir, record(5, 1.0))
    values = scrape(config)
    assert (values["training_step", "slot"], values["training_step", RUN]) == (31, 5)
    assert {stage: values["retrain_stage_complete", stage] for stage in STAGES} == {
        stage: stage in STAGES[:2] for stage in STAGES
    }


def test_a_damaged_state_of_a_slot_is_an_error(config: RunConfig) -> None:
    folder = folder_of(config, FIRST_SLOT)
    write_records(folder, record(30, 1.0))
    (folder / "state.json").write_text("{")
    values = scrape(config)
    assert errors_in(values) == {"slot"}
    assert ("training_step", "slot") not in values


def test_without_a_registry_and_a_schedule_there_is_the_training_alone(tmp_path: Path) -> None:
    config = make_config(tmp_path, registry=None, retrain=None)
    write_records(config.workspace_dir, record(5, 1.0))
    values = scrape(config)
    assert {key[1] for key in values if key[0] == "scrape_error"} == {"training"}
    assert values["training_step", RUN] == 5


def test_the_file_has_the_name_that_training_gives_it() -> None:
    assert training.METRICS_NAME == telemetry.METRICS_NAME


def test_what_telemetry_writes_is_what_is_read(config: RunConfig) -> None:
    with one_rank_group(config):
        written = telemetry.Telemetry(config.workspace_dir, ["click"], [1.0], 10, 40, lambda step: 3 * step, 0, None)
        for step in range(1, 21):
            written.record(step, 0, torch.tensor([[float(step)], [2.0]]))
        written.write(20, 0, "validation", torch.tensor([[1.0], [4.0]]))
        written.close()
    values = scrape(config)
    assert errors_in(values) == set()
    assert values["training_samples", RUN] == 60
    assert values["training_planned_steps", RUN] == 40
    assert values["training_loss", RUN, "train", "click"] == sum(range(11, 21)) / 20
    assert values["training_loss", RUN, "validation", "click"] == 0.25
