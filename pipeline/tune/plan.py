"""The trials of a search: checked before one of them starts, and the work that is kept from one start to the next."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.assemble import check_model, table_rows
from pipeline.config import RESOLVED_NAME, dump
from pipeline.errors import ArtifactError, ConfigError, UsageError
from pipeline.files import retry, write_json
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import DatasetIndex
from pipeline.train.rank import TRAINING_SPLITS
from pipeline.train.run import check_training
from pipeline.tune.form import Outcome
from pipeline.tune.space import Values, check_parameters, corners, describe_trial, identify, trial_config
from pipeline.tune.trial import read_outcome

TUNE_FOLDER, TRIALS_FOLDER = "tune", "trials"
# What decides the numbers of every trial; written before the first one starts.
WORK_NAME = "work.json"
# A space that gives so many draws in a row which were there before holds no other one.
MAX_REPEATED_DRAWS = 1000


@dataclass(frozen=True)
class Planned:
    """A trial as it will be run."""

    number: int
    values: Values
    config: RunConfig


def check_space(config: RunConfig, settings: Mapping[str, Any]) -> None:
    """Checks the keys of a search and the corners of its space, without a dataset.

    Raises:
        ConfigError: a key that trials cannot differ in, or a corner that is no configuration.
    """
    assert config.tune is not None
    check_parameters(config.tune.parameters)
    for point in corners(config.tune.parameters):
        _check_trial(point, trial_config(settings, point, config.workspace_dir, config.dataset_dir), None)


def plan_trials(
    config: RunConfig, settings: Mapping[str, Any], index: DatasetIndex, draws: Iterator[Values]
) -> list[Planned]:
    """Trial 0, the configuration as it stands, and others that are drawn; no two of them train the same.

    More trials of the same draws begin with the same ones. There are fewer where the space does not hold as many.

    Raises:
        ConfigError: one is no configuration, or does not fit the dataset.
    """
    assert config.tune is not None
    folder = config.workspace_dir / TUNE_FOLDER / TRIALS_FOLDER
    planned: list[Planned] = []
    texts, seen, repeated = set(), set(), 0
    values: Values = {}
    while len(planned) < config.tune.trials and repeated < MAX_REPEATED_DRAWS:
        repeated += 1
        text = json.dumps(values, sort_keys=True, default=str)
        if text not in texts:
            texts.add(text)
            own = trial_config(settings, values, folder / str(len(planned)), config.dataset_dir)
            if identify(own) not in seen:
                _check_trial(values, own, index)
                seen.add(identify(own))
                planned.append(Planned(len(planned), values, own))
                repeated = 0
        values = next(draws)
    return planned


def _check_trial(values: Values, config: RunConfig, index: DatasetIndex | None) -> None:
    try:
        check_model(config.data_schema, config.model)
        check_training(config)
        if index is not None:
            table_rows(index, config.model)
    except ConfigError as error:
        raise ConfigError(f"{describe_trial(values)}: {error.what}", error.fix) from error


def begin(config: RunConfig, index: DatasetIndex, *, overwrite: bool) -> None:
    """Makes the folder of a search, or finds one with the same settings.

    Raises:
        UsageError: it holds a search with other settings, and `overwrite` was not asked for.
        ArtifactError: its work.json is damaged.
    """
    assert config.tune is not None
    work = {
        "parameters": {key: one.model_dump(mode="json") for key, one in config.tune.parameters.items()},
        "seed": config.tune.seed,
        "configuration": json.loads(identify(config)),
        "schema": index.schema_fingerprint,
        "weighted": config.evaluate.weighted,
        "shards": [shard.sha256 for shard in index.shards if shard.split in TRAINING_SPLITS],
    }
    folder = config.workspace_dir / TUNE_FOLDER
    path = folder / WORK_NAME
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    elif path.is_file():
        try:
            earlier = json.loads(retry(path.read_bytes, path))
        except ValueError as error:
            raise ArtifactError(f"{path} is not JSON: {error}", "add --overwrite to start anew") from error
        if earlier != work:
            raise UsageError(
                f"{folder} holds a search with other settings ({_first_difference(earlier, work)})",
                f"restore the configuration ({folder / RESOLVED_NAME}), or add --overwrite to start anew",
            )
    dump(config, folder)
    write_json(path, work)


def _first_difference(earlier: Any, now: Any, path: str = "") -> str:
    if isinstance(earlier, dict) and isinstance(now, dict):
        key = next(key for key in {**earlier, **now} if earlier.get(key) != now.get(key))
        inner = path if key == "configuration" else f"{path}.{key}".lstrip(".")
        return _first_difference(earlier.get(key), now.get(key), inner)
    if path in ("schema", "shards"):
        return "the dataset is another one"
    return f"{path} was {json.dumps(earlier)}, and is {json.dumps(now)}"


def outcome_of(planned: Planned) -> Outcome | None:
    """What came of a trial; None if it is not over.

    Raises:
        ArtifactError: the file is damaged, or of another trial.
    """
    outcome = read_outcome(planned.config.workspace_dir)
    if outcome is not None and outcome.parameters != planned.values:
        raise ArtifactError(
            f"{planned.config.workspace_dir} holds another trial than {describe_trial(planned.values)}",
            "add --overwrite to start anew",
        )
    return outcome


def unfinished(planned: Planned, reason: str) -> Outcome:
    """In the report alone: such a trial is tried again when the search is started again."""
    return Outcome(
        trial_version=1, parameters=planned.values, metrics={}, step=None, num_steps=None, seconds=None, failed=reason
    )
