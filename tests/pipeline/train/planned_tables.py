"""A run of four tables without a dataset, hardware to plan it for, and what its plan or its refusal is."""

from dataclasses import replace
from typing import Any

import pytest

from pipeline.config import build
from pipeline.errors import ConfigError
from pipeline.run_config import RunConfig
from pipeline.train.tables.placement import Hardware, Placement, place
from pipeline.train.tables.plan import plan_run, tables_of

ROWS = {"user": 3_000_000, "item": 10_000_000, "brand": 1_000, "country": 250}
WIDTH = 64
GPUS = Hardware(16, 8, "cuda", device_memory_gib=80.0, host_memory_gib=128.0, reserved_fraction=0.15)
CPUS = replace(GPUS, num_ranks=4, ranks_per_node=2, device="cpu")
ADAGRAD = {"kind": "adagrad"}


def settings_with(rows: dict[str, int] = ROWS, train: Any = None, front_end: Any = None) -> dict[str, Any]:
    """A run of four tables, one of them shared with a history, without a dataset."""
    names = ("user", "item", "brand", "country")
    return {
        "workspace": "no-such-workspace",
        "schema": {
            "features": [
                *({"name": name, "kind": "categorical"} for name in names),
                {"name": "history", "kind": "history", "table": "item"},
            ],
            "tasks": [{"name": "click", "kind": "binary", "label": "click"}],
        },
        "preprocess": {"log": {"path": "log"}, "split": {"kind": "order"}},
        "model": {"front_end": {"embedding_dim": WIDTH, "num_embeddings": rows, **(front_end or {})}},
        "train": {"num_lanes": 64, "global_batch_size": 4096, **(train or {})},
    }


def config_with(rows: dict[str, int] = ROWS, train: Any = None, front_end: Any = None) -> RunConfig:
    return build(RunConfig, settings_with(rows, train, front_end), "the tests")


def placed(config: RunConfig, hardware: Hardware) -> Placement:
    placement = place(tables_of(config, hardware), hardware)
    assert placement is not None
    return placement


def types_in(placement: Placement) -> dict[str, str]:
    return {option.name: option.sharding_type for option in placement.options}


def refusal(config: RunConfig, hardware: Hardware) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        plan_run(config, hardware)
    return raised.value
