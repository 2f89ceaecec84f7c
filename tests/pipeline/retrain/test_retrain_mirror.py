"""A retraining that shows its versions in MLflow, too: a server that is not there costs it a line."""

from pathlib import Path
from typing import Any

import pytest
from mlflow_server import free_port
from small_retrain import FIRST_SLOT, make_config, make_log, registry_of, run_until

from pipeline.registry.mirror.entry import FILES, read_entry
from pipeline.run_config import RunConfig


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """One whose MLflow server is not there."""
    mlflow = {"uri": f"http://127.0.0.1:{free_port()}", "model": "m"}
    registry: dict[str, Any] = {"location": str(tmp_path / "registry"), "lease_seconds": 60, "mlflow": mlflow}
    return make_config(make_log(tmp_path / "log"), tmp_path, registry=registry)


def test_without_a_server_a_retraining_promotes_and_says_one_line_more(config: RunConfig) -> None:
    said: list[str] = []
    (result,) = run_until(config, FIRST_SLOT, said=said)
    assert result.is_promoted
    assert [line for line in said if "MLflow" in line] == said[-1:]
    assert said[-1].startswith("warning: MLflow does not show the registry as it is: http://127.0.0.1:")
    assert "does not answer get_experiment_by_name" in said[-1]
    # What the next mirror writes of the version, from the files that a retraining makes.
    entry = read_entry(registry_of(config), result.version)
    assert 0 < entry.metrics["click/auc"] < 1
    assert entry.run_name == result.run_id
    assert entry.tags["gatehouse.gate"] == "promoted"
    assert entry.files.keys() == set(FILES)


def test_a_retraining_with_nothing_to_do_mirrors_what_earlier_ones_could_not(config: RunConfig) -> None:
    said: list[str] = []
    assert run_until(config, FIRST_SLOT - 1, said=said) == []
    assert len(said) == 1
    assert said[0].startswith("warning: MLflow does not show the registry as it is: ")
