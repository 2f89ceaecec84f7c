"""`gatehouse score`: candidate sets to ranked candidates."""

from pathlib import Path

from jobs.options import Checkpoint, ConfigPath, Overrides, Overwrite, load
from jobs.terminal import screen


def main(
    config: ConfigPath, set_: Overrides = None, checkpoint: Checkpoint = None, overwrite: Overwrite = False
) -> None:
    """Rank candidate sets with a checkpoint and a fusion of the tasks."""
    run_config = load(config, set_)
    from pipeline.score.run import score

    with screen() as shown:
        folder = score(
            run_config,
            checkpoint=Path(checkpoint) if checkpoint else None,
            overwrite=overwrite,
            progress=shown.start_stage("score"),
        )
    print(f"ranked candidates: {folder}")
