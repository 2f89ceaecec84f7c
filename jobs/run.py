"""`gatehouse run`: the main job, from raw logs to ranked candidates."""

from jobs.options import ConfigPath, Fallback, Overrides, Overwrite, Resume, executor_of, load
from jobs.terminal import print_report, screen
from pipeline.lock import locked


def main(
    config: ConfigPath,
    set_: Overrides = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    fallback: Fallback = False,
) -> None:
    """Preprocess, train, evaluate and score, in order: raw logs to ranked candidates."""
    run_config = load(config, set_)
    from pipeline.evaluate.run import REPORT_HTML
    from pipeline.run import run

    with locked(run_config.workspace_dir, "run"), executor_of(run_config) as executor, screen() as shown:
        report = run(run_config, executor, shown.start_stage, resume=resume, overwrite=overwrite, fallback=fallback)
    print_report(report)
    print(f"report: {run_config.report_dir / REPORT_HTML}")
    if run_config.score is not None:
        print(f"ranked candidates: {run_config.scores_dir}")
