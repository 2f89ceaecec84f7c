"""`gatehouse evaluate`: a checkpoint to a report."""

from pathlib import Path

from jobs.options import Checkpoint, ConfigPath, Overrides, load
from jobs.terminal import print_alarms, print_report, screen
from pipeline.lock import locked


def main(config: ConfigPath, set_: Overrides = None, checkpoint: Checkpoint = None) -> None:
    """Measure a checkpoint on the test split, each task on its own rows."""
    run_config = load(config, set_)
    from pipeline.evaluate.run import REPORT_HTML, evaluate
    from pipeline.shards.manifest import read_index, unlisted_shards

    with locked(run_config.workspace_dir, "evaluate"), screen() as shown:
        report = evaluate(
            run_config, checkpoint=Path(checkpoint) if checkpoint else None, progress=shown.start_stage("evaluate")
        )
    print_report(report)
    print_alarms(unlisted_shards(run_config.dataset_dir, read_index(run_config.dataset_dir)))
    print(f"report: {run_config.report_dir / REPORT_HTML}")
