"""The model that a run scores with: an export, given or made of a checkpoint, and what encodes candidates for it."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.errors import ArtifactError, ConfigError
from pipeline.executor import Progress
from pipeline.export.manifest import read_manifest
from pipeline.export.run import export
from pipeline.export.serving import Serving, Side
from pipeline.feature_kinds import UNSEEN_ROW
from pipeline.preprocess.transform import FittedTransform, as_lists
from pipeline.run_config import RunConfig
from pipeline.score.candidates.blocks import Part
from pipeline.shards.manifest import SPARSE_PREFIX, check_schema
from pipeline.shards.remote import fetch_index
from pipeline.train.checkpoints import checkpoint as checkpoints
from pipeline.train.checkpoints.lineage import check_lineage

# A distinct item takes a few KB while it is predicted: with more of them, so many candidates are predicted at a time.
MAX_DISTINCT = 50_000

NewerValues = dict[str, dict[str, int]]


class ScoringModel(NamedTuple):
    """An export, the checkpoint that it was made of, and what encodes candidates.

    `known_rows` are those that the model knows of each feature for which `fitted` has more of them, as the workspace's
    dataset does if it grew after the training: newer values are counted, and scored as unseen.
    """

    folder: Path
    version: str
    checkpoint: dict[str, Any]
    fitted: FittedTransform
    known_rows: dict[str, int]


def open_model(
    config: RunConfig, checkpoint: Path | None, exported: Path | None, progress: Progress | None
) -> ScoringModel:
    """The given export; or that of the workspace, made anew if it is not one of the checkpoint, by default the best.

    Raises:
        ArtifactError: the export, the dataset or the checkpoint is missing, damaged, or of another schema.
    """
    schema = config.data_schema
    if exported is not None:
        serving = Serving.load(exported)
        if serving.schema.fingerprint() != schema.fingerprint():
            differences = "; ".join(schema.differences(serving.schema)[:3])
            raise ArtifactError(f"export {exported} has another schema: {differences}", "restore the schema")
        described = {"path": serving.manifest.checkpoint.path, "step": serving.manifest.checkpoint.step}
        return ScoringModel(exported, serving.version, described, serving.fitted, {})
    index = fetch_index(config.dataset_dir, config.remote_dataset)
    check_schema(index, schema, config.dataset_dir)
    checkpoint = checkpoint or checkpoints.best_checkpoint(config.checkpoints_dir)
    trained = checkpoints.read_manifest(checkpoint)
    known = check_lineage(trained, schema, index, checkpoint, config.dataset_dir)
    folder, _ = export(config, checkpoint=checkpoint, overwrite=True, progress=progress)
    return ScoringModel(
        folder,
        read_manifest(folder, verify=False).version,
        {"path": str(checkpoint), "step": trained.step},
        FittedTransform.load(config.dataset_dir, schema, index.vocabulary_version),
        {
            feature.name: known[feature.table_name]
            for feature in schema.sparse_features
            if known[feature.table_name] < index.table_rows[feature.table_name]
        },
    )


class PairPredictor:
    """A loaded model, and the newer values that it has met.

    Raises:
        ArtifactError: the export is damaged.
        ConfigError: the configuration asks for a GPU, and there is none.
    """

    def __init__(self, model: ScoringModel, device: str) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("train.device is cuda, and there is no GPU that torch can use", "set train.device to cpu")
        has_gpu = device != "cpu" and torch.cuda.is_available()
        self.serving = Serving.load(model.folder, "cuda" if has_gpu else "cpu")
        self.known_rows = model.known_rows
        self.forget()

    def forget(self) -> None:
        """Begins to count newer values anew."""
        self.newer_values: NewerValues = {name: {"values": 0, "newer": 0} for name in self.known_rows}

    def predict(self, request: Part, item: Part) -> dict[str, NDArray[np.float64]]:
        """Every output for each candidate, out of the encoded features of its request and of its item."""
        sides = [self._take_as_known(side.compact()) for side in (request, item)]
        if max(side.rows.num_rows for side in sides) <= MAX_DISTINCT:
            return self.serving.predict_pairs(*(Side(*side) for side in sides))
        outputs = []
        for first in range(0, len(item.place), MAX_DISTINCT):
            some = [side._replace(place=side.place[first : first + MAX_DISTINCT]).compact() for side in sides]
            outputs.append(self.serving.predict_pairs(*(Side(*side) for side in some)))
        return {name: np.concatenate([one[name] for one in outputs]) for name in self.serving.output_names}

    def _take_as_known(self, part: Part) -> Part:
        """With newer values as unseen ones."""
        rows = part.rows
        for feature in part.schema.sparse_features:
            if feature.name not in self.known_rows:
                continue
            name = SPARSE_PREFIX + feature.name
            column = rows[name].combine_chunks()
            lengths = np.diff(column.offsets) if pa.types.is_list(column.type) else None
            ids = np.asarray(column if lengths is None else column.flatten())
            uses = np.bincount(part.place, minlength=rows.num_rows)
            uses = uses if lengths is None else np.repeat(uses, lengths)
            is_newer = ids >= self.known_rows[feature.name]
            self.newer_values[feature.name]["values"] += int(uses.sum())
            self.newer_values[feature.name]["newer"] += int(uses[is_newer].sum())
            known = pa.array(np.where(is_newer, UNSEEN_ROW, ids).astype(ids.dtype))
            known = known if lengths is None else as_lists(known, lengths)
            rows = rows.set_column(rows.schema.get_field_index(name), name, known)
        return part._replace(rows=rows)
