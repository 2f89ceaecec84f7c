"""The job server of a Ray cluster: starts a job once per run id, ships its code, follows its log, stops it."""

import hashlib
import logging
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import SetupError, StoppedError, UsageError

PACKAGES = ("jobs", "models", "pipeline")
CONFIG_DIGEST = "config_sha256"
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Ray would take them before the address that it is given.
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
CONNECT_SECONDS = 10
POLL_SECONDS = 0.5
# So long is a head that does not answer, such as one that is restarted, asked again while a job is followed.
LOST_SECONDS = 120


class JobServer:
    """The jobs of the cluster whose dashboard is at `address`, HOST:PORT or a URL.

    Raises:
        UsageError: the address is none.
        SetupError: nothing answers there, what answers is no Ray dashboard, or it refuses the token.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        url = urlsplit(address if "://" in address else f"http://{address}")
        if url.scheme not in ("http", "https") or not url.hostname:
            raise UsageError(f"--address is {address!r}", "give the dashboard's host and port, such as head:8265")
        try:
            port = url.port or (443 if url.scheme == "https" else 80)
            socket.create_connection((url.hostname, port), CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            raise SetupError(
                f"nothing answers at {address}: {error}", "start the cluster, or correct --address"
            ) from error
        for variable in ADDRESS_VARIABLES:
            os.environ.pop(variable, None)
        # Read when Ray is first imported. Without the mode, Ray does not send the token.
        if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        from ray.job_submission import JobSubmissionClient

        for handler in logging.getLogger("ray").handlers:
            handler.setLevel(logging.WARNING)
        with self._explaining():
            self.client = JobSubmissionClient(url.geturl().rstrip("/"))

    def job(self, run_id: str) -> Any:
        """What Ray knows of a job, a `JobDetails`.

        Raises:
            UsageError: there is no such job.
        """
        found = self._find(run_id)
        if found is None:
            raise UsageError(
                f"the cluster has no job {run_id!r}", "give the run id that submit printed when it started"
            )
        return found

    def _find(self, run_id: str) -> Any | None:
        if not RUN_ID.fullmatch(run_id):
            raise UsageError(f"the run id is {run_id!r}", "use letters, digits, '.', '-' and '_'")
        with self._explaining():
            try:
                return self.client.get_job_info(run_id)
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return None
                raise

    def start(self, run_id: str, entrypoint: str, config: Path) -> bool:
        """Starts the job, and says whether it did: a job of this run id, running or ended, is left as it is.

        Raises:
            UsageError: a job of this run id has another command or configuration.
        """
        digest = hashlib.sha256(config.read_bytes()).hexdigest()
        found = self._find(run_id)
        if found is None:
            with self._explaining(), shipped(config) as folder:
                try:
                    self._submit(
                        entrypoint=entrypoint,
                        submission_id=run_id,
                        runtime_env={"working_dir": str(folder)},
                        metadata={CONFIG_DIGEST: digest},
                    )
                    return True
                except RuntimeError as error:
                    if "already exists" not in str(error):
                        raise
            found = self.job(run_id)  # another submit was faster
        if found.entrypoint != entrypoint or (found.metadata or {}).get(CONFIG_DIGEST) != digest:
            raise UsageError(
                f"run id {run_id} is that of another job or configuration: {found.entrypoint}",
                "choose another --run-id, or repeat that command",
            )
        return False

    def _submit(self, **job: Any) -> None:
        last = time.monotonic() + LOST_SECONDS
        while True:
            try:
                self.client.submit_job(**job)
                return
            except RuntimeError as error:
                # A cluster that has just started has no agent for jobs yet, and says so.
                if "try again later" not in str(error) or time.monotonic() > last:
                    raise
            time.sleep(POLL_SECONDS)

    def follow(self, run_id: str) -> Any:
        """Prints the job's log until the job ends, through lost connections, and returns what Ray then knows of it.

        Raises:
            SetupError: the cluster does not answer any more.
        """
        import asyncio

        from aiohttp import ClientError

        num_printed = 0

        async def print_log() -> None:
            nonlocal num_printed
            num_seen = 0
            # Each connection gets the log from its beginning.
            async for text in self.client.tail_job_logs(run_id):
                sys.stdout.write(text[max(0, num_printed - num_seen) :])
                sys.stdout.flush()
                num_seen += len(text)
                num_printed = max(num_printed, num_seen)

        last_answer = time.monotonic()
        while True:
            try:
                asyncio.run(print_log())
                found = self.job(run_id)
                if found.status.is_terminal():
                    return found
                last_answer = time.monotonic()
            except (ClientError, OSError, RuntimeError, SetupError) as error:
                if time.monotonic() - last_answer > LOST_SECONDS:
                    raise SetupError(
                        f"the cluster has not answered for {LOST_SECONDS} s; job {run_id} may go on",
                        "repeat the command when the cluster is back: it follows the job",
                    ) from error
            time.sleep(POLL_SECONDS)

    def stop(self, run_id: str) -> Any:
        """Stops the job, if it runs, and returns what Ray knows of it when it has ended."""
        found = self.job(run_id)
        if not found.status.is_terminal():
            with self._explaining():
                self.client.stop_job(run_id)
        while not found.status.is_terminal():
            time.sleep(POLL_SECONDS)
            found = self.job(run_id)
        return found

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turns what Ray's client raises into one message."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise SetupError(
                f"the cluster at {self.address} refuses the token, or got none",
                "set RAY_AUTH_TOKEN_PATH (a file) or RAY_AUTH_TOKEN to the token of the cluster",
            ) from error
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise SetupError(
                f"no job server of Ray does this at {self.address}: {first_line}",
                "check that the address is that of Ray's dashboard, and the log of the head",
            ) from error


@contextmanager
def shipped(config: Path) -> Iterator[Path]:
    """A folder of what a job needs: the packages, less what git ignores, and the configuration."""
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory(prefix="gatehouse-submit-") as folder:
        for package in PACKAGES:
            shutil.copytree(root / package, Path(folder) / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(config, Path(folder) / config.name)
        ignored = root / ".gitignore"
        if ignored.exists():
            # Ray leaves out what this file names; the last line that fits a file decides.
            (Path(folder) / ".gitignore").write_text(f"{ignored.read_text()}\n!/{config.name}\n")
        yield Path(folder)


def exit_code(job: Any) -> int:
    """The exit code of a job that has ended.

    Raises:
        StoppedError: the job was stopped.
        SetupError: it has none, because it did not start or its node was lost.
    """
    if job.status == "STOPPED":
        raise StoppedError(f"job {job.submission_id} was stopped", "choose another --run-id to start it again")
    if job.driver_exit_code is None and job.status != "SUCCEEDED":
        reason = (str(job.message).strip().splitlines() or ["no reason given"])[-1]
        raise SetupError(
            f"job {job.submission_id} ended without an exit code: {reason.rstrip('.')}",
            "see its log and the cluster, then choose another --run-id to start it again",
        )
    code = int(job.driver_exit_code or 0)
    return code if code >= 0 else 128 - code  # as a shell says that a signal ended it


def describe(job: Any) -> str:
    """One line on how a job stands."""
    line = f"job {job.submission_id}: {job.status.lower()}"
    for word, milliseconds in (("since", job.start_time), ("until", job.end_time)):
        if milliseconds:
            line += f" {word} {datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return line if job.driver_exit_code is None else f"{line}, exit code {job.driver_exit_code}"
