"""Commands of a benchmark without processes of their own, which would import everything once more."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from pipeline.benchmark.process import Usage
from pipeline.evaluate.run import evaluate
from pipeline.executor import InProcessExecutor
from pipeline.preprocess.run import preprocess
from pipeline.run_config import RunConfig, load_run_config
from pipeline.train.run import train

VERBS: dict[str, Callable[[RunConfig], object]] = {
    "preprocess": lambda config: preprocess(config, InProcessExecutor()),
    "train": train,
    "evaluate": evaluate,
}


def ignore(*_: Any) -> None:
    """Progress that nobody looks at."""


def run_here(command: Any, _num_threads: int, *, start_seconds: float = 0.5) -> Usage:
    """`python -m jobs VERB --config C [--set S]` or `python -m MODULE ...`, with a made-up usage."""
    module, *arguments = map(str, command[2:])
    if module == "jobs":
        verb, _, path, *overrides = arguments
        VERBS[verb](load_run_config(path, tuple(overrides[1:])))
    else:
        import_module(module).main(*arguments)
    return Usage(2.0, start_seconds, 1.0, 0.0, 1, 1)
