"""The export stage: a checkpoint becomes a folder that serves by itself, and is shown to say the same."""

import errno
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file

from models.serving import ServingModel
from models.tasks import Task, own_output_names
from pipeline.assemble import build_serving_model
from pipeline.config import dump
from pipeline.errors import ArtifactError, UsageError
from pipeline.evaluate.diagnostics.sample import sample_rows
from pipeline.executor import Progress
from pipeline.export.config import ExportConfig
from pipeline.export.inputs import describe_inputs, example_inputs, inputs_of
from pipeline.export.manifest import (
    MANIFEST_NAME,
    PROGRAM_NAME,
    SCHEMA_NAME,
    TENSORS_NAME,
    ExportedCheckpoint,
    ExportManifest,
    Parity,
    read_manifest,
    seal,
)
from pipeline.export.program import run_program, write_program
from pipeline.export.quality import as_known, measure_quality
from pipeline.export.serving import BATCH_ROWS, Serving
from pipeline.feature_kinds import NUM_RESERVED_ROWS
from pipeline.files import explaining_space, sync_folder, write_json
from pipeline.preprocess.features.vocabulary import Vocabulary
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig
from pipeline.shards.manifest import SPLITS, DatasetIndex, check_schema
from pipeline.shards.remote import fetch_index, fetch_shards
from pipeline.shards.vocabularies import vocabulary_path
from pipeline.train.checkpoints import checkpoint as checkpoints
from pipeline.train.checkpoints.lineage import check_lineage
from pipeline.train.predictor import Predictor

Outputs = NDArray[np.float32] | NDArray[np.float64]

# Largest difference of an output, over its size, its task's scale, or 1: sums in another order and, of a program,
# products in bfloat16.
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}


def export(
    config: RunConfig, *, checkpoint: Path | None = None, overwrite: bool = False, progress: Progress | None = None
) -> tuple[Path, bool]:
    """Writes the export of a checkpoint, by default the best one; returns its folder, and whether it is a new one.

    The folder appears complete, by rename. One of the same checkpoint with the same settings is left as it is.

    Raises:
        UsageError: the folder holds another export, and `overwrite` is false.
        ArtifactError: the dataset or the checkpoint is missing or damaged, or the export says something else than it.
        StorageError: the disk is full or does not answer.
    """
    folder = config.export_dir
    index = fetch_index(config.dataset_dir, config.remote_dataset)
    check_schema(index, config.data_schema, config.dataset_dir)
    checkpoint = checkpoint or checkpoints.best_checkpoint(config.checkpoints_dir)
    if is_export_of(folder, checkpoint, config):
        return folder, False
    if (folder / MANIFEST_NAME).exists() and not overwrite:
        raise UsageError(
            f"{folder} holds an export of another checkpoint, with other settings, or a damaged one",
            "add --overwrite, or choose another `workspace`",
        )
    unfinished = folder.with_name(f".{folder.name}.partial")
    try:
        with explaining_space(unfinished):
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            _write(config, index, checkpoint, unfinished, progress)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(unfinished, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder, True


def is_export_of(folder: Path, checkpoint: Path, config: RunConfig) -> bool:
    """Whether a folder holds an intact export of a checkpoint with the configured settings."""
    try:
        manifest = read_manifest(folder)
    except ArtifactError:
        return False
    digest = checkpoints.read_manifest(checkpoint).digest
    return (manifest.checkpoint.digest, manifest.settings, manifest.model) == (digest, config.export, config.model)


def _write(
    config: RunConfig, index: DatasetIndex, checkpoint: Path, folder: Path, progress: Progress | None
) -> ExportManifest:
    dump(config, folder)
    schema, types = config.data_schema, config.export
    split = next(split for split in ("validation", *SPLITS) if index.of_split(split))
    shards = index.of_split(split)
    fetch_shards(config.dataset_dir, config.remote_dataset, shards, progress)
    predictor = Predictor(config, index, checkpoint, BATCH_ROWS)
    known_rows = check_lineage(predictor.manifest, schema, index, checkpoint, config.dataset_dir)
    rows = sample_rows(config.dataset_dir, shards, types.parity_rows, config.seed)
    expected = predictor.predict(rows)
    rows = as_known(rows, schema, known_rows)
    inputs = inputs_of(rows, schema, known_rows, torch.device("cpu"))

    model = _serving_model(config, predictor, known_rows, ExportConfig())
    difference = _check(
        model.tasks, "the exported model", _outputs(model, inputs), "the checkpoint", expected, "float32"
    )
    is_reduced = (types.tables, types.dense) != ("float32", "float32")
    if is_reduced:
        model = _serving_model(config, predictor, known_rows, types)
    _save_tensors(model, folder / TENSORS_NAME)
    write_json(folder / SCHEMA_NAME, schema.model_dump(mode="json"))
    _save_known(FittedTransform.load(config.dataset_dir, schema, index.vocabulary_version), known_rows, folder)
    write_program(model, example_inputs(schema), folder / PROGRAM_NAME)
    manifest = ExportManifest(
        checkpoint=ExportedCheckpoint(
            path=str(checkpoint), step=predictor.manifest.step, digest=predictor.manifest.digest
        ),
        settings=types,
        model=config.model,
        tasks=model.tasks,
        table_rows=known_rows,
        program_inputs=describe_inputs(schema),
    )
    serving = Serving.open(folder, manifest)
    said = {name: value.numpy() for name, value in run_program(folder / PROGRAM_NAME, inputs).items()}
    of_program = _check(model.tasks, PROGRAM_NAME, said, "the exported model", serving.predict(rows), types.dense)
    quality = None
    if is_reduced and split == "validation":
        quality = measure_quality(config, shards, predictor, serving, progress)
    parity = Parity(rows=rows.num_rows, serving=difference, program=of_program)
    return seal(folder, manifest.model_copy(update={"parity": parity, "quality": quality}))


def _save_tensors(model: ServingModel, path: Path) -> None:
    try:
        save_file(model.state_dict(), path)
    except SafetensorError as error:
        # It says the number of a full disk's error in its text alone.
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error
    # safetensors lets its owner alone read it.
    path.chmod(0o644)


def _serving_model(
    config: RunConfig, predictor: Predictor, known_rows: Mapping[str, int], types: ExportConfig
) -> ServingModel:
    trained = predictor.model
    model = build_serving_model(config.data_schema, config.model, trained.tasks, known_rows, types.tables)
    model.load_trained({name: value.cpu() for name, value in trained.state_dict().items()})
    model.compute_in(getattr(torch, types.dense))
    return model.eval()


@torch.inference_mode()
def _outputs(model: ServingModel, inputs: Mapping[str, torch.Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: value_B.numpy() for name, value_B in model(inputs).items()}


def _check(
    tasks: Sequence[Task],
    what: str,
    found: Mapping[str, Outputs],
    other: str,
    expected: Mapping[str, Outputs],
    kind: str,
) -> float:
    """The largest difference of an output, over its size, its task's scale, or 1.

    Raises:
        ArtifactError: it is above what the type allows.
    """
    scales = {name: task.scale for task in tasks for name in own_output_names(task)}
    differences = {
        name: float((np.abs(found[name] - values) / np.maximum(np.abs(values), max(1.0, scales.get(name, 1.0)))).max())
        for name, values in expected.items()
    }
    worst = max(differences, key=differences.__getitem__)
    # NaN is not below it either.
    if not differences[worst] <= TOLERANCES[kind]:
        raise ArtifactError(
            f"output {worst!r} of {what} differs by {differences[worst]:.2g} from that of {other}, and may by "
            f"{TOLERANCES[kind]:g}",
            "report this with the schema and the model section of the configuration",
        )
    return differences[worst]


def _save_known(fitted: FittedTransform, known_rows: Mapping[str, int], folder: Path) -> None:
    """Writes what encodes raw columns, the vocabularies without the values that are newer than the model."""
    for table, encoding in fitted.encodings.items():
        if isinstance(encoding, Vocabulary):
            left, batches = known_rows[table] - NUM_RESERVED_ROWS, []
            for batch in encoding.batches:
                batches.append(batch.slice(0, left))
                left -= len(batches[-1])
            Vocabulary(tuple(batches)).save(vocabulary_path(folder, table))
    fitted.save_numbers(folder)
