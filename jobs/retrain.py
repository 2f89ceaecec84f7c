"""`gatehouse retrain`: every slot that is due, from new rows of the log to a new champion or a refusal."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import ConfigPath, Overrides, executor_of, load
from jobs.terminal import print_table, screen
from pipeline.errors import ConfigError, UsageError
from pipeline.lock import locked

if TYPE_CHECKING:
    from pipeline.retrain.preview import Preview
    from pipeline.run_config import RunConfig

REFUSED_EXIT_CODE = 4

Until = Annotated[
    str | None, typer.Option("--until", help="Leave slots after this time for later; default: now.", metavar="UTC")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


def main(config: ConfigPath, set_: Overrides = None, until: Until = None, dry_run: DryRun = False) -> None:
    """Train a challenger on new rows of the log, compare it with the champion, promote it if the gate says so."""
    run_config = load(config, set_)
    if run_config.retrain is None:
        raise ConfigError(f"{config} has no section retrain", "say under `retrain` when a retraining is due")
    end = _parse_time(until) if until else None
    if dry_run:
        _preview(run_config, end)
        return
    from pipeline.retrain.run import retrain

    with locked(run_config.workspace_dir, "retrain"), executor_of(run_config) as executor, screen() as shown:
        results = retrain(run_config, executor, shown.start_stage, until=end)
    if not results:
        print("no slot is due")
    elif not results[-1].is_promoted:
        raise typer.Exit(REFUSED_EXIT_CODE)


def _preview(config: "RunConfig", until: datetime | None) -> None:
    from pipeline.retrain.preview import preview

    shown, more = preview(config, until=until)
    if not shown:
        print("no slot is due")
        return
    print_table(["slot", "trained on", "measured on", "start", "files", "rows", "stages left"], list(map(_row, shown)))
    if more:
        print(f"and {len(more):,} slots more, to {more[-1]:%Y-%m-%d %H:%M}")
    if len(shown) + len(more) > 1:
        print("each after the first as it is if the one before it is promoted")


def _row(one: "Preview") -> list[str]:
    from pipeline.retrain.state import STAGES

    plan = one.plan
    start = "anew" if plan.is_cold else f"from version {plan.compared.version}" if plan.compared else ""
    if not plan.is_cold and plan.compared and not plan.compared.version:
        start = "from the slot before"
    rows = "all of the files" if one.num_rows is None else f"{one.num_rows:,}"
    slot = f"{plan.slot:%Y-%m-%d %H:%M}"
    left = "all" if len(one.stages) == len(STAGES) else ", ".join(one.stages)
    return [slot, str(plan.training), str(plan.fresh), start, str(one.num_files), rows, left]


def _parse_time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--until {text!r} is no time", "write it as 2025-01-31 or 2025-01-31T06:00") from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
