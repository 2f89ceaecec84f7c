"""Writes checkpoints beside the training: a copy of the tensors at once, everything else in a thread."""

import shutil
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from pipeline.errors import GatehouseError
from pipeline.files import explaining_space, retry
from pipeline.train.checkpoints.checkpoint import (
    CheckpointManifest,
    FileEntry,
    commit,
    describe_file,
    list_checkpoints,
    partial_folder,
    prune,
)
from pipeline.train.checkpoints.sharded_tensors import copy_to_cpu, local_tensors, map_tensors

METADATA_NAME = ".metadata"
# Ranks may differ by this in how long their part takes.
WRITE_TIMEOUT = timedelta(hours=1)


class CheckpointWriter:
    """Writes the checkpoints of a run; all ranks call it in step. At most one is being written.

    An error of a write is raised, on every rank, by the next call of `save` or `wait`.
    """

    def __init__(self, folder: Path, *, keep: int, in_background: bool, attempt: str) -> None:
        self.folder = folder
        self.keep = keep
        self.in_background = in_background
        self.attempt = attempt
        # Its own group: the thread's collectives must not meet those of the training.
        self.group = dist.new_group(backend="gloo", timeout=WRITE_TIMEOUT)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, state: dict[str, Any], manifest: CheckpointManifest) -> None:
        """Begins to write a checkpoint. `state` holds tensors only, plain or sharded, in nested dicts.

        It may change as soon as this returns.
        """
        self.wait()
        if not self.in_background:
            self._write(state, manifest)
            return
        copied = map_tensors(state, copy_to_cpu)
        self._thread = threading.Thread(target=self._catch, args=(copied, manifest), daemon=True, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Returns when the checkpoint that is being written is complete.

        Raises:
            StorageError: the disk is full, or the storage does not answer.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def newest(self) -> Path | None:
        """The newest complete checkpoint, after one that is being written."""
        self.wait()
        return next(reversed(list_checkpoints(self.folder)), None)

    def _catch(self, state: dict[str, Any], manifest: CheckpointManifest) -> None:
        try:
            self._write(state, manifest)
        except BaseException as error:  # raised again by `wait`; torch has one that is no Exception
            self._error = error

    def _write(self, state: dict[str, Any], manifest: CheckpointManifest) -> None:
        partial = partial_folder(self.folder, manifest.step, self.attempt)
        try:
            self._write_tensors(state, partial)
            self._commit(partial, manifest)
        except BaseException:
            if dist.get_rank() == 0:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _write_tensors(self, state: dict[str, Any], partial: Path) -> None:
        num_bytes = sum(tensor.numel() * tensor.element_size() for _, tensor in local_tensors(state))
        try:
            writer = _RetryingWriter(partial)
            dcp.save(state, storage_writer=writer, process_group=self.group)  # type: ignore[attr-defined]
        except CheckpointException as error:
            cause = next(iter(error.failures.values()))[0]
            if isinstance(cause, GatehouseError):
                raise cause from error
            with explaining_space(partial, num_bytes):
                raise cause from error

    def _commit(self, partial: Path, manifest: CheckpointManifest) -> None:
        """Every rank hashes the files it wrote; the first one completes the checkpoint and tells the others."""
        rank = dist.get_rank()
        own = self._describe(partial, rank)
        parts: list[Any] = [None] * dist.get_world_size()
        dist.gather_object(own, parts if rank == 0 else None, group=self.group)
        outcome: list[Any] = [None]
        if rank == 0:
            outcome = [self._complete(partial, manifest, parts)]
        dist.broadcast_object_list(outcome, src=0, group=self.group)
        if outcome[0] is not None:
            raise outcome[0]

    def _describe(self, partial: Path, rank: int) -> dict[str, FileEntry] | Exception:
        """The files that a rank wrote, or the error of reading them, which must reach the first rank as well."""
        try:
            return {path.name: describe_file(path) for path in partial.glob(f"__{rank}_*")}
        except Exception as error:
            return error

    def _complete(
        self, partial: Path, manifest: CheckpointManifest, parts: list[dict[str, FileEntry] | Exception]
    ) -> Exception | None:
        try:
            files = {METADATA_NAME: describe_file(partial / METADATA_NAME)}
            for part in parts:
                if isinstance(part, Exception):
                    return part
                files |= part
            commit(partial, manifest, files)
            prune(self.folder, self.keep)
        except Exception as error:  # goes to every rank
            return error
        return None


class _RetryingWriter(FileSystemWriter):
    """Writes again what a faltering storage refused."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        return retry(lambda: _as_os_error(lambda: super(_RetryingWriter, self).write_data(plan, planner)), self.folder)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        retry(lambda: super(_RetryingWriter, self).finish(metadata, results), self.folder)


def _as_os_error(write: Callable[[], Future[list[WriteResult]]]) -> Future[list[WriteResult]]:
    """Calls `write`; torch's zip writer hides the OSError of a failed write behind one about its own state."""
    try:
        return write()
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise
