"""`gatehouse json-schema`: what editors check and complete a configuration with."""

import json

import typer


def main() -> None:
    """Print the JSON schema of the configuration, for an editor's YAML language server."""
    from pipeline.run_config import RunConfig

    typer.echo(json.dumps(RunConfig.model_json_schema(by_alias=True), indent=2))
