"""`gatehouse tune`: a search of the configuration's keys, by trials of Ray Tune."""

import os
from functools import partial

from jobs.options import ConfigPath, Overrides, Overwrite, load
from jobs.ray_executor import RayExecutor
from jobs.terminal import print_alarms, print_table, screen
from pipeline.config import apply_overrides, read_config
from pipeline.errors import ConfigError
from pipeline.lock import locked
from pipeline.run_config import RunConfig

# Of Ray Tune: no logs of its own, no folder of its own for each trial, no other end on an interrupt, no tables.
RAY_TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def main(config: ConfigPath, set_: Overrides = None, overwrite: Overwrite = False) -> None:
    """Search better values for keys of model and train, measured on the validation split, task by task."""
    run_config = load(config, set_)
    if run_config.tune is None:
        raise ConfigError(f"{config} has no section tune", "say under `tune` which keys are searched")
    settings = apply_overrides(read_config(config), set_ or ())
    _set_up_ray(run_config)
    from pipeline.tune.plan import TUNE_FOLDER
    from pipeline.tune.report import BEST_YAML, TUNE_HTML
    from pipeline.tune.run import tune
    from pipeline.tune.summary import best_rows

    open_cluster = partial(RayExecutor, run_config.cluster.address)
    with locked(run_config.workspace_dir, "tune"), screen() as shown:
        report = tune(run_config, settings, open_cluster, overwrite=overwrite, progress=shown.start_stage("tune"))
    print_table(*best_rows(report))
    for sentence in report.summary:
        print(sentence)
    print_alarms(report.notes)
    folder = run_config.workspace_dir / TUNE_FOLDER
    if report.best is not None:
        print(f"best configuration: {folder / BEST_YAML}")
    print(f"search: {folder / TUNE_HTML}")


def _set_up_ray(config: RunConfig) -> None:
    """Before Ray is imported, which the drawing of trials does, and which reads these then."""
    os.environ.update(RAY_TUNE_SETTINGS)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if config.cluster.address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
