"""Creates a RayJob from a template, waits for it and leaves with its exit code: what the pod of retrain.yaml runs.

The RayJob has the name of the pod's Job, so a second pod of the same Job waits for the one that is there, and belongs
to that Job, so it is removed with it. Leaves with 1 when Kubernetes does not answer: another pod can go on waiting.
"""

import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
RAY_JOBS = "/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
POLL_SECONDS = 10.0
LOST_SECONDS = 300.0
# Of `gatehouse retrain`: the gate kept the champion, and another run holds the lock. Both are in order.
EXPECTED_EXIT_CODES = (4, 75)
STOPPED_EXIT_CODE = 143
ALREADY_EXISTS = 409


class LostError(Exception):
    """Kubernetes did not answer for LOST_SECONDS."""


def ask(api: str, account: Path, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The API's answer to a GET, or to a POST of `body`.

    Raises:
        urllib.error.HTTPError: what was asked is refused.
        LostError: there was no answer, after many tries.
    """
    deadline = time.monotonic() + LOST_SECONDS
    while True:
        # Read each time: Kubernetes replaces it within the hour.
        headers = {"Authorization": f"Bearer {(account / 'token').read_text()}", "Content-Type": "application/json"}
        request = urllib.request.Request(api + path, json.dumps(body).encode() if body else None, headers)
        tls = ssl.create_default_context(cafile=str(account / "ca.crt")) if api.startswith("https:") else None
        try:
            with urllib.request.urlopen(request, timeout=30, context=tls) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except (OSError, ValueError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                raise
            if time.monotonic() > deadline:
                raise LostError(f"Kubernetes does not answer: {error}") from error
        time.sleep(POLL_SECONDS)


def ray_job(template: dict[str, Any], name: str, uid: str) -> dict[str, Any]:
    """The template as the RayJob of the Job `name`."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}
    metadata = {**(template.get("metadata") or {}), "name": name, "ownerReferences": [owner]}
    return {**template, "metadata": metadata}


def exit_code(status: dict[str, Any]) -> int | None:
    """The exit code of a RayJob with this status, or None while it runs; 2 for one that never ran a command."""
    match status.get("jobDeploymentStatus"):
        case "Complete":  # also of a job that was stopped
            return STOPPED_EXIT_CODE if status.get("jobStatus") == "STOPPED" else 0
        case "Failed" | "ValidationFailed":
            # Ray's words for a command that failed.
            found = re.search(r"failed with exit code (\d+)", status.get("message") or "")
            return int(found[1]) if found else 2
    return None


def main(template: Path, api: str, account: Path, name: str, uid: str) -> int:
    path = RAY_JOBS.format(namespace=(account / "namespace").read_text().strip())
    try:
        ask(api, account, path, ray_job(yaml.safe_load(template.read_text()), name, uid))
        print(f"RayJob {name}: created", flush=True)
    except urllib.error.HTTPError as error:
        if error.code != ALREADY_EXISTS:
            print(f"RayJob {name} is refused: {error.read().decode(errors='replace')}", file=sys.stderr)
            return 2
        print(f"RayJob {name}: there already", flush=True)
    while True:
        try:
            status = ask(api, account, f"{path}/{name}").get("status") or {}
        except urllib.error.HTTPError as error:
            print(f"RayJob {name} cannot be read: {error}", file=sys.stderr)
            return 2
        code = exit_code(status)
        if code is not None:
            break
        time.sleep(POLL_SECONDS)
    print(
        f"RayJob {name}: {status['jobDeploymentStatus']}, exit code {code}\n{status.get('message') or ''}", flush=True
    )
    return 0 if code in EXPECTED_EXIT_CODES else code


if __name__ == "__main__":
    try:
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        sys.exit(
            main(Path(sys.argv[1]), f"https://{host}:{port}", ACCOUNT, os.environ["JOB_NAME"], os.environ["JOB_UID"])
        )
    except LostError as lost:
        print(lost, file=sys.stderr)
        sys.exit(1)
