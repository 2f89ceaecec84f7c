"""The options that verbs share, and the loading of a run's configuration."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from pipeline.executor import Executor, InProcessExecutor
from pipeline.run_config import RunConfig, load_run_config

# Beyond these the interpreter's lock is what threads wait for.
MAX_THREADS = 4

ConfigPath = Annotated[str, typer.Option("--config", help="The YAML file of the run.", metavar="FILE")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one value of the file; may be repeated.", metavar="section.key=value"),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an earlier attempt stopped.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start anew, replacing earlier results.")]
Fallback = Annotated[
    bool, typer.Option("--fallback", help="With --resume: if the newest checkpoint is damaged, use the one before it.")
]
Checkpoint = Annotated[
    str | None,
    typer.Option("--checkpoint", help="A checkpoint folder; default: the best one of the workspace.", metavar="DIR"),
]


def load(path: str, overrides: list[str] | None) -> RunConfig:
    """The configuration, after a check that the installed packages fit together and the inputs are there."""
    from pipeline.doctor import require_setup

    require_setup()
    return load_run_config(path, tuple(overrides or ()))


@contextmanager
def executor_of(config: RunConfig) -> Iterator[Executor]:
    """This process, or Ray where the configuration asks for a cluster, several CPUs or several ranks."""
    num_ranks = config.train.num_ranks or 1
    num_cpus = max(config.cluster.num_cpus, num_ranks)
    if config.cluster.address is None and num_cpus == 1:
        yield InProcessExecutor(min(len(os.sched_getaffinity(0)), MAX_THREADS))
        return
    from jobs.ray_executor import RayExecutor

    with RayExecutor(config.cluster.address, num_cpus) as executor:
        yield executor
