"""A test split that nothing can be read from, for what must not look at it."""

import builtins
import io
import os
from typing import Any

import pyarrow as pa
import pytest

from pipeline.run_config import RunConfig
from pipeline.shards.manifest import read_index


def poison_test_split(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fills the test shards with what is no shard, and returns the paths of those that anything opens from now on."""
    shards = {str(config.dataset_dir / shard.path) for shard in read_index(config.dataset_dir).of_split("test")}
    assert shards
    for path in shards:
        os.truncate(path, 0)
    opened: list[str] = []

    def noting(function: Any) -> Any:
        def call(path: Any, *others: Any, **more: Any) -> Any:
            if str(path) in shards:
                opened.append(str(path))
            return function(path, *others, **more)

        return call

    for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (pa, "memory_map"), (pa, "OSFile")):
        monkeypatch.setattr(module, name, noting(getattr(module, name)))
    return opened
