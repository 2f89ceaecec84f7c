"""`gatehouse train`: a dataset to checkpoints."""

from jobs.options import ConfigPath, Fallback, Overrides, Overwrite, Resume, executor_of, load
from jobs.terminal import print_alarms, screen
from pipeline.lock import locked


def main(
    config: ConfigPath,
    set_: Overrides = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    fallback: Fallback = False,
) -> None:
    """Train the model on the dataset, on one process or many ranks."""
    run_config = load(config, set_)
    from pipeline.shards.manifest import read_index, unlisted_shards
    from pipeline.train.checkpoints.warm_start import describe_warm_start
    from pipeline.train.run import train
    from pipeline.train.telemetry import read_inspections

    with locked(run_config.workspace_dir, "train"), executor_of(run_config), screen() as shown:
        best = train(
            run_config, resume=resume, overwrite=overwrite, fallback=fallback, progress=shown.start_stage("train")
        )
    print_alarms(unlisted_shards(run_config.dataset_dir, read_index(run_config.dataset_dir)))
    for line in describe_warm_start(run_config.workspace_dir):
        print(line)
    for last in read_inspections(run_config.workspace_dir)[-1:]:
        print_alarms(last["alarms"])
    print(f"best checkpoint: {best}")
