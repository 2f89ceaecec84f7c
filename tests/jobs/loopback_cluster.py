"""A Ray cluster of two nodes on this machine, on loopback alone and behind a token, ended by the ids of its processes.

Run as a script, with the head's address, this file is the second node: `ray start` refuses one on loopback.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

OBJECT_STORE_BYTES = 80_000_000
START_SECONDS = 120


class Cluster:
    """A head without CPUs, as one in production, and a worker node; `token` is what the job server asks for."""

    def __init__(self, token: str) -> None:
        # A short path: sockets of Ray lie below it, and theirs have at most 107 characters.
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self.token_path = self.folder / "token"
        self.token_path.write_text(token)
        self.token_path.chmod(0o600)
        gcs, dashboard, client = free_ports(3)
        self.gcs_address, self.address = f"127.0.0.1:{gcs}", f"127.0.0.1:{dashboard}"
        options = f"--head --block --disable-usage-stats --num-cpus=0 --object-store-memory={OBJECT_STORE_BYTES}"
        ports = f"--port={gcs} --dashboard-port={dashboard} --ray-client-server-port={client}"
        hosts = f"--node-ip-address=127.0.0.1 --dashboard-host=127.0.0.1 --temp-dir={self.folder}/ray"
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start"]
        self.processes = [self._spawn([*ray, *f"{options} {ports} {hosts}".split()])]
        try:
            self._wait_for_nodes(1)
            self.add_worker()
        except BaseException:
            self.close()
            raise

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that may talk to the cluster."""
        left_out = ("RAY_", "PYTHONPATH")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}:{kept.get('PATH', '')}",
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
        }

    @property
    def worker(self) -> int:
        """The process, and group of processes, of the last worker node."""
        return self.processes[-1].pid

    def add_worker(self) -> None:
        self.processes.append(self._spawn([sys.executable, __file__, self.gcs_address]))
        self._wait_for_nodes(2)

    def kill_worker(self) -> None:
        os.killpg(self.worker, signal.SIGKILL)
        self.processes.pop().wait()
        self._wait_for_nodes(1)

    def ask(self, path: str) -> Any:
        """What the dashboard answers to someone who has the token."""
        header = {"Authorization": f"Bearer {self.token_path.read_text()}"}
        with urllib.request.urlopen(urllib.request.Request(f"http://{self.address}{path}", headers=header)) as page:
            return json.load(page)

    def close(self) -> None:
        # The head last: the others would try to reach it. Both end what they started when they are told to.
        while self.processes:
            process = self.processes.pop()
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._folder.cleanup()

    def _spawn(self, command: list[str]) -> "subprocess.Popen[bytes]":
        settings = {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every port on loopback
            "RAY_USAGE_STATS_ENABLED": "0",
            # A killed node is missed after some seconds instead of half a minute.
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "4",
        }
        with (self.folder / "nodes.log").open("ab") as log:
            return subprocess.Popen(
                command,
                env=self.environment | settings,
                # Not where a node would import the packages from: a job has to bring them.
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_for_nodes(self, count: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError, KeyError):
                nodes = self.ask("/api/v0/nodes")["data"]["result"]["result"]
                if sum(node["state"] == "ALIVE" for node in nodes) == count:
                    return
            if self.processes[-1].poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"{count} nodes did not come up:\n{(self.folder / 'nodes.log').read_text()[-2000:]}")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [bound.getsockname()[1] for bound in sockets]


def status_of_post(url: str, body: bytes, token: str | None = None) -> int:
    """The HTTP status that a POST is answered with."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method="POST")) as page:
            return int(page.status)
    except urllib.error.HTTPError as error:
        return error.code


if __name__ == "__main__":
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    Node(
        RayParams(
            gcs_address=sys.argv[1],
            node_ip_address="127.0.0.1",
            num_cpus=2,
            object_store_memory=OBJECT_STORE_BYTES,
        ),
        head=False,
        shutdown_at_exit=True,
        spawn_reaper=False,
    )
    signal.pause()
