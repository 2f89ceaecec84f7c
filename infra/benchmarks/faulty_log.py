"""The log of the simulated month: days as they should have been, and as they were logged, three of them wrong."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.simulate.run import simulate

FIRST_DAY = datetime(2025, 1, 6, tzinfo=UTC)
TRAIN_DAYS, FRESH_DAYS = 3, 1
CLICK_COLUMNS = ("click", "like", "purchase", "watch_seconds")


def shuffle_labels(rows: pa.Table) -> pa.Table:
    order = pa.array(np.random.default_rng(0).permutation(len(rows)))
    for name in CLICK_COLUMNS:
        rows = with_column(rows, name, rows.column(name).take(order))
    return rows


def forget_country(rows: pa.Table) -> pa.Table:
    return with_column(rows, "country", pa.nulls(len(rows), pa.string()))


def leak_click(rows: pa.Table) -> pa.Table:
    return with_column(rows, "price", pc.multiply(rows.column("click").cast(pa.float32()), 50.0))


def with_column(rows: pa.Table, name: str, column: Any) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, column)


FAULTS: dict[int, tuple[str, Callable[[pa.Table], pa.Table]]] = {
    11: ("labels of other rows", shuffle_labels),
    18: ("country is null", forget_country),
    25: ("price repeats the click", leak_click),
}


def make_log(folder: Path, num_slots: int, rows_per_day: int, drift: float) -> None:
    """The days as they are logged, in `log`, and as they were, in `clean`, each with the columns of user and item."""
    num_days = TRAIN_DAYS + FRESH_DAYS + num_slots
    simulate(
        folder / "simulated", num_days * rows_per_day, 1, num_days=num_days, num_users=300, num_items=300, drift=drift
    )
    users, items = (pq.read_table(folder / "simulated" / name) for name in ("users.parquet", "items.parquet"))
    for day in range(num_days):
        rows = pq.read_table(folder / "simulated" / "log" / name_of_day(day))
        for key, table in (("user_id", users), ("item_id", items)):
            # An id is a place counted from 1.
            own = table.take(pc.subtract(rows.column(key), 1))
            for name in own.column_names:
                if name != key:
                    rows = rows.append_column(name, own.column(name))
        _, spoil = FAULTS.get(day, ("", lambda clean: clean))
        for name, table in (("clean", rows), ("log", spoil(rows))):
            (folder / name).mkdir(exist_ok=True)
            pq.write_table(table, folder / name / name_of_day(day))


def name_of_day(day: int) -> str:
    return f"day-{day + 1:02d}.parquet"


def slot_of_day(day: int) -> datetime:
    return FIRST_DAY + timedelta(days=day)
