"""Makes infra/docs/configuration.md, every key of a configuration, from the configuration classes and the catalogue.

.venv/bin/python infra/configuration_reference.py
"""

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from models.catalogue import BALANCERS, BODIES, HEADS, INTERACTIONS  # noqa: E402
from pipeline.run_config import RunConfig  # noqa: E402

PAGE = ROOT / "infra" / "docs" / "configuration.md"
INTRODUCTION = """\
# Configuration

Every key of a YAML file, its type, its default and its rule, made from the classes by
`infra/configuration_reference.py`; a test compares. `gatehouse json-schema` prints the same for an editor, which then
completes and checks while you type. `--set a.b=c` on the command line changes one key. An unknown key is an error that
names the nearest one.
"""
CATALOGUE: dict[str, Mapping[str, type]] = {
    "model.body": BODIES,
    "model.head": HEADS,
    "model.interaction": INTERACTIONS,
    "model.balancer": BALANCERS,
}
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
    "minItems": "at least {} of them",
    "pattern": "of the form `{}`",
}

Schema = Mapping[str, Any]


def render() -> str:
    """The whole page."""
    schema = RunConfig.model_json_schema(by_alias=True)
    sections = {"RunConfig": schema, **schema["$defs"]}
    lines = [INTRODUCTION]
    for name in _in_order(sections):
        lines += [*_describe_section(_title(name), sections[name]), ""]
    lines += ["## What `kind` may be in the model section", ""]
    for where, entries in CATALOGUE.items():
        lines += [f"### {where}", "", "| kind | options | |", "| --- | --- | --- |"]
        lines += [f"| `{kind}` | {_options(entry)} | {_first_line(entry)} |" for kind, entry in entries.items()]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _in_order(sections: Mapping[str, Schema]) -> Iterator[str]:
    """The names of the sections, each after the first one that names it."""
    seen, waiting = set(), ["RunConfig"]
    while waiting:
        name = waiting.pop(0)
        if name in seen or "properties" not in sections[name]:
            continue
        seen.add(name)
        yield name
        waiting = re.findall(r"#/\$defs/(\w+)", repr(sections[name]["properties"])) + waiting


def _title(name: str) -> str:
    return "The file" if name == "RunConfig" else f"`{name.removesuffix('Config')}`"


def _describe_section(title: str, section: Schema) -> list[str]:
    lines = [f"## {title}", ""]
    if about := section.get("description"):
        lines += [str(about), ""]
    lines += ["| key | type | default | |", "| --- | --- | --- | --- |"]
    required = section.get("required", [])
    for key, field in section["properties"].items():
        default = "**required**" if key in required else _value(field.get("default"))
        lines.append(f"| `{key}` | {_type(field)} | {default} | {_cell(field.get('description', ''))} |")
    return lines


def _type(field: Schema) -> str:
    if "$ref" in field:
        return _link(field["$ref"])
    if "const" in field:
        return _value(field["const"])
    if "enum" in field:
        return ", ".join(map(_value, field["enum"]))
    for union in ("anyOf", "oneOf", "allOf"):
        if union in field:
            return " or ".join(dict.fromkeys(map(_type, field[union])))
    kind = field.get("type", "anything")
    if kind == "array":
        items = [_type(item) for item in field["prefixItems"]] if "prefixItems" in field else [_type(field["items"])]
        kind = f"list of {' and '.join(dict.fromkeys(items))}"
    elif kind == "object":
        inner = field.get("additionalProperties")
        kind = f"map of names to {_type(inner)}" if isinstance(inner, dict) else "map"
    words = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    bounds = [words_of.format(_cell(str(field[bound]))) for bound, words_of in BOUNDS.items() if bound in field]
    return ", ".join([words.get(str(kind), str(kind)), *bounds])


def _link(reference: str) -> str:
    name = reference.rsplit("/", 1)[1].removesuffix("Config")
    return f"[{name}](#{name.lower()})"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ""  # that of a section: its own keys have their defaults
    return f"`{_cell(value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _options(entry: type) -> str:
    options = [
        f"`{name}: {_default(parameter.default)}`"
        for name, parameter in inspect.signature(entry).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    return ", ".join(options)


def _default(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _first_line(entry: type) -> str:
    module = inspect.getmodule(entry)
    return _cell((inspect.getdoc(module) or "").split("\n")[0])


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
