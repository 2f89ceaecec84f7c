"""Features of a row that read columns of its request and of its item together: as encoded from rows joined by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.config import build
from pipeline.executor import InProcessExecutor
from pipeline.preprocess.run import preprocess
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig
from pipeline.score.candidates import cut, groups
from pipeline.score.candidates.blocks import ItemMemory, make_block, side_by_side
from pipeline.score.candidates.plan import plan_candidates

CROSSES = [["user", "item"], ["country", "category"], ["hour", "category"], ["hour", "country"]]


def make_config(folder: Path) -> RunConfig:
    rng = np.random.default_rng(0)
    pd.DataFrame({"user": range(6), "country": list("abcabc")}).to_parquet(folder / "users.parquet")
    since = np.tile([0, 20], 8)
    items = {"item": np.repeat(range(8), 2), "since": since, "category": [f"c{n % 5}" for n in range(16)]}
    pd.DataFrame(items).to_parquet(folder / "items.parquet")
    rows = {
        "request": np.repeat(range(10), 7),
        "user": np.repeat(rng.integers(0, 6, 10), 7),
        "hour": rng.integers(0, 40, 70),
        "item": np.concatenate([rng.permutation(8)[:7] for _ in range(10)]),
    }
    pd.DataFrame(rows).to_parquet(folder / "rows.parquet")
    pd.DataFrame({**rows, "click": [0, 1] * 35}).to_parquet(folder / "log.parquet")
    data = {
        "workspace": str(folder / "work"),
        "inputs": str(folder),
        "schema": {
            "keys": {"user": "user", "item": "item", "request": "request", "time": "hour"},
            "features": [
                {"name": "_".join(columns), "kind": "crossed", "columns": columns, "num_hash_buckets": 1_000}
                for columns in CROSSES
            ],
            "tasks": [{"name": "click", "kind": "binary", "label": "click"}],
        },
        "preprocess": {
            "log": {"path": "log.parquet"},
            "tables": [
                {"path": "users.parquet", "key": "user"},
                {"path": "items.parquet", "key": "item", "valid_from": "since", "time_unit": "hours"},
            ],
            "split": {"kind": "order"},
        },
        "score": {"candidates": {"path": "rows.parquet"}, "fusion": "click"},
    }
    return build(RunConfig, data, "test.yaml")


@pytest.mark.parametrize("candidates_per_block", [5, 1_000])
def test_a_cross_of_a_request_and_an_item_is_a_row_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, candidates_per_block: int
) -> None:
    monkeypatch.setattr(groups, "CANDIDATES_PER_BLOCK", candidates_per_block)
    config = make_config(tmp_path)
    preprocess(config, InProcessExecutor())
    assert config.score is not None
    fitted = FittedTransform.load(config.dataset_dir, config.data_schema)
    plan = plan_candidates(config, config.score, fitted, ["country", "category"], tmp_path)
    found, named = [], []
    memory = ItemMemory(plan)
    for unit in cut.cut_units(plan, tmp_path, tmp_path, InProcessExecutor(), None):
        for group in groups.read_groups(plan, unit):
            block = make_block(plan, memory, group, 0, len(group.items))
            found.append(side_by_side(plan.schema, block.request.compact(), block.item.compact()).rows)
            named.append(pa.table(block.columns))

    rows = pd.read_parquet(tmp_path / "rows.parquet").merge(pd.read_parquet(tmp_path / "users.parquet"), on="user")
    versions = pd.read_parquet(tmp_path / "items.parquet")
    rows["since"] = np.where(rows["hour"] >= 20, 20, 0)
    rows = rows.merge(versions, on=["item", "since"], how="left")
    expected = fitted.encode_features(pa.Table.from_pandas(rows, preserve_index=False), "by hand")
    assert pa.concat_tables(found).select(expected.column_names).to_pydict() == expected.to_pydict()
    assert pa.concat_tables(named).to_pydict() == {name: rows[name].tolist() for name in ("country", "category")}
