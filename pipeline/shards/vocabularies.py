"""The vocabularies beside a dataset's shards: where they lie, and what tells that one extends another."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.errors import ArtifactError
from pipeline.files import retry

VOCABULARIES_FOLDER = "vocabularies"
VALUE_COLUMN = "value"


class VocabularyDigest(NamedTuple):
    """How many values a table's vocabulary has, and a sha256 over them in the order of their rows."""

    num_values: int
    sha256: str


def vocabulary_path(dataset_dir: Path, table: str) -> Path:
    return dataset_dir / VOCABULARIES_FOLDER / f"{table}.arrow"


def digest_vocabulary(dataset_dir: Path, table: str, num_values: int | None = None) -> VocabularyDigest:
    """The digest of a vocabulary, or of its first `num_values` values.

    Raises:
        ArtifactError: the file is not there or is no vocabulary.
    """
    path = vocabulary_path(dataset_dir, table)
    try:
        values = retry(lambda: _read(path), path).column(VALUE_COLUMN).slice(0, num_values)
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ArtifactError(f"vocabulary {path} cannot be read: {reason}", "run `preprocess` again") from error
    return VocabularyDigest(len(values), digest_values(values.chunks))


def digest_values(chunks: Sequence[pa.StringArray]) -> str:
    """A sha256 over texts in their order, whatever chunks they come in; no text is copied."""
    digest = hashlib.sha256()
    for lengths, _ in map(_lengths_and_bytes, chunks):
        digest.update(lengths)
    for _, content in map(_lengths_and_bytes, chunks):
        digest.update(content)
    return digest.hexdigest()


def _lengths_and_bytes(texts: pa.StringArray) -> Iterable[memoryview]:
    if not len(texts):
        return memoryview(b""), memoryview(b"")
    _, offsets_buffer, text_buffer = texts.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    content = memoryview(text_buffer)[offsets[0] : offsets[-1]] if text_buffer is not None else memoryview(b"")
    return memoryview(np.diff(offsets).tobytes()), content


def _read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
