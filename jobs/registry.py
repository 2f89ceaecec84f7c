"""`gatehouse registry`: the versions of a model, which of them is in use, and how that is changed by hand."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import Overrides
from jobs.terminal import print_alarms, print_table
from pipeline.errors import ArtifactError, ConfigError, UsageError

if TYPE_CHECKING:
    from pipeline.registry.config import RegistryConfig
    from pipeline.registry.records import Champion, Version
    from pipeline.registry.registry import Registry

app = typer.Typer(
    help="Versions of the model: list, compare, promote, roll back, mirror to MLflow.", no_args_is_help=True
)

ConfigPath = Annotated[
    str | None, typer.Option("--config", help="The YAML file of a run, with a section registry.", metavar="FILE")
]
MirrorConfigPath = Annotated[
    str, typer.Option("--config", help="The YAML file of a run, with a section registry.mlflow.", metavar="FILE")
]
Location = Annotated[
    str | None, typer.Option("--registry", help="Instead of --config: where the registry is.", metavar="DIR|s3://...")
]
Number = Annotated[int, typer.Argument(help="The number of a version.", metavar="N", min=1)]
Reason = Annotated[str, typer.Option("--reason", help="Is kept with the change.", metavar="TEXT")]


@app.command("list")
def list_(config: ConfigPath = None, set_: Overrides = None, registry: Location = None) -> None:
    """List the versions, the oldest first."""
    opened, _ = _open(config, set_, registry)
    promotions = opened.promotions()
    marks = dict.fromkeys(promotions.before[-1:], "before")
    if promotions.champion:
        marks |= {promotions.champion.version: "champion"}
    rows, alarms = [], []
    for number in opened.numbers():
        try:
            rows.append(_row(opened.show(number), marks.get(number, "")))
        except ArtifactError as error:
            rows.append([str(number), marks.get(number, ""), *["damaged"] * 5])
            alarms.append(str(error))
    if rows:
        print_table(["version", "", "created", "run", "parent", "files", "bytes"], rows)
    else:
        print("no version")
    print_alarms(alarms)
    print(f"registry: {opened.root.location}, {_describe(promotions.champion)}")


@app.command()
def show(number: Number, config: ConfigPath = None, set_: Overrides = None, registry: Location = None) -> None:
    """Show what a version was made of, and its files."""
    version = _open(config, set_, registry)[0].show(number)
    lineage = version.lineage.model_dump(mode="json")
    shown = {name: value for name, value in lineage.items() if value is not None and name != "reports"}
    print_table(["lineage", "value"], [[name, str(value)] for name, value in shown.items()])
    files = sorted(version.files.items())
    print_table(["file", "sha256", "bytes"], [[name, entry.sha256[:12], f"{entry.bytes:,}"] for name, entry in files])
    print(f"version {number}: {version.num_bytes:,} bytes, created {_time(version.created.isoformat())}")


@app.command()
def promote(
    number: Number,
    config: ConfigPath = None,
    set_: Overrides = None,
    registry: Location = None,
    reason: Reason = "by hand",
) -> None:
    """Make a version the champion, after a check of all its files."""
    opened, section = _open(config, set_, registry)
    with opened.held("registry promote", section.lease_seconds) as lease:
        was = opened.champion()
        champion = opened.promote(number, token=lease.token, reason=reason)
    _tell(was, champion)


@app.command()
def rollback(
    config: ConfigPath = None, set_: Overrides = None, registry: Location = None, reason: Reason = "by hand"
) -> None:
    """Make the champion before the present one the champion again."""
    opened, section = _open(config, set_, registry)
    with opened.held("registry rollback", section.lease_seconds) as lease:
        was = opened.champion()
        champion = opened.rollback(token=lease.token, reason=reason)
    _tell(was, champion)


@app.command()
def diff(
    before: Number, after: Number, config: ConfigPath = None, set_: Overrides = None, registry: Location = None
) -> None:
    """Show what is different between two versions: lineage, settings, files."""
    lines = _open(config, set_, registry)[0].diff(before, after)
    for line in lines:
        print(line)
    print(f"diff: {len(lines)} differences between version {before} and version {after}")


@app.command()
def retain(
    config: ConfigPath = None,
    set_: Overrides = None,
    registry: Location = None,
    keep: Annotated[int | None, typer.Option(help="The newest versions to keep.", metavar="N", min=1)] = None,
) -> None:
    """Remove versions that are neither among the newest nor in use."""
    opened, section = _open(config, set_, registry)
    with opened.held("registry retain", section.lease_seconds) as lease:
        removed = opened.retain(keep or section.keep, token=lease.token)
    print(f"removed: {', '.join(map(str, removed)) or 'no version'}; {len(opened.numbers())} are left")


@app.command("mirror")
def mirror_(config: MirrorConfigPath, set_: Overrides = None) -> None:
    """Make MLflow show the versions: each a run and a version of a registered model, the champion an alias."""
    from pipeline.registry.mirror.mirror import mirror

    opened, section = _open(config, set_, None)
    if section.mlflow is None:
        raise ConfigError(f"{config} has no section registry.mlflow", "add one with the uri of the server and a model")
    done = mirror(opened, section.mlflow)
    print_alarms(done.warnings)
    print(f"mlflow: {done}; {section.mlflow.uri}/#/models/{section.mlflow.model}")


def _open(config: str | None, overrides: list[str] | None, location: str | None) -> "tuple[Registry, RegistryConfig]":
    from pipeline.registry.config import RegistryConfig
    from pipeline.registry.registry import Registry

    if (config is None) == (location is None):
        raise UsageError("a registry is named by --config or by --registry", "give one of the two")
    if location is not None:
        if overrides:
            raise UsageError("--set changes the file of --config, and there is none", "leave --set out")
        section = RegistryConfig(location=location)
        return Registry.open(section.location), section
    from pipeline.run_config import load_run_config

    found = load_run_config(str(config), tuple(overrides or ())).registry
    if found is None:
        raise ConfigError(f"{config} has no section registry", "add one with its location, or give --registry")
    return Registry.open(found.location), found


def _row(version: "Version", mark: str) -> list[str]:
    parent = version.lineage.parent
    return [
        str(version.number), mark, _time(version.created.isoformat()), version.lineage.run_id,
        str(parent) if parent else "", f"{len(version.files):,}", f"{version.num_bytes:,}",
    ]  # fmt: skip


def _tell(was: "Champion | None", champion: "Champion") -> None:
    if was and was.version == champion.version:
        print(f"champion: it was version {was.version} already")
        return
    print(f"champion: it was {f'version {was.version}' if was else 'none'}, it is version {champion.version}")


def _describe(champion: "Champion | None") -> str:
    if champion is None:
        return "no champion"
    return f"champion {champion.version} since {_time(champion.promoted_at.isoformat())}: {champion.reason}"


def _time(text: str) -> str:
    return f"{text[:10]} {text[11:16]} UTC"
