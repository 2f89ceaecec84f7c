"""A mirror to an MLflow server that does not do its work says one line without a secret, and so does its verb."""

import base64
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow_server import MlflowServer, free_port
from small_registry import small_lineage, write_files

from jobs.__main__ import main
from pipeline.errors import GatehouseError, SetupError, StorageError
from pipeline.registry.config import MlflowConfig
from pipeline.registry.mirror.mirror import mirror
from pipeline.registry.mirror.server import Patience, Server
from pipeline.registry.registry import Registry

CANARY = "c4n4ry-91d0"


# --- faults


class Answers:
    """Answers each request in the same way, and counts them. A body may say back the header that lets one in."""

    def __init__(self, status: int, body: str) -> None:
        self.num_requests = 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                self.num_requests += 1
                text = body.format(handler.headers.get("Authorization")).encode()
                handler.send_response(status)
                handler.send_header("Content-Length", str(len(text)))
                handler.end_headers()
                handler.wfile.write(text)

            def log_message(handler, *_: Any) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (500, "{}", StorageError, "fails at get_experiment_by_name: HTTP status 500. See that the server runs"),
        (503, "later", StorageError, "fails at get_experiment_by_name: HTTP status 503."),
        (401, "{}", SetupError, "refuses get_experiment_by_name: HTTP status 401. Set MLFLOW_TRACKING_USERNAME and"),
        (403, "no {}", SetupError, "refuses get_experiment_by_name: HTTP status 403."),
        (404, "no {}", StorageError, "refuses get_experiment_by_name: HTTP status 404."),
        (200, "<html>{}</html>", StorageError, "does not answer get_experiment_by_name: MlflowException."),
    ],
)
def test_a_server_that_does_not_do_its_work_is_asked_once_and_gives_one_line_without_a_secret(
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    body: str,
    kind: type[GatehouseError],
    said: str,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", CANARY)
    answers = Answers(status, body)
    try:
        with pytest.raises(kind) as caught:
            mirror(registry, MlflowConfig(uri=answers.uri, model="m"))
    finally:
        answers.close()
    assert f"{answers.uri} {said}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert answers.num_requests == 1
    spoken = str(caught.value) + "".join(capsys.readouterr())
    assert CANARY not in spoken
    assert base64.b64encode(f"me:{CANARY}".encode()).decode() not in spoken


def test_no_server_and_one_that_says_nothing_are_one_line(registry: Registry) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for port in (free_port(), silent.getsockname()[1]):
            with pytest.raises(StorageError, match=rf"^http://127\.0\.0\.1:{port} does not answer get_experiment_by"):
                mirror(registry, MlflowConfig(uri=f"http://127.0.0.1:{port}", model="m"), Patience(1))


def test_a_mirror_ends_when_its_time_is_over_and_another_goes_on(registry: Registry, config: MlflowConfig) -> None:
    with pytest.raises(StorageError, match=r"too slow\. Let the next mirror go on"):
        mirror(registry, config, Patience(4, total_seconds=0))
    assert mirror(registry, config).added == [1, 2]


def test_what_the_server_refuses_twice_is_said_in_its_words(registry: Registry, config: MlflowConfig) -> None:
    registry.publish(write_files(Path(registry.root.location).parent / "made", "3"), small_lineage(run_id="x" * 500))
    real = Server.add

    def add_badly(self: Server, entry: Any, *rest: Any) -> Any:
        if entry.number == 3:
            entry.metrics["no@name"] = 1.0
        return real(self, entry, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "add", add_badly)
        with pytest.raises(StorageError, match=r"refuses log_batch: HTTP status 400: INVALID_PARAMETER_VALUE.*no@name"):
            mirror(registry, config)
    assert mirror(registry, config).added == [3]


def test_without_the_client_it_says_what_to_install(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(SetupError, match=r"Install it: \.venv/bin/pip install --no-deps -r infra/locks/mlflow\.lock"):
        mirror(registry, MlflowConfig(uri="http://127.0.0.1:1", model="m"))


def test_a_mirror_leaves_the_environment_as_it_was(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    before = dict(os.environ)
    with pytest.raises(StorageError):
        mirror(registry, MlflowConfig(uri=f"http://127.0.0.1:{free_port()}", model="m"))
    assert dict(os.environ) == before


# --- the verb


@pytest.fixture
def verb(
    registry: Registry, demo_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Any:
    """Runs `gatehouse registry mirror`: the exit code, and all that it says."""

    def run(mlflow: dict[str, Any] | None) -> tuple[int, str]:
        path = tmp_path / "run.yaml"
        section = {"location": registry.root.location} | ({"mlflow": mlflow} if mlflow else {})
        path.write_text(yaml.safe_dump({**demo_settings, "workspace": str(tmp_path / "run"), "registry": section}))
        monkeypatch.setattr(sys, "argv", ["gatehouse", "registry", "mirror", "--config", str(path)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, "".join(capsys.readouterr())

    return run


def test_the_verb_says_what_it_did_and_where_to_look(
    verb: Any, config: MlflowConfig, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", CANARY)
    link = f"{config.uri}/#/models/{config.model}\n"
    assert verb(config.model_dump()) == (0, f"mlflow: added versions 1, 2, the champion is 2; {link}")
    assert verb(config.model_dump()) == (0, f"mlflow: nothing to do; {link}")
    assert not [path for path in server.folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_the_verb_ends_with_one_line_and_a_code_where_it_cannot(verb: Any) -> None:
    code, said = verb({"uri": f"http://127.0.0.1:{free_port()}", "model": "m"})
    assert (code, len(said.splitlines())) == (3, 1)
    assert "does not answer" in said
    code, said = verb({"uri": f"http://me:{CANARY}@127.0.0.1:1", "model": "m"})
    assert (code, len(said.splitlines())) == (2, 1)
    assert "MLFLOW_TRACKING_PASSWORD" in said
    assert CANARY not in said
    code, said = verb(None)
    assert (code, len(said.splitlines())) == (2, 1)
    assert "has no section registry.mlflow" in said
