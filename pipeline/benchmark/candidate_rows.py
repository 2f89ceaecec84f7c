"""Candidates as rows of their own, each joined and encoded with all its features: no work is shared between rows."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.preprocess.joins.join import join_tables, open_tables, plan_columns
from pipeline.preprocess.raw_files.sources import list_files
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig

ROWS_PER_BLOCK = 100_000


class CandidateRows(NamedTuple):
    """Some candidates: the key columns of their requests and items, and their encoded features; as many rows each."""

    keys: pa.Table
    features: pa.Table


def candidate_rows(config: RunConfig, fitted: FittedTransform) -> Iterator[CandidateRows]:
    """The candidates of a run, whole requests in the order of its Parquet files, about `ROWS_PER_BLOCK` at a time."""
    section, schema = config.score, config.data_schema
    assert section is not None
    item_key, keys = str(schema.keys.item), [str(schema.keys.request), str(schema.keys.item)]
    files = list_files(config.source(section.candidates))
    names = [*pq.read_schema(files[0]).names, item_key]
    tables = [table.model_copy(update={"path": config.input_path(table.path)}) for table in config.preprocess.tables]
    needed = [*keys, *(column for feature in schema.features for column in schema.columns_of(feature))]
    time = schema.keys.time if schema.keys.time in names else None
    plan = plan_columns(names, files[0], tables, needed, time)
    opened = open_tables(tables, plan, time)
    for file in files:
        requests = pq.read_table(file)
        lists = requests.column(section.items_column)
        ends = np.cumsum(np.asarray(pc.list_value_length(lists)))
        for block in np.split(np.arange(len(lists)), np.flatnonzero(np.diff(ends // ROWS_PER_BLOCK)) + 1):
            items = lists.slice(block[0], len(block)).combine_chunks()
            request = np.repeat(block, np.asarray(pc.list_value_length(items)))
            rows = requests.select([name for name in plan.log if name != item_key]).take(pa.array(request))
            joined = join_tables(rows.append_column(item_key, items.flatten()), opened, file).rows
            yield CandidateRows(joined.select(keys), fitted.encode_features(joined, file))
