"""Strict YAML to frozen models: loading, `--set a.b=c`, messages that name the nearest key, and the resolved dump."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import ConfigError
from pipeline.files import write_text

MAX_CONFIG_BYTES = 1 << 20


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SectionT = TypeVar("SectionT", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """A safe loader without aliases, merge keys, tags or duplicate keys."""

    # `<<` and `=` are plain text.
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":merge", ":value"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.constructor.ConstructorError(
                None, None, f"alias *{event.anchor} is not allowed: write the value out", event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            shown = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise yaml.constructor.ConstructorError(
                None, None, f"tag {shown} is not allowed: write the plain value", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            # Such as a date with month 13, or a number of thousands of digits.
            reason = f"bad value: {str(error).partition(';')[0]}"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark) from error

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is not text: put it in quotes", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} appears twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text.

    Raises:
        ConfigError: the text is not plain YAML; the message holds source, line and column.
    """
    # Bytes of the command line that are no UTF-8 arrive as lone surrogates.
    num_bytes = len(text.encode(errors="surrogatepass"))
    if num_bytes > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{source} has {num_bytes:,} bytes, and a configuration has at most {MAX_CONFIG_BYTES:,}",
            "give the configuration file, not a data file",
        )
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}, line {mark.line + 1}, column {mark.column + 1}" if mark else source
        reason = ", ".join(filter(None, (getattr(error, "context", None), getattr(error, "problem", None))))
        raise ConfigError(f"{place}: {reason or str(error).splitlines()[0]}", "mend the YAML at that place") from error
    except RecursionError as error:
        raise ConfigError(f"{source} is nested too deeply", "flatten it") from error


def read_config(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, not yet checked against any section."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"configuration file {path} is not there", "check the path after --config")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{path} has {path.stat().st_size:,} bytes, and a configuration has at most {MAX_CONFIG_BYTES:,}",
            "give the configuration file, not a data file",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", "give a YAML file after --config") from error
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path} does not hold a mapping of sections", "start from a file in jobs/configs")
    return data


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`data` with each `section.key=value` put in its place; a number in the path is a place in a list.

    The value is read as YAML, so `[a, b]`, `3` and `null` mean what they mean in the file.
    """
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not all(path.split(".")):
            raise ConfigError(
                f"--set {override!r} is not of the form section.key=value", "write --set section.key=value"
            )
        data = _with_value(data, path.split("."), parse_yaml(text, f"--set {override}"), path)
    return data


def _with_value(node: Any, keys: Sequence[str], value: Any, path: str) -> Any:
    if not keys:
        return value
    if isinstance(node, list):
        if not keys[0].isdecimal() or int(keys[0]) >= len(node):
            raise ConfigError(
                f"--set {path}: {keys[0]!r} is not a place in a list of {len(node)}",
                f"give a number from 0 to {len(node) - 1}" if node else "set the whole list",
            )
        place = int(keys[0])
        return [_with_value(item, keys[1:], value, path) if i == place else item for i, item in enumerate(node)]
    if node is not None and not isinstance(node, dict):
        raise ConfigError(f"--set {path}: {keys[0]!r} lies below a plain value", "shorten the path")
    return {**(node or {}), keys[0]: _with_value((node or {}).get(keys[0]), keys[1:], value, path)}


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest choice, or all of them when none is near."""
    listed = sorted(choices)
    close = difflib.get_close_matches(name, listed, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return "choose from " + ", ".join(listed) if listed else "there is nothing to choose from"


def or_else(hint: str, fix: str) -> str:
    """A hint of `nearest`, and what to do where it does not help."""
    return f"{hint} If not, {fix}" if hint.endswith("?") else f"{hint}, or {fix}"


def build(section: type[SectionT], data: Mapping[str, Any], source: str) -> SectionT:
    """`data` as a checked section; `source` says in messages where the data came from.

    Raises:
        ConfigError: the first problem, with the path of the key, the value and the rule.
    """
    try:
        return section.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # An unknown key is the likeliest cause of a missing one: name it first.
        problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(*_explain(section, data, dict(problem), source, more)) from error


def _explain(section: type[BaseModel], data: Any, problem: dict[str, Any], source: str, more: str) -> tuple[str, str]:
    location, kind, given = list(problem["loc"]), str(problem["type"]), problem.get("input")
    path = ".".join(_path_in(data, location, kind))
    if kind == "extra_forbidden":
        hint = nearest(str(location[-1]), _keys_at(section, location[:-1]))
        return f"{source}: unknown key {path}{more}", or_else(hint, "remove it")
    if kind == "missing":
        return f"{source}: {path} is missing{more}", f"add {location[-1]!r}"
    if kind == "union_tag_not_found":
        return f"{source}: {path}.kind is missing{more}", "add 'kind'"
    if kind == "union_tag_invalid":
        path, given = f"{path}.kind", problem["ctx"]["tag"]
        message = f"not one of {problem['ctx']['expected_tags']}"
    elif kind in ("model_type", "dict_type"):
        message = "should be a section of keys and values"
    elif kind == "too_short":
        message = f"needs at least {problem['ctx']['min_length']}"
    else:
        message = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input ")
        message = message[:1].lower() + message[1:]
    if kind == "value_error" and isinstance(given, dict):
        # A rule between the keys of a section; its message says which, and may end in a hint.
        message, colon, hint = message.rpartition(": ") if message.endswith("?") else (message, "", "")
        fix = "change one of these values"
        return f"{source}: {f'{path}: ' if path else ''}{message}{more}", or_else(hint, fix) if colon else fix
    shown = repr(given)
    value = f" is {shown}" if len(shown) <= 60 else ""
    return f"{source}: {path}{value}: {message}{more}", "change that value"


def _path_in(data: Any, location: Sequence[Any], kind: str) -> list[str]:
    """The keys of a location as the user wrote them: pydantic puts the tag of a union between them."""
    path = []
    for place, part in enumerate(location):
        is_key = isinstance(data, Mapping) and part in data
        if is_key or (isinstance(data, list | tuple) and isinstance(part, int)):
            data = data[part]
        elif not (kind == "missing" and place == len(location) - 1):
            continue
        path.append(str(part))
    return path


def _keys_at(section: type[BaseModel], location: Sequence[Any]) -> set[str]:
    """The keys a section accepts at a location, following nested sections, lists and unions by their fields."""
    candidates: list[type[BaseModel]] = [section]
    for part in location:
        nested = [found for model in candidates for found in _models_below(model, part)]
        # A tag or a list index stays on the same candidates.
        tagged = [m for m in candidates if "kind" in m.model_fields and part in _kinds(m)]
        candidates = nested or tagged or candidates
    return {field.alias or name for model in candidates for name, field in model.model_fields.items()}


def _models_below(model: type[BaseModel], name: Any) -> list[type[BaseModel]]:
    for field_name, field in model.model_fields.items():
        if name in (field_name, field.alias):
            return _models_in(field.annotation)
    return []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models_in(inner)]


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    return tuple(getattr(model.model_fields["kind"].annotation, "__args__", ()))


RESOLVED_NAME = "config.resolved.yaml"


def dump(section: BaseModel, folder: Path) -> None:
    """Writes the resolved configuration into a folder, every default included: it can be given to --config again."""
    text = yaml.safe_dump(section.model_dump(mode="json", by_alias=True), sort_keys=False)
    write_text(folder / RESOLVED_NAME, text)
