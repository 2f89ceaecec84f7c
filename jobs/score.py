"""`gatehouse score`: candidate sets to ranked candidates."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.options import Checkpoint, ConfigPath, Overrides, Overwrite, executor_of, load
from jobs.terminal import print_alarms, print_table, screen
from pipeline.errors import UsageError
from pipeline.lock import locked
from pipeline.run_config import RunConfig

Export = Annotated[
    str | None,
    typer.Option("--export", help="An export to score with; default: that of the checkpoint.", metavar="DIR"),
]
Sweep = Annotated[
    bool, typer.Option("--sweep", help="Instead, search the fusion on logged labels, as score.sweep says.")
]


def main(
    config: ConfigPath,
    set_: Overrides = None,
    checkpoint: Checkpoint = None,
    export: Export = None,
    overwrite: Overwrite = False,
    sweep: Sweep = False,
) -> None:
    """Rank candidate sets with a checkpoint and a fusion of the tasks."""
    run_config = load(config, set_)
    if export and (checkpoint or sweep):
        other = "--checkpoint" if checkpoint else "--sweep"
        raise UsageError(
            f"--export goes without {other}", "give one of them: an export holds the model of a checkpoint"
        )
    if sweep:
        _sweep(run_config, Path(checkpoint) if checkpoint else None)
        return
    from pipeline.score.run import describe_ranking, score

    with locked(run_config.workspace_dir, "score"), executor_of(run_config) as executor, screen() as shown:
        folder = score(
            run_config,
            executor,
            checkpoint=Path(checkpoint) if checkpoint else None,
            exported=Path(export) if export else None,
            overwrite=overwrite,
            progress=shown.start_stage("score"),
        )
    print_alarms(describe_ranking(folder))
    print(f"ranked candidates: {folder}")


def _sweep(config: RunConfig, checkpoint: Path | None) -> None:
    from pipeline.score.sweep.run import SWEEP_FOLDER, SWEEP_HTML, sweep
    from pipeline.score.sweep.summary import paste_line, sweep_rows

    with locked(config.workspace_dir, "score"), executor_of(config) as executor, screen() as shown:
        report = sweep(config, executor, checkpoint=checkpoint, progress=shown.start_stage("sweep"))
    print_table(*sweep_rows(report))
    print(report["verdict"])
    print_alarms(report["notes"])
    print(f"for the configuration, under score:\n  {paste_line(report)}")
    print(f"sweep of the fusion: {config.workspace_dir / SWEEP_FOLDER / SWEEP_HTML}")
