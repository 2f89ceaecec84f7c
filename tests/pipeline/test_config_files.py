"""Configuration files: strict YAML, and files that hold none."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from demo_config import refusal
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import MAX_CONFIG_BYTES, parse_yaml, read_config
from pipeline.errors import ConfigError

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
