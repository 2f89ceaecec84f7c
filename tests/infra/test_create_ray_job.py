"""The waiting pod of the retraining CronJob, against a small Kubernetes API on loopback."""

import importlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "infra" / "kuberay"))  # a script, not a package
create_ray_job: Any = importlib.import_module("create_ray_job")

RAY_JOBS = "/apis/ray.io/v1/namespaces/recommend/rayjobs"
EXIT_CODE_75 = "Job entrypoint command failed with exit code 75, last available logs (truncated to 20,000 chars):\n"


class Api(ThreadingHTTPServer):
    """Keeps the RayJobs it is given; each GET answers the next of `statuses`, an int being an HTTP status."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.objects: dict[str, Any] = {}
        self.statuses: list[Any] = []


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_POST(self) -> None:
        assert self.headers["Authorization"] == "Bearer token-of-the-pod"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["metadata"]["name"]
        is_new = name not in self.server.objects
        self.server.objects.setdefault(name, body)
        self.answer(201 if is_new else 409, body)

    def do_GET(self) -> None:
        status = self.server.statuses.pop(0)
        if isinstance(status, int):
            self.answer(status, {})
        else:
            self.answer(200, {"status": status})

    def answer(self, code: int, body: Any) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr(create_ray_job, "POLL_SECONDS", 0.0)
    server = Api()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def arguments(api: Api, tmp_path: Path) -> list[Any]:
    (tmp_path / "token").write_text("token-of-the-pod")
    (tmp_path / "namespace").write_text("recommend\n")
    template = tmp_path / "ray_job.yaml"
    template.write_text("apiVersion: ray.io/v1\nkind: RayJob\nmetadata: {}\nspec: {entrypoint: sleep 1}\n")
    return [template, api.url, tmp_path, "retrain-29012345", "uid-1"]


def test_a_second_pod_waits_for_the_ray_job_that_is_there(
    api: Api, arguments: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    api.statuses = [{}, {"jobDeploymentStatus": "Running"}, {"jobDeploymentStatus": "Complete"}]
    assert create_ray_job.main(*arguments) == 0
    made = api.objects["retrain-29012345"]
    assert made["spec"] == {"entrypoint": "sleep 1"}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "retrain-29012345", "uid": "uid-1"}
    assert made["metadata"] == {"name": "retrain-29012345", "ownerReferences": [owner]}

    api.statuses = [{"jobDeploymentStatus": "Complete"}]
    assert create_ray_job.main(*arguments) == 0
    assert len(api.objects) == 1
    assert "there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"jobDeploymentStatus": "Failed", "message": EXIT_CODE_75.replace("75", "3")}, 3),
        ({"jobDeploymentStatus": "Failed", "message": EXIT_CODE_75.replace("75", "4")}, 0),
        ({"jobDeploymentStatus": "Failed", "message": EXIT_CODE_75}, 0),
        ({"jobDeploymentStatus": "Failed", "message": "Ray head pod not found."}, 2),
        ({"jobDeploymentStatus": "ValidationFailed"}, 2),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, 143),
        (404, 2),
    ],
)
def test_it_leaves_with_the_exit_code_of_the_command(
    api: Api, arguments: list[Any], status: Any, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    api.statuses = [{"jobDeploymentStatus": "Initializing"}, status]
    assert create_ray_job.main(*arguments) == code


def test_an_api_that_is_away_for_a_moment_is_asked_again(api: Api, arguments: list[Any]) -> None:
    api.statuses = [503, 500, {"jobDeploymentStatus": "Complete"}]
    assert create_ray_job.main(*arguments) == 0
    assert api.statuses == []


def test_an_api_that_stays_away_leaves_the_waiting_to_another_pod(
    api: Api, arguments: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create_ray_job, "LOST_SECONDS", -1.0)
    api.statuses = [503]
    with pytest.raises(create_ray_job.LostError, match="Kubernetes does not answer"):
        create_ray_job.main(*arguments)


def test_the_words_of_an_exit_code_are_those_of_ray() -> None:
    from ray.dashboard.modules.job import job_supervisor

    assert "failed with exit code {return_code}" in Path(job_supervisor.__file__).read_text()
