"""Loads the tensors of a checkpoint, and nothing else: no code from the files, whatever they hold."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.futures import Future

from pipeline.errors import ArtifactError
from pipeline.files import retry
from pipeline.train.checkpoints.checkpoint import REMEDY


def saved_sizes(checkpoint: Path) -> dict[str, torch.Size]:
    """The size of every tensor of a checkpoint, by its name: the keys of the nested dicts joined by dots."""
    entries = _TensorReader(checkpoint).read_metadata().state_dict_metadata
    return {name: entry.size for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}


def load_tensors(checkpoint: Path, state: Mapping[str, Any], *, is_distributed: bool) -> None:
    """Fills the tensors of `state` in place, whatever the ranks and plan they were saved with.

    Never runs code from the files. Call `read_manifest` and `check_files` first.

    Raises:
        ArtifactError: the tensors do not fit, or the checkpoint holds something else than tensors.
    """
    reader = _TensorReader(checkpoint)
    reader.read_metadata()
    try:
        dcp.load(dict(state), storage_reader=reader, no_dist=not is_distributed)  # type: ignore[attr-defined]
    # Not an Exception: torch derives it from BaseException.
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise ArtifactError(
            f"checkpoint {checkpoint} does not fit the model: {str(cause).strip().splitlines()[-1][:200]}",
            "use the configuration it was trained with, or train again",
        ) from error


class _TensorReader(FileSystemReader):
    """Reads tensors and nothing else: torch's own reader runs code from a forged metadata file or bytes entry."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / ".metadata"
        metadata = _MetadataUnpickler(io.BytesIO(retry(path.read_bytes, path))).load()
        if getattr(metadata, "storage_meta", None) is None:
            raise ArtifactError(f"checkpoint {self.path} has no storage metadata", REMEDY)
        metadata.storage_meta.load_id = self.load_id
        for key, entry in metadata.state_dict_metadata.items():
            if isinstance(entry, BytesStorageMetadata):
                raise ArtifactError(f"checkpoint {self.path}: entry {key!r} is not a tensor", REMEDY)
        assert isinstance(metadata, Metadata)
        return metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        # Reading again what was read before does no harm.
        return retry(lambda: super(_TensorReader, self).read_data(plan, planner), Path(self.path))


class _MetadataUnpickler(pickle.Unpickler):
    """Allows the classes that torch's checkpoint metadata consists of."""

    ALLOWED = frozenset(
        {
            ("collections", "OrderedDict"),
            ("pathlib", "PosixPath"),
            ("torch", "Size"),
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            ("torch.serialization", "_get_layout"),
            *(
                ("torch.distributed.checkpoint.metadata", name)
                for name in (
                    "_MEM_FORMAT_ENCODING",
                    "BytesStorageMetadata",
                    "ChunkStorageMetadata",
                    "Metadata",
                    "MetadataIndex",
                    "StorageMeta",
                    "TensorProperties",
                    "TensorStorageMetadata",
                )
            ),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) in self.ALLOWED or is_dtype:
            return super().find_class(module, name)
        raise ArtifactError(f"checkpoint metadata names {module}.{name}, which is not allowed in it", REMEDY)
