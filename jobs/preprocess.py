"""`gatehouse preprocess`: raw logs to a dataset of shards."""

from jobs.options import ConfigPath, Overrides, Overwrite, executor_of, load
from jobs.terminal import print_alarms, screen
from pipeline.lock import locked


def main(config: ConfigPath, set_: Overrides = None, overwrite: Overwrite = False) -> None:
    """Turn raw logs and their tables into training-ready shards."""
    run_config = load(config, set_)
    from pipeline.preprocess.profiles.statistics import read_statistics
    from pipeline.preprocess.run import preprocess

    with locked(run_config.workspace_dir, "preprocess"), executor_of(run_config) as executor, screen() as shown:
        index = preprocess(run_config, executor, shown.start_stage("preprocess"), overwrite=overwrite)
    rows = ", ".join(f"{index.num_rows(split):,} {split}" for split in ("train", "validation", "test"))
    statistics = read_statistics(run_config.dataset_dir)
    print_alarms(statistics["warnings"])
    if bad := statistics["quarantine"]["quarantined"]:
        print(f"quarantine: {bad:,} bad rows in {run_config.dataset_dir}/quarantine-*.parquet")
    print(f"dataset: {run_config.remote_dataset or run_config.dataset_dir} ({rows} rows)")
