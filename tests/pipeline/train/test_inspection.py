"""What a run tells about its experts and the tasks' gradients: by hand, on several ranks, and as alarms."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from combination_ranks import NUM_ROWS, make_step, on_ranks, own_rows
from small_model import PADDING, TASKS, batch_of, make_rows

from models.bodies.mmoe import MMoE
from models.layers import mix
from pipeline.train.config import TrainConfig
from pipeline.train.inspection import inspect_step
from pipeline.train.run import train
from pipeline.train.step import TrainingStep
from pipeline.train.telemetry import read_history, read_inspections

NAMES = [task.name for task in TASKS]


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield
    dist.destroy_process_group()


def look(body: str, num_steps: int = 1) -> dict[str, Any]:
    """What is seen after some steps of a small model; each batch ends in padding."""
    train_step, _ = make_step((body, "independent", "fixed"), TrainConfig())
    for step in range(num_steps):
        rows = [*make_rows(NUM_ROWS - 6, seed=step), *[PADDING] * 6]
        batch = batch_of(rows[own_rows(step)])
        train_step(batch, step, with_gram=True)
    return see(train_step, batch)


def see(train_step: TrainingStep, batch: Any) -> dict[str, Any]:
    assert train_step.gram_TT is not None
    return inspect_step(train_step.training_model, batch, train_step.weights, train_step.gram_TT)


def test_weights_entropy_and_similarity_are_those_of_the_rows_without_padding(one_rank: None) -> None:
    train_step, _ = make_step(("cgc", "independent", "fixed"), TrainConfig())
    batch = batch_of([*make_rows(30), *[PADDING] * 18])
    train_step(batch, 0, with_gram=True)
    (level, seen), *_ = see(train_step, batch)["mixtures"].items()
    inputs = train_step.training_model.inputs.detach()[:30]
    mixture = mix(train_step.training_model.model.body, inputs)[1][level]
    assert seen["experts"] == list(mixture.names)
    for place, name in enumerate(NAMES):
        visible = mixture.seen_TE[place]
        weight_BE = mixture.weight_BTE[:, place][:, visible]
        told = [weight for weight in seen["mean_weight"][name] if weight is not None]
        assert told == pytest.approx(weight_BE.mean(dim=0).tolist(), rel=1e-5)
        entropy = -(weight_BE * weight_BE.log()).sum(dim=1).mean() / math.log(int(visible.sum()))
        assert seen["entropy"][name] == pytest.approx(float(entropy), rel=1e-5)
    outputs_EN = mixture.expert_BEH.transpose(0, 1)
    centred_EN = (outputs_EN - outputs_EN.mean(dim=1, keepdim=True)).flatten(1)
    torch.testing.assert_close(
        torch.tensor(seen["similarity"]),
        torch.nn.functional.cosine_similarity(centred_EN[:, None], centred_EN[None], dim=2),
        rtol=1e-4,
        atol=1e-5,
    )


def test_norms_and_cosines_are_those_of_the_gradients_of_each_task(one_rank: None) -> None:
    train_step, _ = make_step(("shared_bottom", "independent", "fixed"), TrainConfig())
    batch, core = batch_of(make_rows(NUM_ROWS)), train_step.training_model
    losses_T, _ = core(batch)
    shared = [*core.model.body.parameters(), core.inputs]
    gradients = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, shared, retain_graph=True)]) for loss in losses_T
    ]
    train_step(batch, 0, with_gram=True)
    seen = see(train_step, batch)["gradients"]
    for place, name in enumerate(NAMES):
        assert seen["norm"][name] == pytest.approx(float(gradients[place].norm()), rel=1e-4)
        for other in range(len(NAMES)):
            cosine = torch.nn.functional.cosine_similarity(gradients[place], gradients[other], dim=0)
            assert seen["cosine"][place][other] == pytest.approx(float(cosine), abs=1e-5)


def test_a_body_without_experts_has_no_mixtures_and_no_alarms(one_rank: None) -> None:
    seen = look("shared_bottom")
    assert (seen["mixtures"], seen["alarms"]) == ({}, [])
    assert seen["weights"] == {"loss": dict.fromkeys(NAMES, 1.0), "shared": dict.fromkeys(NAMES, 1.0)}


def test_a_fresh_model_raises_no_alarm(one_rank: None) -> None:
    assert look("mmoe")["alarms"] == []
    assert look("ple")["alarms"] == []


def test_a_dead_expert_and_two_that_say_the_same_raise_alarms(one_rank: None) -> None:
    train_step, _ = make_step(("mmoe", "independent", "fixed"), TrainConfig())
    batch, body = batch_of(make_rows(NUM_ROWS)), train_step.training_model.model.body
    train_step(batch, 0, with_gram=True)
    assert isinstance(body, MMoE)
    with torch.no_grad():
        # The third expert repeats the first, and no gate gives anything to the second.
        for layer in body.experts.later:
            for parameter in layer.parameters():
                parameter[2] = parameter[0]
        for first in body.experts.first.parameters():
            width = first.shape[2] // 3
            first[..., 2 * width :] = first[..., :width]
        inputs = train_step.training_model.inputs
        body.gate.weight_GIN.zero_()
        # No bias: a large weight on an input that is everywhere positive.
        inputs[:, 0] = 1.0
        body.gate.weight_GIN.view(-1, len(NAMES), 3)[0, :, 1] = -20.0
    alarms = see(train_step, batch)["alarms"]
    assert [alarm.split(":")[0] for alarm in alarms] == [
        "'expert 1' in experts is dead",
        "'expert 0' and 'expert 2' in experts say the same",
    ]


@pytest.mark.slow
def test_two_ranks_see_what_one_sees(tmp_path: Path) -> None:
    one, two = (on_ranks(look, num_ranks, tmp_path, "ple", 3) for num_ranks in (1, 2))
    assert_same(two, one)


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)
    else:
        assert found == (expected if not isinstance(expected, float) else pytest.approx(expected, rel=1e-4, abs=1e-5))


def test_a_run_writes_its_inspections_beside_its_losses_and_resumes_them(make_config: Any) -> None:
    settings = {"inspect_every_steps": 10, "checkpoint_every_steps": 25, "validate_every_steps": 25}
    config = make_config(train={**settings, "max_epochs": 1})
    train(config)
    seen = read_inspections(config.workspace_dir)
    last = read_history(config.workspace_dir)[-1]["step"]
    assert [record["step"] for record in seen] == list(range(10, last + 1, 10))
    assert seen[0]["mixtures"].keys() == {"experts"}
    assert seen[0]["gradients"]["norm"].keys() == {"click", "like", "purchase", "watch"}
    train(config, resume=True)
    assert read_inspections(config.workspace_dir) == seen


def test_inspections_can_be_left_out_and_change_no_parameter(make_config: Any) -> None:
    looked, blind = (
        make_config("looked", train={"inspect_every_steps": 1}),
        make_config("blind", train={"inspect_every_steps": None}),
    )
    train(looked)
    train(blind)
    assert read_inspections(blind.workspace_dir) == []
    losses = [[r["losses"] for r in read_history(c.workspace_dir)] for c in (looked, blind)]
    assert losses[0] == losses[1]
