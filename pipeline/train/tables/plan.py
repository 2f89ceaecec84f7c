"""The sharding plan of a run on hardware that need not be here: no process group, no memory for the tables."""

import torch

from pipeline.assemble import build_model, check_model
from pipeline.errors import ConfigError
from pipeline.feature_kinds import NUM_RESERVED_ROWS
from pipeline.run_config import RunConfig
from pipeline.schema import Schema
from pipeline.shards.manifest import DatasetIndex, LabelStatistics, check_schema
from pipeline.shards.remote import fetch_index, is_complete
from pipeline.train.config import ModelConfig
from pipeline.train.known_warnings import silence
from pipeline.train.optimizers import fuse_sparse_optimizers
from pipeline.train.tables.misfit import misfit
from pipeline.train.tables.placement import Hardware, TableSet, place
from pipeline.train.tables.plan_text import describe_placement
from pipeline.train.tables.settings import check_table_settings, table_settings
from pipeline.train.tables.sharding import make_sharders


def plan_run(config: RunConfig, hardware: Hardware) -> str:
    """The plan of a run's tables as text, as a run on this hardware would write it to plan.txt.

    Tables have the rows of the dataset if there is one, else those that the configuration gives.

    Raises:
        ConfigError: a table whose rows nobody knows, settings that do not go together, or tables that do not fit.
    """
    silence()
    tables = tables_of(config, hardware)
    placement = place(tables, hardware)
    if placement is None:
        raise misfit(tables, hardware)
    return describe_placement(placement, tables, hardware) + _lanes_note(config, hardware)


def tables_of(config: RunConfig, hardware: Hardware) -> TableSet:
    """The tables of a run, on meta, with their optimizers.

    Raises:
        ConfigError: a table whose rows nobody knows, or settings that do not go together on this hardware.
    """
    check_model(config.data_schema, config.model)
    index = _index(config)
    model = build_model(index, config.model, config.seed, torch.device("meta"))
    table_of = model.front_end.table_of
    settings = table_settings(table_of.values(), config.train)
    fuse_sparse_optimizers(model, table_of, settings)
    rows_per_rank = -(-config.train.global_batch_size // hardware.num_ranks)
    tables = TableSet(model, table_of, settings, make_sharders(), rows_per_rank, config.data_schema.max_ids_per_row)
    check_table_settings(settings, hardware.device, tables.attended())
    return tables


def _index(config: RunConfig) -> DatasetIndex:
    """The dataset's index, or one without rows of data."""
    if is_complete(config.dataset_dir, config.remote_dataset):
        index = fetch_index(config.dataset_dir, config.remote_dataset)
        check_schema(index, config.data_schema, config.dataset_dir)
        return index
    schema = config.data_schema
    return DatasetIndex(
        schema_fingerprint=schema.fingerprint(),
        data_schema=schema,
        vocabulary_version="",
        table_rows=_configured_rows(schema, config.model),
        label_statistics={task.name: LabelStatistics(rows=0, mean=0.0, deviation=0.0) for task in schema.tasks},
        time_range=None,
        shards=(),
    )


def _configured_rows(schema: Schema, config: ModelConfig) -> dict[str, int]:
    """Rows of each table as far as the configuration knows them: at most so many, with a max_size."""
    rows = {}
    for name, owner in schema.table_owners().items():
        most = getattr(owner, "max_size", None)
        known = config.front_end.num_embeddings.get(name) or owner.fixed_rows or (most and most + NUM_RESERVED_ROWS)
        if known is None:
            raise ConfigError(
                f"nobody knows how many rows table {name!r} has: there is no dataset, and its feature has neither "
                "max_size nor num_hash_buckets",
                f"set model.front_end.num_embeddings.{name}, or run `preprocess` first",
            )
        rows[name] = known
    return rows


def _lanes_note(config: RunConfig, hardware: Hardware) -> str:
    num_lanes = config.train.num_lanes
    if num_lanes % hardware.num_ranks == 0:
        return ""
    return (
        f"note: a run on {hardware.num_ranks} ranks needs train.num_lanes to be a multiple of them; it is {num_lanes}\n"
    )
