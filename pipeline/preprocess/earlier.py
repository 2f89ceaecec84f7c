"""The dataset that a new one extends: its encodings, normalizations and label statistics stay what they are."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import DatasetIndex, check_schema
from pipeline.shards.remote import fetch_index

COPY_FOLDER = ".extended"


@dataclass(frozen=True)
class Earlier:
    index: DatasetIndex
    fitted: FittedTransform


def read_earlier(config: RunConfig) -> Earlier | None:
    """What was fitted for the dataset that this one extends, if it extends one; of one in a store a copy is made.

    Raises:
        ConfigError: it is the one that will be written.
        ArtifactError: it is not complete, or has another schema.
    """
    extend = config.preprocess.extend
    if extend is None:
        return None
    is_remote = storage.is_remote(extend)
    folder = config.workspace_dir / COPY_FOLDER if is_remote else Path(extend)
    written = config.remote_dataset if is_remote else str(config.dataset_dir.resolve())
    if (storage.join(extend, ".") if is_remote else str(folder.resolve())) == written:
        raise ConfigError(
            f"preprocess.extend is {extend}, the dataset that this run writes", "choose another workspace for this run"
        )
    forget_copy(config)
    index = fetch_index(folder, extend if is_remote else None)
    check_schema(index, config.data_schema, folder)
    return Earlier(index, FittedTransform.load(folder, config.data_schema, index.vocabulary_version))


def forget_copy(config: RunConfig) -> None:
    """Removes the copy of a dataset in a store."""
    shutil.rmtree(config.workspace_dir / COPY_FOLDER, ignore_errors=True)
