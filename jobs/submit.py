"""`gatehouse submit`: another verb as a job of a Ray cluster, with its log and its exit code; one job per run id."""

import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from jobs.job_server import JobServer, describe, exit_code
from jobs.options import Overrides
from pipeline import storage
from pipeline.errors import UsageError
from pipeline.run_config import RunConfig, load_run_config

# Options that are not ours are those of the verb.
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
INTERRUPTED_EXIT_CODE = 130


def main(
    context: typer.Context,
    address: Annotated[str, typer.Option(help="The cluster's dashboard.", metavar="HOST:PORT or https://HOST")],
    verb: Annotated[str | None, typer.Argument(help="The verb to run, with its own options after it.")] = None,
    config: Annotated[
        str | None, typer.Option(help="The YAML file of the run; paths in it are the cluster's.", metavar="FILE")
    ] = None,
    set_: Overrides = None,
    run_id: Annotated[
        str | None, typer.Option(help="Names the job; submitted again, it is followed, not started.", metavar="RUN_ID")
    ] = None,
    status: Annotated[str | None, typer.Option(help="Say how a job stands.", metavar="RUN_ID")] = None,
    stop: Annotated[str | None, typer.Option(help="Stop a job.", metavar="RUN_ID")] = None,
) -> None:
    """Run another verb on a Ray cluster: ship the code, follow the log, leave with the job's exit code."""
    if sum(choice is not None for choice in (verb, status, stop)) != 1:
        raise UsageError("submit does one thing", "give a verb such as `train`, or --status RUN_ID, or --stop RUN_ID")
    if status is not None:
        print(describe(JobServer(address).job(status)))
    elif stop is not None:
        print(describe(JobServer(address).stop(stop)))
    else:
        if config is None:
            raise UsageError("submit has no configuration", "add --config FILE")
        entrypoint = _entrypoint(context, str(verb), Path(config), set_ or [])
        run_id = run_id or f"{verb}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
        raise typer.Exit(_run(JobServer(address), run_id, entrypoint, Path(config)))


def _run(server: JobServer, run_id: str, entrypoint: str, config: Path) -> int:
    if server.start(run_id, entrypoint, config):
        print(f"job {run_id}: submitted", flush=True)
    else:
        print(f"{describe(server.job(run_id))}; not started again", flush=True)
    try:
        return exit_code(server.follow(run_id))
    except KeyboardInterrupt:
        print(f"\njob {run_id} goes on: --run-id {run_id} follows it, --stop {run_id} stops it", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE


def _entrypoint(context: typer.Context, verb: str, config: Path, overrides: list[str]) -> str:
    """The job's command, after what can be checked here: the verb, its options and the configuration.

    Raises:
        UsageError, ConfigError: what the job would say too, or results that would be lost with the job.
    """
    group = context.parent.command if context.parent else None
    commands = {
        name: command
        for name, command in getattr(group, "commands", {}).items()
        if name != context.info_name and any(parameter.name == "config" for parameter in command.params)
    }
    if verb not in commands:
        raise UsageError(f"submit cannot run {verb!r}", f"choose one of {', '.join(sorted(commands))}")
    run_config = load_run_config(config, tuple(overrides))
    _check_paths(verb, run_config)
    settings = [word for override in overrides for word in ("--set", override)]
    if run_config.cluster.address is None:
        settings += ["--set", "cluster.address=auto"]
    arguments = ["--config", config.name, *settings, *context.args]
    commands[verb].make_context(verb, list(arguments), parent=context.parent)
    return shlex.join(["python", "-m", "jobs", verb, *arguments])


def _check_paths(verb: str, config: RunConfig) -> None:
    """Raises a UsageError for results in the job's own folder, which goes with the job."""
    registry = config.registry.location if config.registry and verb == "retrain" else None
    for key, path in (("workspace", config.workspace), ("dataset", config.dataset), ("registry.location", registry)):
        if path and not storage.is_remote(path) and not Path(path).is_absolute():
            raise UsageError(
                f"{key} is {path!r}, which on the cluster would lie in a folder that goes with the job",
                f"give a path that all nodes see: --set {key}=/SHARED/FOLDER",
            )
