"""`gatehouse train`: a dataset to checkpoints."""

from jobs.options import ConfigPath, Overrides, Overwrite, Resume, executor_of, load
from jobs.terminal import print_alarms, screen


def main(config: ConfigPath, set_: Overrides = None, resume: Resume = False, overwrite: Overwrite = False) -> None:
    """Train the model on the dataset, on one process or many ranks."""
    run_config = load(config, set_)
    from pipeline.train.run import train
    from pipeline.train.telemetry import read_inspections

    with executor_of(run_config), screen() as shown:
        best = train(run_config, resume=resume, overwrite=overwrite, progress=shown.start_stage("train"))
    for last in read_inspections(run_config.workspace_dir)[-1:]:
        print_alarms(last["alarms"])
    print(f"best checkpoint: {best}")
