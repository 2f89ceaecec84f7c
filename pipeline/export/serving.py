"""A model as it serves: loaded from an export, without torchrec, a dataset or a cluster."""

import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from models import pairs
from models.serving import ServingModel
from models.tasks import output_names
from pipeline.assemble import build_serving_model
from pipeline.errors import ArtifactError
from pipeline.export.inputs import inputs_of
from pipeline.export.manifest import REMEDY, SCHEMA_NAME, TENSORS_NAME, ExportManifest, read_manifest
from pipeline.files import retry
from pipeline.preprocess.transform import FittedTransform
from pipeline.schema import Schema

# Rows of `predict` that are in memory as tensors at a time.
BATCH_ROWS = 8192


class Side(NamedTuple):
    """The requests or the items of pairs: encoded rows of the features that `schema` is restricted to.

    `place` says which of the rows each pair has: [pairs].
    """

    schema: Schema
    rows: pa.Table
    place: NDArray[np.int64]


class Serving:
    """An exported model, its schema and what encodes raw columns for it.

    `fitted` has the vocabularies as the model knows them: a value that came into a dataset after the training has no
    row there, and is encoded as unseen. Rows are to be encoded by it, and not by a dataset's later vocabularies.
    """

    def __init__(
        self,
        manifest: ExportManifest,
        schema: Schema,
        fitted: FittedTransform,
        model: ServingModel,
        device: torch.device,
    ) -> None:
        self.manifest, self.schema, self.fitted, self.device = manifest, schema, fitted, device
        self.model = model.to(device).eval()
        self.version = manifest.version
        self.output_names = output_names(manifest.tasks)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "Serving":
        """An export, after a check that all its files are what they were; tables stay in memory that is mapped.

        Raises:
            ArtifactError: there is none, it is damaged, or its format is newer than this Gatehouse.
        """
        return cls.open(folder, read_manifest(folder), device)

    @classmethod
    def open(cls, folder: Path, manifest: ExportManifest, device: torch.device | str = "cpu") -> "Serving":
        """The same with a manifest that was read, and files that were checked, before."""
        path = folder / SCHEMA_NAME
        try:
            schema = Schema.model_validate(json.loads(retry(path.read_bytes, path)))
        except (OSError, ValueError, ValidationError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}", REMEDY) from error
        fitted = FittedTransform.load(folder, schema)
        types = manifest.settings
        model = build_serving_model(schema, manifest.model, manifest.tasks, manifest.table_rows, types.tables)
        model.compute_in(getattr(torch, types.dense))
        path = folder / TENSORS_NAME
        try:
            model.load_state_dict(retry(lambda: load_file(path), path), assign=True)
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ArtifactError(f"{path} does not hold the model: {reason}", REMEDY) from error
        return cls(manifest, schema, fitted, model, torch.device(device))

    @torch.inference_mode()
    def predict(self, table: pa.Table) -> dict[str, NDArray[np.float64]]:
        """Every output for each row of an encoded table, in its order: [rows]."""
        parts: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        for first in range(0, table.num_rows, BATCH_ROWS):
            rows = table.slice(first, BATCH_ROWS)
            outputs = self.model(inputs_of(rows, self.schema, self.manifest.table_rows, self.device))
            for name, value_B in outputs.items():
                parts[name].append(value_B.double().cpu().numpy())
        return {name: np.concatenate([np.empty(0), *parts[name]]) for name in self.output_names}

    @torch.inference_mode()
    def predict_pairs(self, request: Side, item: Side) -> dict[str, NDArray[np.float64]]:
        """Every output for each pair: [pairs]. As `predict` gives it, to 1e-6, for rows that have both sides' columns.

        Each row of a side is looked up once, and its part of the first products computed once, whatever number of pairs
        has it. That takes memory for each row of a side, about 4 bytes per input and per unit of the first layers.
        """
        outputs = pairs.predict_pairs(self.model, self._side(request), self._side(item))
        return {name: value_B.double().cpu().numpy() for name, value_B in outputs.items()}

    def _side(self, side: Side) -> pairs.Side:
        inputs = inputs_of(side.rows, side.schema, self.manifest.table_rows, self.device)
        columns = [self.schema.dense_names.index(name) for name in side.schema.dense_names]
        # A table without columns does not know its number of rows.
        num_rows = side.rows.num_rows if side.rows.num_columns else int(side.place.max(initial=-1)) + 1
        return pairs.Side(inputs, columns, torch.from_numpy(side.place).to(self.device), num_rows)
