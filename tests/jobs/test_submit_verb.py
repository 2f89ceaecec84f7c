"""`gatehouse submit` without a cluster: what it refuses before there is a job, and how it starts and follows one."""

import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from submitted_config import NOWHERE, write_config
from test_mistakes import gatehouse, one_line

from jobs.job_server import JobServer, exit_code, shipped
from pipeline.errors import SetupError, StoppedError


@pytest.fixture
def config_file(demo_settings: dict[str, Any], tmp_path: Path) -> Path:
    return write_config(demo_settings, tmp_path)


# --- before there is a job


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "submit does one thing. Give a verb such as `train`"),
        (("train", "--stop", "a"), "submit does one thing"),
        (("train",), "submit has no configuration. Add --config FILE"),
        (("tran", "--config", "mine.yaml"), "submit cannot run 'tran'. Choose one of evaluate, "),
        (("submit", "--config", "mine.yaml"), "submit cannot run 'submit'"),
        (("train", "--config", "mine.yaml", "--set", "seed=-1"), "seed is -1"),
        (
            ("train", "--config", "mine.yaml", "--set", "workspace=runs/a"),
            "workspace is 'runs/a', which on the cluster",
        ),
        (("train", "--config", "mine.yaml", "--set", "dataset=data"), "--set dataset=/SHARED/FOLDER"),
        (("retrain", "--config", "mine.yaml"), "--set registry.location=/SHARED/FOLDER"),
        (("train", "--config", "mine.yaml"), f"nothing answers at {NOWHERE}: "),
        (("--status", "a"), f"nothing answers at {NOWHERE}: "),
        (("--status", "a", "--address", "ray://head:10001"), "--address is 'ray://head:10001'"),
        (("--status", "a", "--address", "127.0.0.1:99999"), "nothing answers at 127.0.0.1:99999: Port out of range"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_shipped(
    words: tuple[str, ...], said: str, config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(config_file.parent)
    code, error = gatehouse(monkeypatch, capsys, "submit", "--address", NOWHERE, *words)
    assert code == 2
    assert said in one_line(error)


def test_an_option_that_the_verb_does_not_have_is_refused_here(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    arguments = ("submit", "train", "--address", NOWHERE, "--config", str(config_file), "--resum")
    code, error = gatehouse(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "No such option: --resum" in error


def test_what_is_shipped_is_code_without_what_git_ignores_and_the_configuration(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private.runtime_env.packaging import create_package

    root = tmp_path / "checkout"
    for path in ("jobs/job_server.py", "jobs/__pycache__/a.pyc", "models/ple.py", "pipeline/secret.key", "runs/big"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    (root / ".gitignore").write_text("runs/\n*.key\n*.yaml")
    monkeypatch.setattr("jobs.job_server.__file__", str(root / "jobs" / "job_server.py"))
    with shipped(config_file) as folder:
        create_package(str(folder), tmp_path / "package.zip", include_gitignore=True)
    assert not folder.exists()
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        names = {name for name in package.namelist() if not name.endswith("/")}
    assert names == {".gitignore", "jobs/job_server.py", "models/ple.py", "mine.yaml"}


def test_the_code_that_is_shipped_is_small(config_file: Path) -> None:
    with shipped(config_file) as folder:
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 5_000_000


# --- starting and following, without a cluster


class NewClient:
    """A job server that has no agent for the first jobs, as one has not that has just started."""

    def __init__(self) -> None:
        self.num_asked = 0

    def get_job_info(self, run_id: str) -> Any:
        raise RuntimeError("Request failed with status code 404")

    def submit_job(self, **job: Any) -> None:
        self.num_asked += 1
        if self.num_asked < 3:
            raise RuntimeError("status code 500: No available agent to submit job, please try again later.")


def test_a_cluster_that_has_just_started_is_asked_again(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.job_server.POLL_SECONDS", 0.0)
    client = NewClient()
    assert server_with(client).start("a", "true", config_file)
    assert client.num_asked == 3
    monkeypatch.setattr("jobs.job_server.LOST_SECONDS", -1)
    with pytest.raises(SetupError, match="try again later"):
        server_with(NewClient()).start("a", "true", config_file)


class FlakyClient:
    """A job server whose connection breaks after each piece of the log but the last."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces
        self.num_connections = 0

    async def tail_job_logs(self, run_id: str) -> AsyncIterator[str]:
        self.num_connections += 1
        for piece in self.pieces[: self.num_connections]:
            yield piece
        if self.num_connections < len(self.pieces):
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    def get_job_info(self, run_id: str) -> Any:
        return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: True))


def server_with(client: Any) -> JobServer:
    server = JobServer.__new__(JobServer)
    server.address, server.client = NOWHERE, client
    return server


def test_a_log_is_printed_once_though_the_connection_is_lost(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("jobs.job_server.POLL_SECONDS", 0.0)
    client = FlakyClient(["one\n", "two\n", "three\n"])
    server_with(client).follow("a")
    assert capsys.readouterr().out == "one\ntwo\nthree\n"
    assert client.num_connections == 3


def test_a_cluster_that_stays_away_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.job_server.LOST_SECONDS", -1)
    with pytest.raises(SetupError, match="job a may go on"):
        server_with(FlakyClient(["one\n", "two\n"])).follow("a")


@pytest.mark.parametrize(("driver_exit_code", "code"), [(0, 0), (2, 2), (75, 75), (-9, 137)])
def test_the_exit_code_is_that_of_the_job(driver_exit_code: int, code: int) -> None:
    job = SimpleNamespace(submission_id="a", status="FAILED", driver_exit_code=driver_exit_code, message="")
    assert exit_code(job) == code


def test_a_job_without_an_exit_code_says_why() -> None:
    job = SimpleNamespace(submission_id="a", status="FAILED", driver_exit_code=None, message="first\nno such image.")
    with pytest.raises(SetupError, match=r"job a ended without an exit code: no such image\. See its log"):
        exit_code(job)
    job.status = "STOPPED"
    with pytest.raises(StoppedError, match="job a was stopped"):
        exit_code(job)
