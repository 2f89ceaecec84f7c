"""`gatehouse train`: a dataset to checkpoints."""

from jobs.options import ConfigPath, Overrides, Overwrite, Resume, executor_of, load
from jobs.terminal import screen


def main(config: ConfigPath, set_: Overrides = None, resume: Resume = False, overwrite: Overwrite = False) -> None:
    """Train the model on the dataset, on one process or many ranks."""
    run_config = load(config, set_)
    from pipeline.train.run import train

    with executor_of(run_config), screen() as shown:
        best = train(run_config, resume=resume, overwrite=overwrite, progress=shown.start_stage("train"))
    print(f"best checkpoint: {best}")
