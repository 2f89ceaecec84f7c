"""A real MLflow server on loopback, with a database of its own, and what it shows of a model."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

START_SECONDS = 120


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class MlflowServer:
    """Serves until it is closed; what it keeps is below `folder`."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self.folder = folder
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "artifacts"]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (folder / "server.log").open("w") as log:
            self._process = subprocess.Popen(
                [*command, "--workers", "1"],
                cwd=folder,
                env=os.environ | quiet,
                stdout=log,
                stderr=log,
                start_new_session=True,  # It starts others, and they end with it.
            )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"MLflow does not start: {(self.folder / 'server.log').read_text()[-2000:]}")

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def shown(uri: str, model: str, experiment: str) -> dict[str, Any]:
    """What people see, without what MLflow draws: by number the run and the version of the model, and the aliases."""
    from mlflow import MlflowClient

    client = MlflowClient(uri, uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = {run.info.run_id: run for run in client.search_runs([found.experiment_id])}
    versions = client.search_model_versions(f"name='{model}'")
    by_number = sorted(
        (one.tags["gatehouse.version"], one.source, one.tags, _run(client, runs, one)) for one in versions
    )
    numbers = {int(one.version): one.tags["gatehouse.version"] for one in versions}
    registered = client.get_registered_model(model)
    aliases = {alias: numbers[int(version)] for alias, version in registered.aliases.items()}
    return {"versions": by_number, "num_runs": len(runs), "aliases": aliases, "tags": registered.tags}


def _run(client: Any, runs: dict[str, Any], version: Any) -> tuple[Any, ...]:
    run = runs[version.run_id]
    own = {name: value for name, value in run.data.tags.items() if name.startswith("gatehouse.")}
    files = sorted(file.path for file in client.list_artifacts(version.run_id))
    return run.info.run_name, run.info.status, run.info.start_time, own, run.data.metrics, files
