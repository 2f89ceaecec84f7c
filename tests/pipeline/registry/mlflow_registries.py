"""What the tests against a real MLflow server share: registries to show, and models that no other test has."""

import json
from pathlib import Path

from mlflow_server import MlflowServer
from small_registry import small_lineage, write_files

from pipeline.registry.config import MlflowConfig
from pipeline.registry.registry import Registry


def named(server: MlflowServer, name: str) -> MlflowConfig:
    name = name.replace("[", "-").replace("]", "")
    return MlflowConfig(uri=server.uri, model=name, experiment=f"of {name}")


def add(registry: Registry, number: int) -> None:
    """Publishes a version whose report says .5 and its number."""
    folder = Path(registry.root.location).parent / "made"
    files = write_files(folder, str(number))
    del files["config.resolved.yaml"]
    report = {"tasks": [{"name": "click", "metrics": {"auc": {"value": 0.5 + number / 100}}}]}
    files["report.json"].write_text(json.dumps(report))
    files["decision.json"] = folder / "decision.json"
    files["decision.json"].write_text(json.dumps({"promoted": True, "rules": []}))
    assert registry.publish(files, small_lineage(number - 1 or None, run_id=f"run-{number}")) == number
