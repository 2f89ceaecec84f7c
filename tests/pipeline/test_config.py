"""Strict YAML, `--set`, the messages about a wrong key or value, and the resolved dump."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from pipeline.config import (
    MAX_CONFIG_BYTES,
    RESOLVED_NAME,
    Section,
    apply_overrides,
    build,
    dump,
    nearest,
    parse_yaml,
    read_config,
)
from pipeline.errors import ConfigError
from pipeline.run_config import RunConfig, load_run_config

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
DEMO = CONFIGS / "demo.yaml"
HOSTILE_SECONDS = 3.0


def refusal(call: Callable[[], Any]) -> str:
    """The message of a ConfigError, which must come soon and fit on a line."""
    start = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        call()
    assert time.perf_counter() - start < HOSTILE_SECONDS
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def set_on_demo(*overrides: str) -> RunConfig:
    return load_run_config(DEMO, overrides)


# --- YAML


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", "run.yaml, line 4, column 3: key 'c' appears twice"),
        ("{a: 1, 'a': 2}", "key 'a' appears twice"),
        ("a: &x [1]\nb: *x", "run.yaml, line 2, column 4: alias *x is not allowed: write the value out"),
        ("a: &x {b: *x}", "alias *x is not allowed"),
        ("a: !!python/object/apply:os.system [ls]", "tag !!python/object/apply:os.system is not allowed"),
        ("a: !<tag:yaml.org,2002:python/name:os.system> b", "tag !!python/name:os.system is not allowed"),
        ("a: !!set {b, c}", "tag !!set is not allowed: write the plain value"),
        ("a: !!timestamp soon", "tag !!timestamp is not allowed"),
        ("!!map [a]", "tag !!map is not allowed"),
        ("a: !mine 3", "tag !mine is not allowed"),
        ("1: a", "run.yaml, line 1, column 1: key 1 is not text: put it in quotes"),
        ("a:\n  on: 1", "run.yaml, line 2, column 3: key True is not text"),
        ("? [a]\n: b", "key ['a'] is not text"),
        ("? {a: b}\n: c", "key {'a': 'b'} is not text"),
        ("2025-01-01: b", "is not text"),
        ("a: [1", "run.yaml, line 1, column 6: while parsing a flow sequence, expected ',' or ']'"),
        ("a:\tb", "run.yaml, line 1, column 3: "),
        ("--- a\n--- b", "expected a single document in the stream, but found another document"),
        ("a: \x00", "run.yaml: unacceptable character #x0000"),
        ("a: \udcff", "run.yaml: unacceptable character #xdcff"),
        ("a: 2025-13-45", "run.yaml, line 1, column 4: bad value: month must be in 1..12"),
        ("a: 2025-01-01T99:00:00Z", "bad value: hour must be in 0..23"),
        ("a: 0x_", "bad value: "),
        ("a: " + "1" * 5000, "bad value: "),
        ("[" * 100_000, "run.yaml is nested too deeply. Flatten it."),
        ("{a: " * 20_000, "run.yaml is nested too deeply"),
        ("- " * 20_000, "run.yaml is nested too deeply"),
        ("a: " + "x" * MAX_CONFIG_BYTES, "run.yaml has 1,048,579 bytes, and a configuration has at most 1,048,576"),
        ("é" * (MAX_CONFIG_BYTES // 2 + 1), "run.yaml has 1,048,578 bytes"),
    ],
)
def test_yaml_that_is_not_plain_is_refused_with_its_place(text: str, message: str) -> None:
    assert message in refusal(lambda: parse_yaml(text, "run.yaml"))


def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))]
    assert "line 2, column 10: alias *a0 is not allowed" in refusal(lambda: parse_yaml("\n".join(lines), "run.yaml"))


def test_a_merge_key_is_an_ordinary_key() -> None:
    assert parse_yaml("<<: {a: 1}\nb: =", "run.yaml") == {"<<": {"a": 1}, "b": "="}


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(plain)
def test_every_plain_value_is_read_as_pyyaml_reads_it(value: Any) -> None:
    # Without `default_style`, PyYAML writes an alias where two parts are the same object.
    class Writer(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    text = yaml.dump(value, Dumper=Writer)
    assert parse_yaml(text, "run.yaml") == yaml.safe_load(text) == value


@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!?|>'\"#%@`, \n\t=<01.~\x00é"), max_size=40))
def test_any_text_is_read_or_refused_as_configuration(text: str) -> None:
    try:
        parse_yaml(text, "run.yaml")
    except ConfigError as error:
        assert str(error).startswith("run.yaml")  # noqa: PT017


# --- files


def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    assert f"configuration file {path} is not there. Check the path" in refusal(lambda: read_config(path))
    assert f"configuration file {tmp_path} is not there" in refusal(lambda: read_config(tmp_path))
    path.write_bytes(b"a: \xff\xfe")
    assert f"{path} is not UTF-8 text" in refusal(lambda: read_config(path))
    for text in ("", "- a", "3", "null"):
        path.write_text(text)
        assert f"{path} does not hold a mapping of sections" in refusal(lambda: read_config(path))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    with open(path, "wb") as file:
        # Holes: a terabyte that takes no room on the disk, and cannot be read.
        file.truncate(1 << 40)
    assert "has 1,099,511,627,776 bytes, and a configuration has at most 1,048,576" in refusal(
        lambda: read_config(path)
    )


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("a: " + "x" * (MAX_CONFIG_BYTES - 3))
    assert len(read_config(path)["a"]) == MAX_CONFIG_BYTES - 3


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
    assert message.endswith("Choose from batch_size, candidates, fusion, items_column, top_k, or remove it.")


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


# --- the resolved dump


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.name)
def test_a_shipped_configuration_is_the_same_after_a_dump(path: Path, tmp_path: Path) -> None:
    config = load_run_config(path)
    dump(config, tmp_path / "run")
    resolved = tmp_path / "run" / RESOLVED_NAME
    assert load_run_config(resolved) == config
    # And a second dump is the same bytes.
    dump(load_run_config(resolved), tmp_path / "again")
    assert (tmp_path / "again" / RESOLVED_NAME).read_bytes() == resolved.read_bytes()


@pytest.mark.parametrize(
    "overrides",
    [
        ("preprocess.split={kind: time, column: t, validation_from: 2025-01-11 10:00:00, test_from: 2025-01-12}",),
        ("preprocess.split={kind: time, column: t, validation_from: 5, test_from: 7.5}",),
        ("preprocess.split={kind: time, column: t, validation_from: '5', test_from: '007'}",),
        ("preprocess.split={kind: hash, column: user_id, seed: 3}",),
        ("preprocess.log.null_values=['', 'no', 'null', '~', '1e3']", "preprocess.log.delimiter='\t'"),
        ("schema.tasks.0.positive='1'",),
        ("schema.tasks.0.positive=1",),
        ("schema.tasks.0.positive=true",),
        ("schema.tasks.1={name: mood, kind: multiclass, label: l, classes: {warm: 1, cold: '1', hot: true, a: 'on'}}",),
        ("schema.weight='on'",),
        ("schema.features.10.clip=[-1e300, 0.1]",),
        ("train.early_stopping=null", "score=null", "evaluate.truth=null"),
        ("workspace='é: # \"'", "seed=123456789012345678"),
        ("train.dense_optimizer.learning_rate=1e-3", "train.sparse_optimizer.eps=1.0e-30"),
        ("model.body={kind: shared_bottom, widths: [8, 4]}",),
    ],
)
def test_unusual_values_are_the_same_after_a_dump(overrides: tuple[str, ...], tmp_path: Path) -> None:
    config = set_on_demo(*overrides)
    dump(config, tmp_path)
    again = load_run_config(tmp_path / RESOLVED_NAME)
    assert again == config
    # Equal numbers of another type would be other values in a message or a file.
    assert repr(again) == repr(config)


def test_the_dump_shows_every_default(tmp_path: Path) -> None:
    dump(set_on_demo(), tmp_path)
    written = read_config(tmp_path / RESOLVED_NAME)
    assert written.keys() == {field.alias or name for name, field in RunConfig.model_fields.items()}
    assert written["train"]["num_lanes"] == 8
    assert written["schema"]["features"][0]["max_size"] is None
