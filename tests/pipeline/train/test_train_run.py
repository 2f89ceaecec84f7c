"""The train stage: what it writes, when it stops, how it resumes, what it refuses."""

import json
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.assemble import build_model
from pipeline.config import RESOLVED_NAME, dump
from pipeline.errors import ArtifactError, ConfigError, UsageError
from pipeline.evaluate.run import evaluate
from pipeline.run_config import RunConfig, load_run_config
from pipeline.shards.manifest import read_index
from pipeline.train.checkpoints.checkpoint import best_checkpoint, list_checkpoints, read_manifest
from pipeline.train.checkpoints.reader import load_tensors
from pipeline.train.config import ModelConfig
from pipeline.train.device import has_cuda
from pipeline.train.run import train
from pipeline.train.telemetry import read_history, read_inspections

ROOT = Path(__file__).parents[3]
KILLED_SECONDS = 120


def model_tensors(config: RunConfig, checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every parameter of a checkpoint, by name."""
    model = build_model(read_index(config.dataset_dir), config.model, 0, torch.device("cpu"))
    state = {"model": {f"model.{name}": value.clone() for name, value in model.state_dict().items()}}
    load_tensors(checkpoint, state, is_distributed=False)
    return state["model"]


def assert_same_parameters(config: RunConfig, left: Path, right: Path) -> None:
    tensors, others = model_tensors(config, left), model_tensors(config, right)
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        assert torch.equal(value, others[name]), name


def test_a_run_leaves_checkpoint_history_events_plan_and_configuration(make_config: Any) -> None:
    config = make_config()
    best = train(config)
    workspace = config.workspace_dir
    history = read_history(workspace)
    assert [record["kind"] for record in history].count("validation") == 1
    assert history[-1]["total"] < history[0]["total"]
    assert list((workspace / "tensorboard").glob("events.*"))
    assert "table_wise" in (workspace / "plan.txt").read_text() or "row_wise" in (workspace / "plan.txt").read_text()
    assert load_run_config(workspace / RESOLVED_NAME) == config
    manifest = read_manifest(best, verify=True)
    assert manifest.is_finished
    assert manifest.validation_losses == history[-1]["losses"]


def test_training_twice_gives_the_same_parameters(make_config: Any) -> None:
    first, second = make_config("first"), make_config("second")
    assert_same_parameters(first, train(first), train(second))


def test_every_table_and_every_dense_parameter_is_trained(make_config: Any) -> None:
    config = make_config(train={"checkpoint_every_steps": 1, "keep_checkpoints": 1000})
    train(config)
    checkpoints = list_checkpoints(config.checkpoints_dir)
    first, last = model_tensors(config, checkpoints[0]), model_tensors(config, checkpoints[-1])
    for name, value in first.items():
        assert not torch.equal(value, last[name]), f"{name} did not move"


@pytest.mark.slow
def test_a_killed_run_ends_with_the_parameters_of_an_undisturbed_one(make_config: Any) -> None:
    every = {"checkpoint_every_steps": 5, "max_epochs": 2}
    clean, killed = make_config("clean", train=every), make_config("killed", train=every)
    best = train(clean)
    dump(killed, killed.workspace_dir)
    command = [sys.executable, "-m", "jobs", "train", "--config", str(killed.workspace_dir / RESOLVED_NAME)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + KILLED_SECONDS
    while len(read_history(killed.workspace_dir)) < 23:
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    reached = read_manifest(list_checkpoints(killed.checkpoints_dir)[-1]).step
    assert 15 <= reached < read_manifest(best).step
    resumed = train(killed, resume=True)
    assert resumed.name == best.name
    assert_same_parameters(clean, best, resumed)
    expected = [(r["step"], r["kind"], r["losses"]) for r in read_history(clean.workspace_dir)]
    assert [(r["step"], r["kind"], r["losses"]) for r in read_history(killed.workspace_dir)] == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"front_end": {"attention": {"history": {"target": "item_id"}}}, "interaction": {"kind": "low_rank_cross"}},
        {"body": {"kind": "stem"}, "interaction": {"kind": "factorization_machine"}},
    ],
    ids=["attention and cross", "tables per task and pairs"],
)
def test_every_part_of_a_front_end_is_trained_saved_and_evaluated(make_config: Any, changes: dict[str, Any]) -> None:
    # Without the body of the small demo, whose options do not fit every other.
    model = ModelConfig.model_validate(changes)
    config = make_config(train={"checkpoint_every_steps": 1, "keep_checkpoints": 1000})
    config = config.model_copy(update={"model": model})
    best = train(config)
    first, last = model_tensors(config, list_checkpoints(config.checkpoints_dir)[0]), model_tensors(config, best)
    assert not [name for name, value in first.items() if torch.equal(value, last[name])]
    (click, *_) = evaluate(config)["tasks"]
    assert click["metrics"]["auc"]["value"] > 0.55


@pytest.mark.parametrize("balancer", ["dwa", "famo", "gradnorm", "metabalance", "uncertainty"])
def test_a_resumed_run_goes_on_with_the_weights_of_its_balancer(make_config: Any, balancer: str) -> None:
    settings = {"checkpoint_every_steps": 20, "keep_checkpoints": 10, "inspect_every_steps": 1}
    options = {"window_steps": 7} if balancer == "dwa" else {}
    config = make_config(model={"balancer": {"kind": balancer, **options}}, train=settings)
    best = train(config)
    expected, seen = model_tensors(config, best), read_inspections(config.workspace_dir)
    assert seen[-1]["weights"] != seen[25]["weights"]
    for checkpoint in list_checkpoints(config.checkpoints_dir)[1:]:
        shutil.rmtree(checkpoint)
    assert read_manifest(list_checkpoints(config.checkpoints_dir)[0]).step == 20
    found = model_tensors(config, train(config, resume=True))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert read_inspections(config.workspace_dir) == seen


def test_resuming_a_finished_run_changes_nothing(make_config: Any) -> None:
    config = make_config()
    best = train(config)
    before = read_history(config.workspace_dir)
    assert train(config, resume=True) == best
    assert read_history(config.workspace_dir) == before


def test_a_second_run_in_a_workspace_must_say_resume_or_overwrite(make_config: Any) -> None:
    config = make_config()
    train(config)
    with pytest.raises(UsageError, match=r"already holds a run.*--resume.*--overwrite"):
        train(config)
    train(config, overwrite=True)
    assert len(list_checkpoints(config.checkpoints_dir)) == 1


def test_learning_rates_fall_to_zero_with_linear_decay(make_config: Any) -> None:
    steps = {"checkpoint_every_steps": 1, "keep_checkpoints": 1000, "max_epochs": 1}
    linear = {"sparse_schedule": {"decay": "linear"}, "dense_schedule": {"decay": "linear"}}
    config = make_config(train={**steps, **linear})
    train(config)
    tensors = [model_tensors(config, path) for path in list_checkpoints(config.checkpoints_dir)]
    name = "model.towers.output.weight_NIH"
    moves = [float((after[name] - before[name]).norm()) for before, after in pairwise(tensors)]
    assert sum(moves[-5:]) < 0.3 * sum(moves[:5])
    longer = make_config(train={**steps, **linear, "max_epochs": 2})
    with pytest.raises(ArtifactError, match="another dataset, model or train section"):
        train(longer, resume=True)


def test_resuming_with_another_model_is_refused(make_config: Any) -> None:
    config = make_config()
    train(config)
    other = make_config(model={"tower_widths": [4]})
    with pytest.raises(ArtifactError, match="another dataset, model or train section"):
        train(other, resume=True)


def test_training_stops_when_the_validation_loss_stops_improving(make_config: Any) -> None:
    settings = {
        "max_epochs": 20,
        "sparse_optimizer": {"learning_rate": 1.0},
        "dense_optimizer": {"learning_rate": 0.02},
    }
    config = make_config(train={**settings, "early_stopping": {"patience": 2}})
    best = train(config)
    totals = [record["total"] for record in read_history(config.workspace_dir) if record["kind"] == "validation"]
    place = totals.index(min(totals))
    assert len(totals) == place + 3 < 20
    assert read_manifest(best).validation_total == min(totals)


def test_only_the_newest_checkpoints_and_the_best_one_are_kept(make_config: Any) -> None:
    config = make_config(train={"checkpoint_every_steps": 5, "keep_checkpoints": 2})
    train(config)
    kept = list_checkpoints(config.checkpoints_dir)
    assert len(kept) <= 3
    assert best_checkpoint(config.checkpoints_dir) in kept


def test_the_test_split_is_never_read(make_config: Any) -> None:
    config = make_config()
    for shard in config.dataset_dir.glob("test-*.arrow"):
        shard.unlink()
    train(config)


def test_a_damaged_shard_is_named_before_the_first_step(make_config: Any) -> None:
    config = make_config()
    shard = sorted(config.dataset_dir.glob("train-*.arrow"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=rf"{shard.name} is damaged"):
        train(config)
    assert not list_checkpoints(config.checkpoints_dir)


def test_a_gpu_that_is_not_there_is_a_clear_error(make_config: Any) -> None:
    if has_cuda():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="no GPU that torch and fbgemm can use"):
        train(make_config(train={"device": "cuda"}))


def test_a_line_that_a_kill_cut_short_is_not_history(make_config: Any) -> None:
    config = make_config()
    train(config)
    before = read_history(config.workspace_dir)
    with open(config.workspace_dir / "metrics.jsonl", "a") as file:
        file.write(json.dumps(before[-1])[:40])
    assert read_history(config.workspace_dir) == before
