"""`gatehouse score`: candidate sets to ranked candidates."""

from pathlib import Path

from jobs.options import Checkpoint, ConfigPath, Overrides, Overwrite, load
from jobs.terminal import print_alarms, screen
from pipeline.lock import locked


def main(
    config: ConfigPath, set_: Overrides = None, checkpoint: Checkpoint = None, overwrite: Overwrite = False
) -> None:
    """Rank candidate sets with a checkpoint and a fusion of the tasks."""
    run_config = load(config, set_)
    from pipeline.score.run import describe_ranking, score

    with locked(run_config.workspace_dir, "score"), screen() as shown:
        folder = score(
            run_config,
            checkpoint=Path(checkpoint) if checkpoint else None,
            overwrite=overwrite,
            progress=shown.start_stage("score"),
        )
    print_alarms(describe_ranking(folder))
    print(f"ranked candidates: {folder}")
