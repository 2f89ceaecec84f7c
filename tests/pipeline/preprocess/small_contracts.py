"""Contracts, a few rows with three labels in a chain, and which of the rows break a contract."""

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import build
from pipeline.preprocess.checks.contract import CheckedRows, check_rows
from pipeline.preprocess.config import ContractConfig, OrderSplit
from pipeline.schema import Schema

NAN = float("nan")
ORDER = OrderSplit(kind="order")
SCHEMA = Schema.model_validate(
    {
        "features": [{"name": "x", "kind": "numeric"}],
        "tasks": [
            {"name": "click", "kind": "binary", "label": "click"},
            {"name": "cart", "kind": "binary", "label": "cart", "space": "click"},
            {"name": "buy", "kind": "binary", "label": "buy", "space": "cart"},
        ],
    }
)


def make_contract(columns: dict[str, Any] | None = None, **section: Any) -> ContractConfig:
    return build(ContractConfig, {"columns": columns or {}, **section}, "test.yaml")


def make_table(**columns: Any) -> pa.Table:
    """Six rows of good inputs and labels, with the given columns in their place."""
    zeros = [0] * 6
    return pa.table({"x": [1.0] * 6, "click": [1] * 6, "cart": zeros, "buy": zeros} | columns)


def check(table: pa.Table, config: ContractConfig, schema: Schema = SCHEMA, split: Any = ORDER) -> CheckedRows:
    return check_rows(config, schema, split, table, "log.csv", first_row=10)


def reasons(table: pa.Table, config: ContractConfig, **given: Any) -> dict[int, str]:
    """The reason of each bad row, by the row's place."""
    checked = check(table, config, **given)
    return {row: checked.rules[checked.codes[row]].reason for row in np.flatnonzero(checked.is_bad).tolist()}
