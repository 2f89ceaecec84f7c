"""The space that is searched: which keys it may hold, its corners, and the configuration of a trial."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import apply_overrides, build, nearest, or_else
from pipeline.errors import ConfigError
from pipeline.run_config import RunConfig
from pipeline.tune.config import TunedKeyConfig

TUNABLE = ("model", "train", "seed")
# Of the user's configuration, but not of a trial's.
NOT_OF_A_TRIAL = ("tune", "retrain")
MAX_SHOWN_CHARACTERS = 60

# By key, the values that a trial sets; none for trial 0.
Values = dict[str, Any]


def check_parameters(parameters: Mapping[str, TunedKeyConfig]) -> None:
    """Checks the keys of a search by themselves.

    Raises:
        ConfigError: a key that trials cannot differ in, or one that lies below another one.
    """
    for key in parameters:
        first = key.partition(".")[0]
        if first in RunConfig.model_fields.keys() - {*TUNABLE} | {"schema"}:
            raise ConfigError(
                f"tune.parameters names {key!r}, and trials share one dataset and are measured alike: only keys of "
                "model and train, and seed, can differ",
                "remove it; to compare datasets, preprocess each in a workspace of its own",
            )
        if first not in TUNABLE:
            hint = or_else(nearest(first, TUNABLE), "remove it")
            raise ConfigError(f"tune.parameters names {key!r}, which is no key of the configuration", hint)
        for other in parameters:
            if other.startswith(f"{key}."):
                raise ConfigError(
                    f"tune.parameters names {key!r} and {other!r}, which lies below it",
                    f"remove one of them; the values of {key!r} can hold those of the other",
                )


def corners(parameters: Mapping[str, TunedKeyConfig]) -> Iterator[Values]:
    """As few points of the space as hold each value of every list and both ends of every range."""
    ends = {key: one.ends for key, one in parameters.items()}
    for place in range(max(map(len, ends.values()))):
        yield {key: own[place % len(own)] for key, own in ends.items()}


def with_values(settings: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """The settings of a configuration, as `read_config` gives them, with a trial's values in their places."""
    return apply_overrides(dict(settings), [f"{key}={as_yaml(value)}" for key, value in values.items()])


def trial_config(settings: Mapping[str, Any], values: Values, workspace: Path, dataset: Path) -> RunConfig:
    """The configuration of one trial, in a workspace of its own, on the dataset that all share.

    Raises:
        ConfigError: the values are none that the configuration can have.
    """
    changed = {key: value for key, value in with_values(settings, values).items() if key not in NOT_OF_A_TRIAL}
    changed |= {"workspace": str(workspace.resolve()), "dataset": str(dataset.resolve())}
    return build(RunConfig, changed, describe_trial(values))


def identify(config: RunConfig) -> str:
    """A text that two configurations share only if they train the same."""
    return json.dumps(config.model_dump(mode="json", include={*TUNABLE}), sort_keys=True)


def values_in(config: RunConfig, keys: Mapping[str, Any]) -> Values:
    """By key, the value that a configuration has; without those that it leaves to the part of the model itself."""
    found: Values = {}
    settings = config.model_dump(mode="json", by_alias=True)
    for key in keys:
        node: Any = settings
        for part in key.split("."):
            if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            else:
                break
        else:
            found[key] = node
    return found


def describe_trial(values: Values) -> str:
    """What a message calls a trial."""
    return f"a trial of tune.parameters ({describe_values(values)})" if values else "trial 0"


def describe_values(values: Values) -> str:
    return ", ".join(f"{key}={show(value)}" for key, value in values.items())


def show(value: Any) -> str:
    """A value as people read it, on one line and not too long; of a part of the model that says no more, its kind."""
    if isinstance(value, dict) and value.keys() == {"kind"}:
        value = value["kind"]
    text = f"{value:.4g}" if isinstance(value, float) else as_yaml(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[: MAX_SHOWN_CHARACTERS - 1]}\N{HORIZONTAL ELLIPSIS}"


def as_yaml(value: Any) -> str:
    """A value as YAML on one line."""
    # Of a list: alone, a plain value would be followed by the mark of the end of a document.
    text: str = yaml.safe_dump([value], default_flow_style=True, width=1 << 20, sort_keys=False, allow_unicode=True)
    return text.strip()[1:-1]
