"""A mirror to a real MLflow server: what people see, after kills and beside another mirror too, and what faults say."""

import base64
import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow_server import MlflowServer, free_port, shown
from small_registry import SECONDS, promote, small_lineage, write_files

from jobs.__main__ import main
from pipeline.errors import GatehouseError, SetupError, StorageError, UsageError
from pipeline.registry.config import MlflowConfig
from pipeline.registry.mirror.mirror import Mirrored, mirror
from pipeline.registry.mirror.server import Patience, Server
from pipeline.registry.registry import Registry

CANARY = "c4n4ry-91d0"
CHANGES = ("create_", "log_", "set_", "delete_")


@pytest.fixture(scope="module")
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


def named(server: MlflowServer, name: str) -> MlflowConfig:
    name = name.replace("[", "-").replace("]", "")
    return MlflowConfig(uri=server.uri, model=name, experiment=f"of {name}")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Two versions, of which the second is the champion, after the first."""
    registry = Registry.open(str(tmp_path / "registry"))
    for number in (1, 2):
        add(registry, number)
    promote(registry, 1, 2)
    return registry


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


def seen(config: MlflowConfig) -> dict[str, Any]:
    return shown(config.uri, config.model, config.experiment)


@contextmanager
def before_each_change(act: Callable[[int, str], None]) -> Iterator[None]:
    """Calls a function before each call that changes something on the server, but for those that it makes itself.

    It is given the place of the call in the order of these, and its name.
    """
    real, places, acting = Server._ask, iter(range(1_000_000)), [False]

    def ask(self: Server, name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith(CHANGES) and not acting[0]:
            acting[0] = True
            act(next(places), name)
            acting[0] = False
        return real(self, name, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "_ask", ask)
        yield


# --- what people see


def test_people_see_each_version_with_its_lineage_and_metrics_and_the_champion(
    registry: Registry, config: MlflowConfig, tmp_path: Path
) -> None:
    done = mirror(registry, config)
    assert str(done) == "added versions 1, 2, the champion is 2"
    found = seen(config)
    assert found["aliases"] == {"champion": "2", "previous": "1"}
    assert found["tags"] == {"gatehouse.registry": f"gatehouse://{tmp_path}/registry"}
    assert [version[:2] for version in found["versions"]] == [
        (number, f"gatehouse://{tmp_path}/registry/versions/00000{number}") for number in "12"
    ]
    _, _, tags, (run_name, status, start, run_tags, metrics, files) = found["versions"][1]
    assert tags == run_tags
    assert {"gatehouse.parent": "1", "gatehouse.run_id": "run-2", "gatehouse.gate": "promoted"}.items() <= tags.items()
    assert (run_name, status, metrics) == ("run-2", "FINISHED", {"click/auc": 0.52})
    assert start == int(registry.show(2).created.timestamp() * 1000)
    assert files == ["decision.json", "report.json"]


def test_a_second_mirror_changes_nothing(registry: Registry, config: MlflowConfig) -> None:
    mirror(registry, config)
    found = seen(config)

    def fail(_: int, name: str) -> None:
        raise AssertionError(name)

    with before_each_change(fail):
        assert str(mirror(registry, config)) == "nothing to do"
    assert seen(config) == found


def test_aliases_follow_a_promotion_and_a_rollback(registry: Registry, config: MlflowConfig) -> None:
    mirror(registry, config)
    add(registry, 3)
    promote(registry, 3)
    assert str(mirror(registry, config)) == "added version 3, the champion is 3"
    assert seen(config)["aliases"] == {"champion": "3", "previous": "2"}
    with registry.held("the tests", SECONDS) as lease:
        for _ in range(2):
            registry.rollback(token=lease.token, reason="worse")
    assert str(mirror(registry, config)) == "the champion is 1"
    assert seen(config)["aliases"] == {"champion": "1"}


def test_a_removed_version_is_marked_and_stays_and_one_that_is_back_is_not(
    registry: Registry, config: MlflowConfig, tmp_path: Path
) -> None:
    mirror(registry, config)
    found = seen(config)
    folder = Path(registry.root.location, "versions", "000001")
    shutil.move(folder, tmp_path / "aside")
    assert mirror(registry, config).marked == [1]
    assert [version[2].get("gatehouse.removed") for version in seen(config)["versions"]] == ["true", None]
    shutil.move(tmp_path / "aside", folder)
    assert mirror(registry, config).marked == [1]
    assert seen(config) == found


def test_a_damaged_version_is_left_out_with_a_line_until_it_is_mended(registry: Registry, config: MlflowConfig) -> None:
    path = Path(registry.root.at("versions/000002/report.json"))
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    done = mirror(registry, config)
    assert done.added == [1]
    (warning,) = done.warnings
    assert warning.startswith(f"version 2 is not mirrored: {path} is damaged")
    assert seen(config)["aliases"] == {"previous": "1"}
    path.write_bytes(content)
    assert str(mirror(registry, config)) == "added version 2, the champion is 2"


def test_a_registry_in_a_store_is_shown_from_there(bucket: str, tmp_path: Path, config: MlflowConfig) -> None:
    registry = Registry.open(f"{bucket}/models")
    registry.publish(write_files(tmp_path / "made", "1"), small_lineage())
    assert mirror(registry, config).added == [1]
    ((_, source, tags, (*_, files)),) = seen(config)["versions"]
    assert (source, tags["gatehouse.registry"]) == (f"{bucket}/models/versions/000001", f"{bucket}/models")
    assert files == ["config.resolved.yaml", "report.json"]


def test_an_empty_registry_makes_nothing(tmp_path: Path, config: MlflowConfig) -> None:
    with before_each_change(lambda _, name: pytest.fail(name)):
        assert str(mirror(Registry.open(str(tmp_path / "registry")), config)) == "nothing to do"


def test_a_model_of_others_is_not_touched(registry: Registry, config: MlflowConfig, tmp_path: Path) -> None:
    other = Registry.open(str(tmp_path / "other" / "registry"))
    add(other, 1)
    mirror(registry, config)
    found = seen(config)
    with pytest.raises(UsageError, match=rf"shows the registry gatehouse://{registry.root.location}, and this"):
        mirror(other, config)
    assert seen(config) == found
    client_of(config).create_registered_model("by hand")
    with pytest.raises(UsageError, match=r"model by hand of .* was not made by Gatehouse"):
        mirror(registry, config.model_copy(update={"model": "by hand"}))


def client_of(config: MlflowConfig) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(config.uri, config.uri)


# --- kills, and two at once


class Killed(BaseException):
    pass


@pytest.fixture
def small_registry(tmp_path: Path) -> Registry:
    """One version, which is the champion."""
    registry = Registry.open(str(tmp_path / "registry"))
    add(registry, 1)
    promote(registry, 1)
    return registry


def changes_of(registry: Registry, config: MlflowConfig) -> list[str]:
    """The changes that a mirror makes that nothing disturbs."""
    names: list[str] = []
    with before_each_change(lambda _, name: names.append(name)):
        mirror(registry, config)
    run = ["create_run", "log_batch", "log_artifact", "log_artifact", "set_terminated"]
    version = ["create_model_version", "set_registered_model_alias"]
    assert names == ["create_experiment", "create_registered_model", *run, *version]
    return names


def test_a_mirror_that_was_killed_before_any_change_is_completed_by_the_next(
    small_registry: Registry, server: MlflowServer
) -> None:
    config = named(server, "never killed")
    names, expected = changes_of(small_registry, config), seen(config)
    for place in range(1, len(names)):

        def kill(now: int, name: str, place: int = place) -> None:
            if now == place:
                raise Killed(name)

        config = named(server, f"killed {place}")
        with before_each_change(kill), pytest.raises(Killed, match=names[place]):
            mirror(small_registry, config)
        mirror(small_registry, config)
        assert seen(config) == expected, names[place]


@pytest.mark.parametrize(
    ("place", "num_duplicates"),
    [
        *(pytest.param(place, 0, marks=pytest.mark.exhaustive) for place in (0, 1, 8)),
        (2, 0),  # The first other one has finished, and the second removes the run that is made for nothing.
        *(pytest.param(place, 1, marks=pytest.mark.exhaustive) for place in (3, 4, 5, 6)),
        (7, 1),  # Both register the version.
    ],
)
def test_mirrors_that_run_into_each_other_leave_no_duplicates(
    small_registry: Registry, server: MlflowServer, place: int, num_duplicates: int
) -> None:
    """Before a change and the next one of a mirror, another one does all there is to do."""
    config = named(server, f"alone {place}")
    changes_of(small_registry, config)
    expected = seen(config)
    config = named(server, f"beside {place}")
    done: list[Mirrored] = []

    def run_another(now: int, _: str) -> None:
        if now in (place, place + 1):
            done.append(mirror(small_registry, config))

    with before_each_change(run_another):
        done.append(mirror(small_registry, config))
    assert seen(config) == expected
    assert sum(one.num_duplicates for one in done) == num_duplicates


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
