"""`gatehouse submit`: jobs on a cluster of two nodes that has a token."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from loopback_cluster import Cluster, status_of_post
from submitted_config import NOWHERE, write_config
from test_mistakes import one_line
from test_ray_executor import descendants, listening_addresses

from pipeline.shards.manifest import read_index

ROOT = Path(__file__).parents[2]
CANARY = "c4n4ry-7f3e9b1d5a2c8e6f0b4d7a9c1e3f5b8d"


@pytest.fixture
def config_file(demo_settings: dict[str, Any], tmp_path: Path) -> Path:
    return write_config(demo_settings, tmp_path)


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
