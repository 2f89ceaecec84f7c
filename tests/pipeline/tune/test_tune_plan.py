"""The trials that are drawn: the same for the same seed, all different, all checked before one of them starts."""

from pathlib import Path
from typing import Any

import pytest
from changed_settings import MakeConfig, merged

from pipeline.errors import ConfigError
from pipeline.shards.manifest import read_index
from pipeline.tune.plan import Planned, plan_trials
from pipeline.tune.run import draw

RATE = "train.dense_optimizer.learning_rate"
SPACE: dict[str, Any] = {
    RATE: {"low": 0.0003, "high": 0.03, "scale": "log"},
    "model.body.num_experts": {"low": 1, "high": 3},
    "model.balancer": [{"kind": "fixed"}, {"kind": "pcgrad"}],
}


@pytest.fixture
def plan(make_config: MakeConfig, demo_settings: dict[str, Any], tmp_path: Path) -> Any:
    """Plans a search from its section, on the small log."""

    def make(parameters: dict[str, Any], **section: Any) -> list[Planned]:
        changes = {"tune": {"parameters": parameters, **section}}
        config = make_config("run", **changes)
        settings = merged(demo_settings, {"workspace": str(tmp_path / "run"), **changes})
        assert config.tune is not None
        return plan_trials(config, settings, read_index(config.dataset_dir), draw(config.tune))

    return make


def test_the_first_trial_is_the_configuration_as_it_stands_and_others_lie_in_the_space(plan: Any) -> None:
    trials = plan(SPACE, trials=12)
    assert [one.number for one in trials] == [*range(12)]
    assert trials[0].values == {}
    assert trials[0].config.train.dense_optimizer.learning_rate == 0.001
    for one in trials[1:]:
        assert 0.0003 <= one.values[RATE] <= 0.03
        assert float(f"{one.values[RATE]:.4g}") == one.values[RATE]
        assert one.values["model.body.num_experts"] in (1, 2, 3)
        assert one.config.train.dense_optimizer.learning_rate == one.values[RATE]
        assert one.config.model.balancer.kind == one.values["model.balancer"]["kind"]
        assert one.config.workspace_dir.name == str(one.number)
    assert {one.values["model.body.num_experts"] for one in trials[1:]} == {1, 2, 3}
    assert sum(one.values[RATE] < 0.003 for one in trials[1:]) in range(2, 10), "half of a log scale"


def test_the_same_seed_draws_the_same_and_more_trials_begin_with_them(plan: Any) -> None:
    few, again, more = plan(SPACE, trials=4), plan(SPACE, trials=4), plan(SPACE, trials=8, concurrent=3)
    values = [one.values for one in few]
    assert [one.values for one in again] == values == [one.values for one in more[:4]]
    assert [one.values for one in plan(SPACE, trials=4, seed=1)][1:] != values[1:]


def test_no_two_trials_train_the_same_and_a_small_space_is_tried_whole(plan: Any) -> None:
    balancers = [{"kind": "fixed"}, {"kind": "pcgrad"}, {"kind": "fixed"}]
    trials = plan({"train.max_epochs": [1, 2, 3], "model.balancer": balancers}, trials=50)
    found = {(one.config.train.max_epochs, one.config.model.balancer.kind) for one in trials}
    assert len(trials) == len(found) == 6


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"model.front_end.num_embeddings": [{"country": 3}]}, "and the dataset has ids for"),
        ({"model.body.num_exprts": [3]}, "num_exprts"),
    ],
)
def test_a_trial_that_does_not_fit_is_named_before_any_starts(plan: Any, parameters: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(parameters)
    assert "a trial of tune.parameters (model." in str(caught.value)
    assert said in str(caught.value)
