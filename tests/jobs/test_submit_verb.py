"""`gatehouse submit`: what it refuses before there is a job, and jobs on a cluster of two nodes that has a token."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from loopback_cluster import Cluster, status_of_post
from test_mistakes import gatehouse, one_line
from test_ray_executor import descendants, listening_addresses

from jobs.job_server import JobServer, exit_code, shipped
from pipeline.errors import SetupError, StoppedError
from pipeline.shards.manifest import read_index

ROOT = Path(__file__).parents[2]
NOWHERE = "127.0.0.1:1"
CANARY = "c4n4ry-7f3e9b1d5a2c8e6f0b4d7a9c1e3f5b8d"


@pytest.fixture
def config_file(demo_settings: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**demo_settings, "workspace": str(tmp_path / "run")}))
    return path


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


# --- on a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    started = Cluster(CANARY)
    yield started
    started.close()


def start(cluster: Cluster, *words: str, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "jobs", "submit", "--address", cluster.address, *words]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=cluster.environment | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def submit(cluster: Cluster, *words: str, **environment: str) -> tuple[int, str, str]:
    process = start(cluster, *words, **environment)
    out, error = process.communicate()
    assert CANARY not in out + error
    return process.returncode, out, error


def command_lines(processes: Iterable[int]) -> Iterator[bytes]:
    for process in processes:
        with contextlib.suppress(OSError):  # it ended meanwhile
            yield Path(f"/proc/{process}/cmdline").read_bytes()


def processes_of_session(leader: int) -> Iterator[int]:
    """In one pass over all processes: a walk from parent to child takes longer and can miss some meanwhile."""
    for process in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            if os.getsid(process) == leader:
                yield process


def wait_for_task(node: int, followers: "Iterable[subprocess.Popen[str]]") -> None:
    """Until a process of the node runs a task of the job that is followed."""
    while not any(line.startswith(b"ray::_call") for line in command_lines(processes_of_session(node))):
        for follower in followers:
            assert follower.poll() is None, follower.communicate()
        time.sleep(0.005)


@pytest.mark.exhaustive
@pytest.mark.ray
def test_a_job_survives_a_killed_node_and_is_started_once(
    cluster: Cluster, config_file: Path, simulated: Path, tmp_path: Path, dataset: Path
) -> None:
    # The same log in 210 tasks instead of 7, so that the node is at work for seconds.
    inputs = shutil.copytree(simulated, tmp_path / "inputs")
    for path in (inputs / "log").iterdir():
        pq.write_table(pq.read_table(path), path, row_group_size=100)
    pieces = ("--set", f"inputs={inputs}", "--set", "preprocess.rows_per_partition=100")
    words = ("preprocess", "--config", str(config_file), *pieces, "--run-id", "survivor")
    # An address of the environment must not win over that of the command line.
    both = [start(cluster, *words, RAY_ADDRESS=NOWHERE) for _ in range(2)]
    wait_for_task(cluster.worker, both)
    cluster.kill_worker()
    cluster.add_worker()
    texts = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    heads = sorted(out.splitlines()[0] for out, _ in texts)
    assert heads[0].endswith("not started again")
    assert heads[1] == "job survivor: submitted"
    assert all(f"dataset: {tmp_path}/run/dataset" in out for out, _ in texts)
    assert [job["submission_id"] for job in cluster.ask("/api/jobs/")].count("survivor") == 1
    # Shards are the same bytes as those of a run in this process.
    assert read_index(tmp_path / "run" / "dataset").shards == read_index(dataset).shards

    code, out, _ = submit(cluster, *words)
    assert code == 0
    assert "exit code 0; not started again" in out
    code, _, error = submit(cluster, *words, "--set", "seed=9")
    assert code == 2
    assert "run id survivor is that of another job or configuration" in one_line(error)


@pytest.mark.ray
def test_a_job_that_fails_gives_its_own_exit_code(cluster: Cluster, config_file: Path) -> None:
    change = ("--set", "model.body.kind=mmoee", "--run-id", "mistaken")
    code, out, _ = submit(cluster, "train", "--config", str(config_file), *change)
    assert code == 2
    assert "error: model.body.kind is 'mmoee', which is not in the catalogue" in out
    code, out, _ = submit(cluster, "--status", "mistaken")
    assert code == 0
    assert out.startswith("job mistaken: failed since ")
    assert out.endswith("UTC, exit code 2\n")


@pytest.mark.ray
def test_a_stopped_job_ends_those_who_follow_it(cluster: Cluster, config_file: Path) -> None:
    follower = start(cluster, "run", "--config", str(config_file), "--run-id", "stopped")
    while "stopped" not in [job["submission_id"] for job in cluster.ask("/api/jobs/")]:
        assert follower.poll() is None, follower.communicate()
        time.sleep(0.1)
    code, out, _ = submit(cluster, "--stop", "stopped")
    assert code == 0
    assert out.startswith("job stopped: stopped since ")
    _, error = follower.communicate()
    assert follower.returncode == 143
    assert "job stopped was stopped. Choose another --run-id" in one_line(error)


@pytest.mark.ray
def test_without_the_token_there_is_no_job(cluster: Cluster) -> None:
    url = f"http://{cluster.address}/api/jobs/"
    body = b'{"entrypoint": "echo open"}'
    assert status_of_post(url, body) == 401
    assert status_of_post(url, body, token="a" * 40) == 403
    for change in ({"RAY_AUTH_TOKEN": "a" * 40}, {"RAY_AUTH_MODE": "disabled"}):
        code, _, error = submit(cluster, "--status", "survivor", **change)
        assert code == 2
        assert f"the cluster at {cluster.address} refuses the token, or got none" in one_line(error)


@pytest.mark.ray
def test_a_job_that_is_not_there_is_one_message(cluster: Cluster) -> None:
    for option in ("--status", "--stop"):
        code, _, error = submit(cluster, option, "nobody")
        assert code == 2
        assert "the cluster has no job 'nobody'" in one_line(error)


@pytest.mark.ray
def test_the_token_is_in_no_log_record_or_command_line(cluster: Cluster, config_file: Path) -> None:
    nowhere = ("--set", "inputs=/nowhere", "--run-id", "nowhere")
    code, out, error = submit(cluster, "preprocess", "--config", str(config_file), *nowhere)
    assert code == 3, error
    assert "error: the input folder /nowhere is not there" in out
    assert CANARY not in str(cluster.ask("/api/jobs/"))
    canary = CANARY.encode()
    assert not [line for node in cluster.processes for line in command_lines(descendants(node.pid)) if canary in line]
    files = [path for path in cluster.folder.rglob("*") if path.is_file() and path != cluster.token_path]
    assert any(path.name == "job-driver-nowhere.log" for path in files)
    assert not [path for path in files if canary in path.read_bytes()]


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/net/tcp6").exists(), reason="reads the sockets of Linux")
def test_every_port_of_both_nodes_is_on_loopback(cluster: Cluster) -> None:
    processes = [process for node in cluster.processes for process in descendants(node.pid)]
    # 127.0.0.1, ::1 and ::ffff:127.0.0.1
    loopback = {"0100007F", "6:" + "0" * 24 + "01000000", "6:" + "0" * 16 + "FFFF0000" + "0100007F"}
    assert "0100007F" in listening_addresses(processes) <= loopback
