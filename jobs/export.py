"""`gatehouse export`: a checkpoint to a folder that serves by itself."""

from pathlib import Path

from jobs.options import Checkpoint, ConfigPath, Overrides, Overwrite, load
from jobs.terminal import print_table, screen
from pipeline.lock import locked


def main(
    config: ConfigPath, set_: Overrides = None, checkpoint: Checkpoint = None, overwrite: Overwrite = False
) -> None:
    """Write a checkpoint as a folder that serves by itself, and show that it says the same."""
    run_config = load(config, set_)
    from pipeline.export.manifest import read_manifest
    from pipeline.export.quality import quality_rows
    from pipeline.export.run import export

    with locked(run_config.workspace_dir, "export"), screen() as shown:
        folder, is_new = export(
            run_config,
            checkpoint=Path(checkpoint) if checkpoint else None,
            overwrite=overwrite,
            progress=shown.start_stage("export"),
        )
    manifest = read_manifest(folder, verify=False)
    if manifest.quality:
        print_table(*quality_rows(manifest.quality))
    assert manifest.parity is not None
    print(
        f"largest difference from the checkpoint on {manifest.parity.rows:,} rows: {manifest.parity.serving:.1g}, "
        f"before types were reduced; of the program from the export: {manifest.parity.program:.1g}"
    )
    print(f"export {manifest.version}: {folder}{'' if is_new else ' (is up to date)'}")
