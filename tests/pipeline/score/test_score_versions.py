"""Which versions of users and items candidates are scored with: those of their request's time, or the latest."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.config import build
from pipeline.errors import DataError
from pipeline.executor import InProcessExecutor
from pipeline.preprocess.joins import join
from pipeline.preprocess.run import preprocess
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig
from pipeline.score.candidates import cut, groups
from pipeline.score.candidates.blocks import ItemMemory, make_block, side_by_side
from pipeline.score.candidates.plan import CandidatePlan, plan_candidates

NUM_USERS, NUM_ITEMS, LAST_HOUR = 8, 12, 40


def make_versions(key: str, num_keys: int, value: str, seed: int) -> pd.DataFrame:
    """Four versions of each key at different hours, with a value of their own; those of the first key come last."""
    rng = np.random.default_rng(seed)
    hours = np.concatenate([rng.permutation(LAST_HOUR)[:4] for _ in range(num_keys)])
    hours[:4] = LAST_HOUR + np.arange(4)
    return pd.DataFrame({key: np.repeat(np.arange(num_keys), 4), "since": hours, value: 1.0 + np.arange(4 * num_keys)})


USERS, ITEMS = make_versions("user", NUM_USERS, "level", 0), make_versions("item", NUM_ITEMS, "price", 1)


def make_config(folder: Path) -> RunConfig:
    rng = np.random.default_rng(2)
    USERS.to_parquet(folder / "users.parquet")
    ITEMS.to_parquet(folder / "items.parquet")
    log = {"user": rng.integers(0, NUM_USERS, 60), "item": rng.integers(0, NUM_ITEMS, 60), "click": [0, 1] * 30}
    pd.DataFrame({**log, "request": range(60), "hour": range(60)}).to_parquet(folder / "log.parquet")
    versioned = {"valid_from": "since", "time_unit": "hours"}
    data = {
        "workspace": str(folder / "work"),
        "inputs": str(folder),
        "schema": {
            "keys": {"user": "user", "item": "item", "request": "request", "time": "hour"},
            "features": [
                {"name": "level", "kind": "numeric", "standardise": False},
                {"name": "price", "kind": "numeric", "standardise": False},
            ],
            "tasks": [{"name": "click", "kind": "binary", "label": "click"}],
        },
        "preprocess": {
            "log": {"path": "log.parquet"},
            "tables": [
                {"path": "users.parquet", "key": "user", **versioned},
                {"path": "items.parquet", "key": "item", **versioned},
            ],
            "split": {"kind": "order"},
        },
        "score": {"candidates": {"path": "candidates.parquet"}, "items_column": "items", "fusion": "click"},
    }
    return build(RunConfig, data, "test.yaml")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    config = make_config(tmp_path)
    preprocess(config, InProcessExecutor())
    return config


def open_candidates(config: RunConfig, **columns: Any) -> CandidatePlan:
    rng = np.random.default_rng(3)
    requests = {"request": range(30), "user": rng.integers(0, NUM_USERS, 30)}
    items = [rng.choice(NUM_ITEMS, 5, replace=False) for _ in range(30)]
    pd.DataFrame({**requests, "items": items, **columns}).to_parquet(Path(config.inputs) / "candidates.parquet")
    assert config.score is not None
    fitted = FittedTransform.load(config.dataset_dir, config.data_schema)
    return plan_candidates(config, config.score, fitted, [], Path(config.workspace))


def encoded(plan: CandidatePlan) -> pd.DataFrame:
    """A row per candidate: its keys, and the encoded level of the user and price of the item."""
    parts = []
    folder = Path("/nowhere")
    memory = ItemMemory(plan)
    for unit in cut.cut_units(plan, folder, folder, InProcessExecutor(), None):
        for group in groups.read_groups(plan, unit):
            requests = group.requests.carried.to_pandas().iloc[group.shared].reset_index(drop=True)
            block = make_block(plan, memory, group, 0, len(group.items))
            features = side_by_side(plan.schema, block.request, block.item).rows
            dense = features["dense"].combine_chunks().flatten().to_numpy().reshape(-1, 2)
            parts.append(requests.assign(item=group.items.to_numpy(), level=dense[:, 0], price=dense[:, 1]))
    return pd.concat(parts, ignore_index=True)


def value_at(versions: pd.DataFrame, key: str, own: int, hour: float, value: str) -> float:
    """0, an input's null, if the key has no version yet."""
    known = versions[(versions[key] == own) & (versions["since"] <= hour)]
    return float(known.sort_values("since")[value].iloc[-1]) if len(known) else 0.0


@pytest.mark.parametrize("candidates_per_block", [7, 1_000])
def test_candidates_have_the_versions_of_the_time_of_their_request(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, candidates_per_block: int
) -> None:
    monkeypatch.setattr(groups, "CANDIDATES_PER_BLOCK", candidates_per_block)
    hours = np.random.default_rng(4).integers(0, LAST_HOUR + 10, 30)
    rows = encoded(open_candidates(config, hour=hours))
    assert len(rows) == 150
    assert rows["price"].nunique() > NUM_ITEMS * 2
    for row in rows.itertuples():
        assert row.level == value_at(USERS, "user", row.user, hours[row.request], "level")
        assert row.price == value_at(ITEMS, "item", row.item, hours[row.request], "price")


def test_candidates_without_a_time_have_the_latest_versions(config: RunConfig) -> None:
    for row in encoded(open_candidates(config)).itertuples():
        assert row.level == value_at(USERS, "user", row.user, np.inf, "level")
        assert row.price == value_at(ITEMS, "item", row.item, np.inf, "price")


def test_an_item_is_encoded_once_per_time(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    num_rows: list[int] = []
    real = join.join_tables

    def measured(rows: Any, *arguments: Any) -> Any:
        num_rows.append(len(rows))
        return real(rows, *arguments)

    monkeypatch.setattr(groups, "join_tables", measured)
    encoded(open_candidates(config, hour=[20] * 15 + [30] * 15))
    assert num_rows == [30, 2 * NUM_ITEMS]


def test_a_time_of_a_request_that_is_none_is_named(config: RunConfig) -> None:
    candidates = open_candidates(config, hour=["20"] * 10 + ["noon"] + ["30"] * 19)
    with pytest.raises(
        DataError, match=r"'hour', is no time of the years 1 to 9999: 'noon' in .*candidates\.parquet, row 11"
    ) as caught:
        encoded(candidates)
    assert caught.value.fix.endswith("leave the column out, so that the latest versions are taken")
