"""A trained checkpoint as one plain model: encoded rows in, predictions by name out. No process group, no sharding."""

import copy
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from models.batch import Batch
from models.layers import Mixture, mix
from models.tasks import predictions
from pipeline.assemble import build_model, check_model
from pipeline.run_config import RunConfig
from pipeline.shards.collate import Layout, collate
from pipeline.shards.manifest import DatasetIndex
from pipeline.train.checkpoints.checkpoint import CheckpointManifest, read_manifest
from pipeline.train.checkpoints.lineage import check_lineage
from pipeline.train.checkpoints.reader import load_tensors
from pipeline.train.device import rank_device
from pipeline.train.known_warnings import silence
from pipeline.train.newer_values import NewerValues

# The training module's name for the model inside it, which its state dict carries.
STATE_PREFIX = "model."


class Predictor:
    """Loads a checkpoint, after checking that it is intact and fits schema and vocabularies.

    The dataset may extend the one that the checkpoint was trained on: a value that is newer than the model is taken as
    unseen. `is_bfloat16` is about the products of the dense part, as in training; tables and outputs are float32.

    Raises:
        ArtifactError: the checkpoint is damaged, or was trained with another schema, vocabulary or model.
    """

    def __init__(
        self, config: RunConfig, index: DatasetIndex, checkpoint: Path, batch_size: int, *, is_bfloat16: bool = False
    ) -> None:
        silence()
        check_model(config.data_schema, config.model)
        self.manifest: CheckpointManifest = read_manifest(checkpoint, verify=True)
        known_rows = check_lineage(self.manifest, config.data_schema, index, checkpoint, config.dataset_dir)
        self.newer_values = NewerValues(index, known_rows)
        self.checkpoint = checkpoint
        self.batch_size = batch_size
        self.is_bfloat16 = is_bfloat16
        self.layout = Layout.of(index.data_schema, index.table_rows)
        self.device = rank_device(config.train)
        known = index.model_copy(update={"table_rows": known_rows})
        self.model = build_model(known, config.model, config.seed, torch.device("cpu"))
        state = {"model": {STATE_PREFIX + name: value for name, value in self.model.state_dict().items()}}
        load_tensors(checkpoint, state, is_distributed=False)
        self.model.load_state_dict({name.removeprefix(STATE_PREFIX): v for name, v in state["model"].items()})
        self.model.to(self.device).eval()
        self.forget()

    def forget(self) -> None:
        """Begins to count newer values and to take the means of mixtures anew."""
        self._mixtures: dict[str, tuple[tuple[str, ...], torch.Tensor]] = {}
        self._num_rows = 0
        self.newer_values.forget()

    @torch.no_grad()
    def predict(self, table: pa.Table) -> dict[str, NDArray[np.float64]]:
        """Every output of `models.tasks.predictions` for each row of an encoded table, in its order: [rows]."""
        parts: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        for first in range(0, table.num_rows, self.batch_size):
            batch = self._batch_of(table.slice(first, self.batch_size), self.newer_values)
            outputs, mixtures = self._outputs(batch)
            for name, value_B in outputs.items():
                parts[name].append(value_B)
            self._num_rows += len(batch.dense)
            self._add_mixtures(mixtures)
        return {name: np.concatenate(values) for name, values in parts.items()}

    def batch_of(self, table: pa.Table) -> Batch:
        """Encoded rows as one batch on the model's device, for `predict_batch`; newer values in it are not counted."""
        return self._batch_of(table, copy.deepcopy(self.newer_values))

    @torch.no_grad()
    def predict_batch(self, batch: Batch) -> dict[str, NDArray[np.float64]]:
        """What `predict` gives, for a batch of `batch_of` or a changed one; not counted in the mixtures."""
        return self._outputs(batch)[0]

    def mean_mixtures(self) -> dict[str, dict[str, Any]]:
        """How each task mixes the experts over all rows predicted so far, by level.

        {"experts": E names, "mean_weight": [T, E], NaN where a task's gate does not see the expert}
        """
        return {
            level: {"experts": list(names), "mean_weight": (sums_TE / self._num_rows).cpu().numpy()}
            for level, (names, sums_TE) in self._mixtures.items()
        }

    def _batch_of(self, table: pa.Table, newer_values: NewerValues) -> Batch:
        batch = collate(table, self.layout, table.num_rows)
        newer_values.take_as_unseen(batch.sparse)
        return batch.to(self.device)

    def _outputs(self, batch: Batch) -> tuple[dict[str, NDArray[np.float64]], dict[str, Mixture]]:
        """The outputs by name, and the mixtures of the body's levels that they were made of."""
        x_BI = self.model.front_end(batch.dense, batch.sparse)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bfloat16):
            z_BTH, mixtures = mix(self.model.body, x_BI)
            logit_BO = self.model.towers(z_BTH)
        outputs = predictions(self.model.tasks, logit_BO)
        return {name: value_B.double().cpu().numpy() for name, value_B in outputs.items()}, mixtures

    def _add_mixtures(self, mixtures: dict[str, Mixture]) -> None:
        for level, mixture in mixtures.items():
            sums_TE = mixture.weight_BTE.double().sum(dim=0).masked_fill(~mixture.seen_TE, torch.nan)
            earlier_TE = self._mixtures[level][1] if level in self._mixtures else 0.0
            self._mixtures[level] = (mixture.names, sums_TE + earlier_TE)
