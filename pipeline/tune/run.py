"""The tune stage: draws trials from a search space of Ray Tune, has it run those that are left, and ranks them."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, StoppedError
from pipeline.executor import Progress
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import check_schema
from pipeline.shards.remote import fetch_index, fetch_shards
from pipeline.train.guards.stopping import on_sigterm
from pipeline.train.rank import TRAINING_SPLITS
from pipeline.tune.config import TuneConfig, TunedKeyConfig
from pipeline.tune.form import Outcome, TuneReport
from pipeline.tune.plan import TUNE_FOLDER, Planned, begin, check_space, outcome_of, plan_trials, unfinished
from pipeline.tune.report import judge_trials, write_report
from pipeline.tune.space import Values
from pipeline.tune.summary import describe_best
from pipeline.tune.trial import PASSING, run_trial

RAY_FOLDER = "ray"
SIGNIFICANT_DIGITS = 4
# Of a trial on several ranks, which have CPUs of their own; Ray Tune takes no 0.
DRIVER_CPUS = 0.001

OpenCluster = Callable[[int], AbstractContextManager[Any]]
Note = Callable[[int, Outcome], None]


def tune(
    config: RunConfig,
    settings: Mapping[str, Any],
    open_cluster: OpenCluster,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TuneReport:
    """Runs the trials that are left, writes tune.json, tune.html and best.yaml, and returns what the first holds.

    `settings` is what `config` was built from. `open_cluster` starts Ray with so many CPUs, or finds a cluster. Killed
    at any moment and called again it keeps the trials that are over and goes on with others from their checkpoints.

    Raises:
        ConfigError: the section is missing, or some point of its space is no configuration.
        UsageError: the folder holds a search with other settings, and `overwrite` was not asked for.
        ArtifactError: the dataset is missing or damaged.
        TrainingError: trial 0 or every trial failed.
        StoppedError: SIGTERM arrived.
    """
    if config.tune is None:
        raise ConfigError("the configuration has no section tune", "say under `tune` which keys are searched")
    check_space(config, settings)
    index = fetch_index(config.dataset_dir, config.remote_dataset)
    check_schema(index, config.data_schema, config.dataset_dir)
    plan = plan_trials(config, settings, index, draw(config.tune))
    begin(config, index, overwrite=overwrite)
    outcomes = {one.number: found for one in plan if (found := outcome_of(one)) is not None}

    def tell() -> None:
        if progress is not None:
            steps = sum(one.num_steps or 0 for one in outcomes.values())
            progress(f"trials{describe_best(judge_trials(config, outcomes))}", len(outcomes), len(plan), steps, "steps")

    def note(number: int, outcome: Outcome) -> None:
        outcomes[number] = outcome
        tell()

    left = {one.number: one for one in plan if one.number not in outcomes}
    if left:
        shards = [shard for split in TRAINING_SPLITS for shard in index.of_split(split)]
        fetch_shards(config.dataset_dir, config.remote_dataset, shards, progress)
        tell()
        _run_on_ray(config, left, open_cluster, note)
    return write_report(config, settings, plan, outcomes, index)


def draw(section: TuneConfig) -> Iterator[Values]:
    """Points of the space, at random, without end."""
    from ray import tune as ray_tune

    def domain_of(one: TunedKeyConfig) -> Any:
        if one.values is not None:
            return ray_tune.choice(range(len(one.values)))
        if one.is_whole:
            make = ray_tune.lograndint if one.scale == "log" else ray_tune.randint
            return make(one.low, (one.high or 0) + 1)
        return (ray_tune.loguniform if one.scale == "log" else ray_tune.uniform)(one.low, one.high)

    def value_of(one: TunedKeyConfig, drawn: Any) -> Any:
        if one.values is not None:
            return one.values[drawn]
        assert one.low is not None
        assert one.high is not None
        # What is reported is what was tried: few digits.
        number = int(drawn) if one.is_whole else float(f"{drawn:.{SIGNIFICANT_DIGITS}g}")
        return min(max(number, one.low), one.high)

    rng = np.random.default_rng(section.seed)
    domains = {key: domain_of(one) for key, one in section.parameters.items()}
    while True:
        yield {key: value_of(one, domains[key].sample(random_state=rng)) for key, one in section.parameters.items()}


def _run_on_ray(config: RunConfig, left: Mapping[int, Planned], open_cluster: OpenCluster, note: Note) -> None:
    """Has Ray Tune run trials, by their numbers, and notes what came of each."""
    assert config.tune is not None
    concurrent = min(config.tune.concurrent, len(left))
    num_ranks = max(map(_num_ranks, left.values()))
    storage = config.workspace_dir / TUNE_FOLDER / RAY_FOLDER
    shutil.rmtree(storage, ignore_errors=True)
    with open_cluster(concurrent * num_ranks + (num_ranks > 1)), on_sigterm() as stop:

        def look() -> None:
            if stop.is_set():
                raise StoppedError("stopped by SIGTERM", "run the same command again to go on")

        def complete(number: int, reason: str) -> None:
            note(number, outcome_of(left[number]) or unfinished(left[number], reason))

        num_threads = max(1, (os.cpu_count() or 1) // (concurrent * num_ranks))
        tuner = _make_tuner(config, left, concurrent, num_threads, storage, _watch(look, complete))
        try:
            for result in tuner.fit():
                if result.error is not None:
                    complete(result.config["trial"], _describe_loss(result.error))
        finally:
            shutil.rmtree(storage, ignore_errors=True)


def _make_tuner(
    config: RunConfig, left: Mapping[int, Planned], concurrent: int, num_threads: int, storage: Path, watch: Any
) -> Any:
    import ray
    from ray import tune as ray_tune

    # It would print the traceback of each failure; what failed is said in the end.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    has_gpus = config.train.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0

    def reserve(point: dict[str, Any]) -> Any:
        is_one_rank = _num_ranks(left[point["trial"]]) == 1
        own = {"CPU": 1.0, "GPU": float(has_gpus)} if is_one_rank else {"CPU": DRIVER_CPUS}
        return ray_tune.PlacementGroupFactory([own])

    work = {one.number: (one.config.model_dump(mode="json", by_alias=True), one.values) for one in left.values()}
    trainable = ray_tune.with_parameters(_ray_trial, work=work, num_threads=num_threads)
    return ray_tune.Tuner(
        ray_tune.with_resources(trainable, reserve),
        param_space={"trial": ray_tune.grid_search(list(left))},
        # A process that goes on with the next trial need not load torch again.
        tune_config=ray_tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True),
        run_config=ray_tune.RunConfig(
            name="search",
            storage_path=str(storage.resolve()),
            failure_config=ray_tune.FailureConfig(max_failures=config.train.max_failures),
            callbacks=[watch],
            verbose=0,
        ),
    )


def _num_ranks(planned: Planned) -> int:
    """Of which each has a CPU and, where there are any, a GPU."""
    return planned.config.train.num_ranks or 1


def _watch(look: Callable[[], None], complete: Callable[[int, str], None]) -> Any:
    """A callback of Ray Tune: calls `look` often, and `complete` with the number of a trial and why it is not over."""
    from ray import tune as ray_tune

    class Watch(ray_tune.Callback):  # type: ignore[misc]
        def __init__(self, *functions: Callable[..., None]) -> None:
            self.functions = functions

        def __getstate__(self) -> dict[str, Any]:
            return {}  # Ray Tune writes callbacks to its own state, which nothing reads

        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            self.functions[0]()

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.functions[1](trial.config["trial"], trial.last_result.get("unfinished") or "its workspace is gone")

    return Watch(look, complete)


def _ray_trial(point: dict[str, Any], work: Mapping[int, tuple[dict[str, Any], Values]], num_threads: int) -> Any:
    """What a worker of Ray Tune runs; the outcome lies in the trial's workspace, unless `unfinished` says why not."""
    import torch

    torch.set_num_threads(num_threads)
    settings, values = work[point["trial"]]
    try:
        run_trial(RunConfig.model_validate(settings), values)
    except PASSING as error:
        return {"unfinished": str(error)}
    return {"unfinished": ""}


def _describe_loss(error: BaseException) -> str:
    from ray.exceptions import RayActorError, RayTaskError

    if isinstance(error, RayTaskError):
        cause = error.cause
        return f"{type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}. This is a fault of Gatehouse."
    if isinstance(error, RayActorError):
        return "its process ended again and again. Give it more memory: fewer tune.concurrent, or smaller tables."
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
