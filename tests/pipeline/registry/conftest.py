"""What the tests against a real MLflow server share: one server for a process, and what is mirrored to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_registries import add, named
from mlflow_server import MlflowServer
from small_registry import promote

from pipeline.registry.config import MlflowConfig
from pipeline.registry.registry import Registry


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        started = MlflowServer(tmp_path_factory.mktemp("mlflow"))
        yield started
        started.close()


@pytest.fixture
def config(server: MlflowServer, request: pytest.FixtureRequest) -> MlflowConfig:
    """A model and an experiment that no other test has."""
    return named(server, request.node.name)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Two versions, of which the second is the champion, after the first."""
    registry = Registry.open(str(tmp_path / "registry"))
    for number in (1, 2):
        add(registry, number)
    promote(registry, 1, 2)
    return registry
