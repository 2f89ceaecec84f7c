"""The space of a search: what may be in it, its corners, and how a trial's values get into a configuration."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import build, read_config
from pipeline.errors import ConfigError
from pipeline.run_config import RunConfig
from pipeline.tune.config import TuneConfig, TunedKeyConfig
from pipeline.tune.space import (
    as_yaml,
    check_parameters,
    corners,
    describe_values,
    identify,
    show,
    trial_config,
    values_in,
    with_values,
)

DEMO = read_config(Path(__file__).parents[3] / "jobs" / "configs" / "demo.yaml")
RANGE = {"low": 0.001, "high": 0.1}


def parameters_of(**given_ones: Any) -> dict[str, TunedKeyConfig]:
    return build(TuneConfig, {"parameters": given_ones}, "the tests").parameters


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, "parameters is missing"),
        ({"parameters": {}}, "parameters"),
        ({"parameters": {"seed": []}}, "needs at least 1"),
        ({"parameters": {"seed": {"low": 3}}}, "parameters.seed: a parameter needs a list of values, or low and high"),
        ({"parameters": {"seed": {"low": 3, "high": 3}}}, "parameters.seed: low 3 is not below high 3"),
        ({"parameters": {"seed": {"low": 3, "high": 1}}}, "parameters.seed: low 3 is not below high 1"),
        ({"parameters": {"seed": {"low": 0, "high": 1, "scale": "log"}}}, "on a log scale it must be above 0"),
        ({"parameters": {"seed": {"low": -1, "high": 1, "scale": "log"}}}, "low is -1, and on a log scale"),
        ({"parameters": {"seed": {"low": 0, "high": 1, "scale": "cubic"}}}, "'linear' or 'log'"),
        ({"parameters": {"seed": {"low": 0, "high": float("nan")}}}, "parameters.seed.high"),
        ({"parameters": {"seed": {"values": [1], "low": 0}}}, "give one of the two"),
        ({"parameters": {"seed": {"lo": 0, "high": 1}}}, "unknown key parameters.seed.lo. Did you mean 'low'"),
        ({"parameters": {"seed": [1]}, "trials": 1}, "trials is 1"),
        ({"parameters": {"seed": [1]}, "weights": {"click": 0}}, "give at least one a weight above 0"),
        ({"parameters": {"seed": [1]}, "weights": {"click": -1}}, "weights.click is -1"),
        ({"parameters": {"seed": [1]}, "constraints": {"click": {}}}, "needs min, max or max_loss"),
        ({"parameters": {"seed": [1]}, "constraints": {"click": {"min": 2, "max": 1}}}, "min is above max"),
        ({"parameters": {"seed": [1]}, "constraints": {"click": {"max_loss": "some"}}}, "such as 1%"),
    ],
)
def test_a_wrong_section_is_one_line(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(TuneConfig, section, "the tests")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["weights", "constraints"])
def test_a_task_that_the_schema_lacks_is_named(where: str) -> None:
    own: dict[str, Any] = {"weights": {"clik": 1}, "constraints": {"clik": {"min": 0.5}}}
    tune = {"parameters": {"seed": [1]}, where: own[where]}
    with pytest.raises(ConfigError, match=f"tune.{where} names 'clik', which the schema does not have. Did you mean"):
        build(RunConfig, {**DEMO, "tune": tune}, "the tests")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["schema.features.0.min_count"], "trials share one dataset"),
        (["preprocess.seed"], "trials share one dataset"),
        (["evaluate.k"], "are measured alike"),
        (["dataset"], "trials share one dataset"),
        (["workspace"], "only keys of model and train, and seed"),
        (["trian.max_epochs"], "did you mean 'train'?"),
        (["x"], "which is no key of the configuration"),
        (["model.body", "model.body.num_experts"], "'model.body.num_experts', which lies below it"),
        (["train.a.b", "train.a"], "names 'train.a' and 'train.a.b'"),
    ],
)
def test_a_key_that_trials_cannot_differ_in_is_refused(keys: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_parameters(parameters_of(**{key: [1] for key in keys}))
    assert said.lower() in str(caught.value).lower()


def test_keys_that_only_begin_alike_go_together() -> None:
    check_parameters(parameters_of(**{"train.max_epochs": [1], "train.max_epochs_more": [1], "seed": RANGE}))


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.integers(), min_size=1, max_size=5), min_size=1))
def test_the_corners_hold_every_value_and_are_as_few_as_can_be(values: dict[str, list[int]]) -> None:
    points = list(corners(parameters_of(**values)))
    assert len(points) == max(map(len, values.values()))
    for key, own in values.items():
        assert {point[key] for point in points} == {*own}


def test_the_corners_of_a_range_are_its_ends() -> None:
    points = list(corners(parameters_of(a=RANGE, b=["x", "y", "z"])))
    assert [(point["a"], point["b"]) for point in points] == [(0.001, "x"), (0.1, "y"), (0.001, "z")]


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    PLAIN | st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z")), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(JSON)
def test_a_value_gets_into_the_configuration_as_it_is(value: Any) -> None:
    placed = with_values({"train": {"max_epochs": 2}}, {"train.of.it": value, "model.body.widths": value})
    assert placed == {"train": {"max_epochs": 2, "of": {"it": value}}, "model": {"body": {"widths": value}}}
    text = as_yaml(value)
    assert "\n" not in text
    assert yaml.safe_load(f"[{text}]") == [value]
    assert type(yaml.safe_load(f"[{text}]")[0]) is type(value)


def test_a_trial_has_its_own_workspace_the_shared_dataset_and_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    settings = {**DEMO, "tune": {"parameters": {"seed": [1]}}}
    values = {"train.max_epochs": 7, "model.balancer": {"kind": "pcgrad"}}
    config = trial_config(settings, values, tmp_path / "3", tmp_path / "dataset")
    assert config.workspace_dir == tmp_path / "3"
    assert config.dataset_dir == tmp_path / "dataset"
    assert (config.train.max_epochs, config.model.balancer.kind) == (7, "pcgrad")
    assert config.tune is None
    assert config.retrain is None
    assert settings["train"] == DEMO["train"], "the settings are left alone"


def test_a_value_that_a_section_refuses_is_named_with_the_trial() -> None:
    with pytest.raises(ConfigError) as caught:
        trial_config(DEMO, {"train.num_lanes": 3}, Path(), Path())
    assert "a trial of tune.parameters (train.num_lanes=3)" in str(caught.value)
    assert "is not a multiple of num_lanes 3" in str(caught.value)


def test_two_configurations_are_the_same_trial_if_they_train_the_same() -> None:
    def one(**values: Any) -> str:
        return identify(trial_config(DEMO, values, Path(str(len(values))), Path()))

    assert one() == one(**{"model.balancer": {"kind": "fixed"}}) == one(**{"train.max_epochs": 2})
    assert (
        len({one(), one(seed=2), one(**{"train.max_epochs": 3}), one(**{"model.head": {"kind": "independent"}})}) == 4
    )


def test_the_values_that_a_configuration_has_are_found_by_their_keys() -> None:
    config = build(RunConfig, DEMO, "the tests")
    keys = ["train.max_epochs", "model.body.widths.1", "model.body.not_said", "train.early_stopping.patience", "seed"]
    assert values_in(config, dict.fromkeys(keys)) == {
        "train.max_epochs": 2,
        "model.body.widths.1": 32,
        "train.early_stopping.patience": 1,
        "seed": 1,
    }


def test_values_are_shown_short() -> None:
    assert describe_values({"a.b": 0.0012345678, "c": {"kind": "pcgrad"}, "d": [64, 32]}) == (
        "a.b=0.001235, c=pcgrad, d=[64, 32]"
    )
    assert len(show(list(range(100)))) == 60
