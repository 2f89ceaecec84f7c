"""`--set`, and the messages about a wrong key or value."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from demo_config import DEMO, refusal, set_on_demo
from pydantic import Field, ValidationError, model_validator

from pipeline.config import Section, apply_overrides, build, nearest
from pipeline.run_config import load_run_config

# --- --set


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["b=3"], {"a": [{"x": 1}, 2], "b": 3}),
        (["b="], {"a": [{"x": 1}, 2], "b": None}),
        (["b=null", "b.c.d=[1, u]"], {"a": [{"x": 1}, 2], "b": {"c": {"d": [1, "u"]}}}),
        (["a.0.x=y=z"], {"a": [{"x": "y=z"}, 2], "b": 0}),
        (["a.1={u: v}", "a.1.w='3'"], {"a": [{"x": 1}, {"u": "v", "w": "3"}], "b": 0}),
        (["a=[]", "b=true"], {"a": [], "b": True}),
        (["b=1", "b=2"], {"a": [{"x": 1}, 2], "b": 2}),
        (["c.0=1"], {"a": [{"x": 1}, 2], "b": 0, "c": {"0": 1}}),
    ],
)
def test_set_puts_a_yaml_value_in_its_place(overrides: list[str], expected: dict[str, Any]) -> None:
    data = {"a": [{"x": 1}, 2], "b": 0}
    assert apply_overrides(data, overrides) == expected
    assert data == {"a": [{"x": 1}, 2], "b": 0}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("b", "--set 'b' is not of the form section.key=value. Write --set section.key=value."),
        ("", "--set '' is not of the form"),
        ("=1", "--set '=1' is not of the form"),
        (".b=1", "--set '.b=1' is not of the form"),
        ("b.=1", "--set 'b.=1' is not of the form"),
        ("a..x=1", "--set 'a..x=1' is not of the form"),
        ("a.2=1", "--set a.2: '2' is not a place in a list of 2. Give a number from 0 to 1."),
        ("a.-1=1", "'-1' is not a place in a list of 2"),
        ("a.x=1", "'x' is not a place in a list of 2"),
        ("a.²=1", "'²' is not a place in a list of 2"),
        ("e.0=1", "--set e.0: '0' is not a place in a list of 0. Set the whole list."),
        ("b.c=1", "--set b.c: 'c' lies below a plain value. Shorten the path."),
        ("a.0.x.y=1", "'y' lies below a plain value"),
        ("b={c: 1, c: 2}", "--set b={c: 1, c: 2}, line 1, column 8: key 'c' appears twice"),
        ("b=*x", "alias *x is not allowed"),
        ("b=\udcff", "unacceptable character"),
    ],
)
def test_a_set_that_has_no_place_is_refused(override: str, message: str) -> None:
    assert message in refusal(lambda: apply_overrides({"a": [{"x": 1}, 2], "b": 0, "e": []}, [override]))


# --- keys and values


@pytest.mark.parametrize(
    ("override", "key", "meant"),
    [
        ("trian.max_epochs=1", "trian", "train"),
        ("model.bodie=1", "model.bodie", "body"),
        ("model.front_end.embeding_dim=8", "model.front_end.embeding_dim", "embedding_dim"),
        ("schema.features.0.min_cout=2", "schema.features.0.min_cout", "min_count"),
        ("schema.features.3.cliped=[0, 1]", "schema.features.3.cliped", "clip"),
        ("schema.tasks.1.spaec=click", "schema.tasks.1.spaec", "space"),
        ("preprocess.tables.0.colums=[a]", "preprocess.tables.0.colums", "columns"),
        ("preprocess.split={kind: hash, column: a, sead: 1}", "preprocess.split.sead", "seed"),
        ("train.early_stopping.patient=1", "train.early_stopping.patient", "patience"),
        ("data_schema={}", "data_schema", "schema"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_one(override: str, key: str, meant: str) -> None:
    message = refusal(lambda: set_on_demo(override))
    assert message == f"{DEMO}: unknown key {key}. Did you mean {meant!r}? If not, remove it."


def test_an_unknown_key_far_from_all_others_comes_with_the_choices() -> None:
    message = refusal(lambda: set_on_demo("score.zzz=1"))
    choices = "candidates, caps, filters, format, fusion, items_column, sweep, top_k"
    assert message.endswith(f"Choose from {choices}, or remove it.")


def test_an_unknown_key_is_named_before_the_key_that_it_leaves_missing() -> None:
    message = refusal(lambda: set_on_demo("preprocess.split={kind: hash, colum: user_id}"))
    assert message == (
        f"{DEMO}: unknown key preprocess.split.colum (and 1 more). Did you mean 'column'? If not, remove it."
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=soon", "seed is 'soon': should be a valid integer, unable to parse string as an integer. Change that"),
        ("model=3", "model is 3: should be a section of keys and values. Change that value."),
        ("seed=-1", "seed is -1: should be greater than or equal to 0. Change that value."),
        (f"seed={2**63}", f"seed is {2**63}: should be less than"),
        ("model.task_weights.click=-1", "model.task_weights.click is -1: should be greater than"),
        ("model.task_weights.click=.nan", "model.task_weights.click is nan: should be"),
        ("model.task_weights=3", "model.task_weights is 3: should be a section of keys and values. Change that value."),
        ("schema=", "schema is None: should be a section of keys and values. Change that value."),
        ("schema.features=[]", "schema.features is []: needs at least 1. Change that value."),
        ("schema.features.0={name: a}", "schema.features.0.kind is missing. Add 'kind'."),
        ("schema.features.0={kind: categorical}", "schema.features.0.name is missing. Add 'name'."),
        (
            "schema.features.0.kind=category",
            "schema.features.0.kind is 'category': "
            "not one of 'categorical', 'multi_valued', 'weighted_multi_valued', 'history', 'crossed', 'time_part', "
            "'bucketed', 'numeric'. Change that value.",
        ),
        ("schema.features.0.min_count=0", "schema.features.0.min_count is 0: should be greater than or equal to 1."),
        ("schema.features.3.clip=[3, 1]", "schema.features.3.clip is [3, 1]: the lower bound must be below the upper"),
        ("preprocess.split.validation_from=[1]", "preprocess.split.validation_from is [1]: should be a valid number"),
        ("train.device=tpu", "train.device is 'tpu': should be 'auto', 'cpu' or 'cuda'. Change that value."),
        (
            "train.num_lanes=7",
            "train: global_batch_size 1024 is not a multiple of num_lanes 7. Change one of these values.",
        ),
        ("train.num_ranks=3", "train: num_lanes 8 is not a multiple of num_ranks 3. Change one of these values."),
        (
            "model.task_weights.clik=2",
            "model.task_weights names 'clik', which the schema does not have. "
            "Did you mean 'click'? If not, change one of these values.",
        ),
        ("train.sharding.tables.user=row_wise", "train.sharding.tables names 'user', which fits no table."),
        ("schema.keys.row=", "evaluate.truth needs schema.keys.row, the column that names a row. Change one of"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(override: str, message: str) -> None:
    assert refusal(lambda: set_on_demo(override)).startswith(f"{DEMO}: {message}")


def test_the_whole_of_a_long_value_is_not_repeated() -> None:
    message = refusal(lambda: set_on_demo("model.tower_widths=" + "x" * 1000))
    assert len(message) < 300


def test_missing_sections_are_named(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("workspace: w\n")
    assert refusal(lambda: load_run_config(path)) == f"{path}: schema is missing (and 1 more). Add 'schema'."


def test_nothing_changes_after_loading() -> None:
    config = set_on_demo()
    with pytest.raises(ValidationError):
        config.seed = 5  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.data_schema.features[0].name = "b"  # type: ignore[misc]


def test_the_nearest_name_is_one_that_could_be_meant() -> None:
    assert nearest("clik", ["click", "like"]) == "did you mean 'click'?"
    assert nearest("zzz", ["like", "click"]) == "choose from click, like"
    assert nearest("zzz", []) == "there is nothing to choose from"


class Wheel(Section):
    kind: Literal["wheel"]
    radius: float = Field(1.0, gt=0)


class Engine(Section):
    kind: Literal["engine"]
    power: int


class Car(Section):
    parts: tuple[Annotated[Wheel | Engine, Field(discriminator="kind")], ...] = ()
    spare: Wheel | None = None

    @model_validator(mode="after")
    def _has_an_engine(self) -> "Car":
        if not any(isinstance(part, Engine) for part in self.parts):
            raise ValueError("parts needs an engine")
        return self


def test_a_key_inside_an_optional_section_and_inside_a_union_is_found() -> None:
    spare = {"spare": {"kind": "wheel", "radiu": 2}}
    assert "unknown key spare.radiu. Did you mean 'radius'?" in refusal(lambda: build(Car, spare, "car.yaml"))
    part = {"parts": [{"kind": "engine", "power": 1, "powr": 2}]}
    assert "unknown key parts.0.powr. Did you mean 'power'?" in refusal(lambda: build(Car, part, "car.yaml"))
    # The name of a kind is no part of the path, and no key of another kind is offered.
    part = {"parts": [{"kind": "engine", "power": 1, "radius": 2}]}
    assert "unknown key parts.0.radius. Choose from kind, power, or" in refusal(lambda: build(Car, part, "car.yaml"))
    assert refusal(lambda: build(Car, {}, "car.yaml")) == (
        "car.yaml: parts needs an engine. Change one of these values."
    )
