"""`gatehouse preprocess`: raw logs to a dataset of shards."""

from jobs.options import ConfigPath, Overrides, Overwrite, executor_of, load
from jobs.terminal import screen


def main(config: ConfigPath, set_: Overrides = None, overwrite: Overwrite = False) -> None:
    """Turn raw logs and their tables into training-ready shards."""
    run_config = load(config, set_)
    from pipeline.preprocess.run import preprocess

    with executor_of(run_config) as executor, screen() as shown:
        index = preprocess(run_config, executor, shown.start_stage("preprocess"), overwrite=overwrite)
    rows = ", ".join(f"{index.num_rows(split):,} {split}" for split in ("train", "validation", "test"))
    print(f"dataset: {run_config.dataset_dir} ({rows} rows)")
