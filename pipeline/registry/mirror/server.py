"""An MLflow server, by MLflow's own client: what it holds of a registry, each change of that, and what a fault means.

The client is an extra: it is imported where a mirror is asked for, and in no other file.
"""

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import GatehouseError, SetupError, StorageError, UsageError
from pipeline.registry.config import MlflowConfig
from pipeline.registry.mirror.entry import REGISTRY_TAG, REMOVED_TAG, VERSION_TAG, Entry
from pipeline.registry.mirror.plan import ModelVersion, Run, Theirs

INSTALL = ".venv/bin/pip install --no-deps -r infra/locks/mlflow.lock"
PROXIED_SCHEME = "mlflow-artifacts:"
COMPLETE, NOT_THERE = "FINISHED", "RESOURCE_DOES_NOT_EXIST"
REMEDY = "see that the server runs and registry.mlflow.uri is its address; the next mirror goes on where this one ended"
MAX_REASON_LENGTH = 200
# What requests says of an answer that was to be tried again, when it does not.
_GIVEN_UP = re.compile(r"too many (\d{3}) error responses")


@dataclass(frozen=True)
class Patience:
    """How long to wait for an answer, and for everything together; None is as long as it takes."""

    request_seconds: int
    total_seconds: float | None = None


class RefusedError(StorageError):
    """The server answers that it will not do that, which may be because another mirror was faster."""


@contextmanager
def connect(config: MlflowConfig, place: str, patience: Patience) -> Iterator["Server"]:
    """A server that shows the registry of a place; nothing is asked yet.

    Raises:
        SetupError: MLflow's client is not installed.
    """
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        # By default it goes on for minutes.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(patience.request_seconds),
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise SetupError(f"MLflow's client cannot be imported: {error}", f"install it: {INSTALL}") from error
        yield Server(MlflowClient(config.uri, config.uri), config, place, patience)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Server:
    """Every method raises a SetupError if the server lets nobody in, and a StorageError if it does not do its work."""

    def __init__(self, client: Any, config: MlflowConfig, place: str, patience: Patience) -> None:
        self.client = client
        self.config = config
        self.place = place
        seconds = patience.total_seconds
        self.deadline = None if seconds is None else time.monotonic() + seconds

    # --- reading

    def read(self) -> Theirs:
        """What there is of the registry.

        Raises:
            UsageError: the model shows another registry, or the experiment was deleted.
        """
        experiment = self._ask("get_experiment_by_name", self.config.experiment)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            raise UsageError(
                f"experiment {self.config.experiment} of {self.config.uri} was deleted",
                "restore it there, or name another one as registry.mlflow.experiment",
            )
        experiment_id = None if experiment is None else str(experiment.experiment_id)
        runs = tuple(self._read_runs(experiment_id)) if experiment_id is not None else ()
        model = self._read_model()
        if model is None:
            return Theirs(experiment_id, runs=runs)
        aliases = {alias: int(version) for alias, version in model.aliases.items()}
        return Theirs(experiment_id, True, tuple(self._read_versions()), runs, aliases)

    def _read_model(self) -> Any | None:
        try:
            model = self._ask("get_registered_model", self.config.model)
        except RefusedError as error:
            if getattr(error.__cause__, "error_code", None) == NOT_THERE:
                return None
            raise
        shown = model.tags.get(REGISTRY_TAG)
        if shown != self.place:
            of = f"shows the registry {shown}" if shown else "was not made by Gatehouse"
            raise UsageError(
                f"model {self.config.model} of {self.config.uri} {of}, and this registry is {self.place}",
                f"name another one as registry.mlflow.model; if the registry has moved, correct the model's tag "
                f"{REGISTRY_TAG} in MLflow",
            )
        return model

    def _read_versions(self) -> Iterator[ModelVersion]:
        for found in self._pages("search_model_versions", filter_string=f"name='{self.config.model}'"):
            if number := _number(found.tags):
                yield ModelVersion(int(found.version), number, found.run_id or "", REMOVED_TAG in found.tags)

    def _read_runs(self, experiment_id: str) -> Iterator[Run]:
        of_gatehouse = f"tags.`{VERSION_TAG}` LIKE '%'"
        for found in self._pages("search_runs", experiment_ids=[experiment_id], filter_string=of_gatehouse):
            number = _number(found.data.tags)
            if number and found.data.tags.get(REGISTRY_TAG) == self.place:
                yield Run(found.info.run_id, number, found.info.status == COMPLETE, found.info.artifact_uri)

    def _pages(self, search: str, **options: Any) -> Iterator[Any]:
        token = None
        while True:
            page = self._ask(search, **options, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    # --- changing

    def make_experiment(self) -> None:
        self._ask("create_experiment", self.config.experiment)

    def make_model(self) -> None:
        self._ask("create_registered_model", self.config.model, tags={REGISTRY_TAG: self.place})

    def add(self, entry: Entry, experiment_id: str, run: Run | None) -> str | None:
        """Describes a version in a run, new or begun, and registers it. Returns why its files are not there, if so."""
        from mlflow.entities import Metric

        milliseconds, refusal = int(entry.created.timestamp() * 1000), None
        if run is None:
            created = self._ask("create_run", experiment_id, milliseconds, entry.tags, entry.run_name)
            run = Run(created.info.run_id, entry.number, False, created.info.artifact_uri)
        if not run.is_complete:
            metrics = [Metric(name, value, milliseconds, 0) for name, value in entry.metrics.items()]
            self._ask("log_batch", run.run_id, metrics=metrics, synchronous=True)
            refusal = self._upload(run, entry.files)
            self._ask("set_terminated", run.run_id, COMPLETE, milliseconds)
        self._ask("create_model_version", self.config.model, entry.source, run.run_id, entry.tags, await_creation_for=0)
        return refusal

    def _upload(self, run: Run, files: Mapping[str, bytes]) -> str | None:
        """Writes files through the server: the client must not write to where only the server's disk is meant."""
        if not run.artifact_uri.startswith(PROXIED_SCHEME):
            return f"{self.config.uri} takes no files: it was started without --serve-artifacts"
        with tempfile.TemporaryDirectory() as folder:
            for name, data in files.items():
                path = Path(folder, name)
                path.write_bytes(data)
                try:
                    self._ask("log_artifact", run.run_id, str(path))
                except RefusedError as error:
                    return error.what
        return None

    def drop_version(self, version: int) -> None:
        self._ask("delete_model_version", self.config.model, str(version))

    def drop_run(self, run_id: str) -> None:
        self._ask("delete_run", run_id)

    def mark(self, version: int, is_removed: bool) -> None:
        """Says of a version that the registry has removed it, or not any more."""
        if is_removed:
            self._ask("set_model_version_tag", self.config.model, str(version), REMOVED_TAG, "true")
        else:
            self._ask("delete_model_version_tag", self.config.model, str(version), REMOVED_TAG)

    def point(self, alias: str, version: int | None) -> None:
        if version is None:
            self._ask("delete_registered_model_alias", self.config.model, alias)
        else:
            self._ask("set_registered_model_alias", self.config.model, alias, str(version))

    # --- asking

    def _ask(self, name: str, *arguments: Any, **options: Any) -> Any:
        """The answer of the client's method of that name."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise StorageError(f"{self.config.uri} is too slow", "let the next mirror go on where this one ended")
        ask: Callable[..., Any] = getattr(self.client, name)
        try:
            return ask(*arguments, **options)
        except Exception as error:  # The client raises its own, those of requests, and those of a parser.
            raise self._explain(name, error) from error

    def _explain(self, name: str, error: Exception) -> GatehouseError:
        """One line. Of an answer only MLflow's own message is shown: a proxy may send back what it was sent."""
        status = _status_of(error)
        if status is None:
            kind = type(error.__context__ or error).__name__
            return StorageError(f"{self.config.uri} does not answer {name}: {kind}", REMEDY)
        if status in (401, 403):
            return SetupError(
                f"{self.config.uri} refuses {name}: HTTP status {status}",
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to those of one "
                "who may write there",
            )
        if status < 500 and status != 429:
            return RefusedError(f"{self.config.uri} refuses {name}: HTTP status {status}{_message_of(error)}", REMEDY)
        return StorageError(f"{self.config.uri} fails at {name}: HTTP status {status}", REMEDY)


def _status_of(error: Exception) -> int | None:
    """The HTTP status of an answer; None where there was none, or none of an MLflow server."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError, RequestException

    if isinstance(error, HTTPError) and error.response is not None:
        return int(error.response.status_code)
    if isinstance(error.__context__, RequestException):
        given_up = _GIVEN_UP.search(str(error.__context__))
        return int(given_up[1]) if given_up else None
    # INTERNAL_ERROR is what the client says of answers that it does not know, too.
    if isinstance(error, MlflowException) and error.error_code != "INTERNAL_ERROR":
        return int(error.get_http_status_code())
    return None


def _message_of(error: Exception) -> str:
    from mlflow.exceptions import RestException

    lines = str(error).splitlines() if isinstance(error, RestException) else []
    return f": {lines[0][:MAX_REASON_LENGTH]}" if lines else ""


def _number(tags: Mapping[str, str]) -> int | None:
    text = tags.get(VERSION_TAG, "")
    return int(text) if text.isascii() and text.isdecimal() else None
