"""`simulate`: a feed log with its user and item tables, the true outcome of every row, and requests to score."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UsageError
from pipeline.files import write_atomically, write_json
from pipeline.simulate.feed import Feed
from pipeline.simulate.log import LOG_SCHEMA, TRUTH_SCHEMA, Log
from pipeline.simulate.truth import make_truth
from pipeline.simulate.world import make_world

NUM_PROBE_ROWS = 50_000
MAX_DAYS = 99
# Radians per day: within one the truth would be turned to what it has nothing in common with.
MAX_DRIFT = 1.5


@dataclass(frozen=True)
class _Settings:
    num_rows: int
    seed: int
    task_correlation: float
    num_days: int
    num_users: int
    num_items: int
    items_per_request: int
    num_candidate_requests: int
    candidates_per_request: int
    drift: float

    def __post_init__(self) -> None:
        smallest_catalogue = max(10 * self.items_per_request, self.candidates_per_request)
        for name, low, high in (
            ("seed", 0, None),
            ("task_correlation", 0, 1),
            ("drift", 0, MAX_DRIFT),
            ("num_days", 1, MAX_DAYS),
            ("items_per_request", 1, None),
            ("candidates_per_request", 1, None),
            ("num_candidate_requests", 1, None),
            ("num_users", 1, None),
            ("num_items", smallest_catalogue, None),
            ("num_rows", self.num_days * self.items_per_request, None),
        ):
            value = getattr(self, name)
            # Written so that it is false for NaN.
            is_inside = value >= low and (high is None or value <= high)
            if not is_inside:
                bounds = f"at least {low:,}" if high is None else f"from {low} to {high}"
                raise UsageError(f"{name} is {value}, and must be {bounds}", f"choose {name} {bounds}")

    def rows_by_day(self) -> list[int]:
        """As equal as whole rows allow."""
        return [
            self.num_rows * (day + 1) // self.num_days - self.num_rows * day // self.num_days
            for day in range(self.num_days)
        ]


def simulate(
    out: Path,
    num_rows: int,
    seed: int,
    task_correlation: float = 0.6,
    num_days: int = 7,
    *,
    num_users: int | None = None,
    num_items: int | None = None,
    items_per_request: int = 10,
    num_candidate_requests: int = 500,
    candidates_per_request: int = 100,
    drift: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes a simulated feed below `out`; the same arguments give the same bytes.

    - `log/day-NN.parquet`: one row per impression with its context, the user's clicks before the request, and labels;
      `watch_seconds` is null without a click, `like` and `purchase` are 0.
    - `truth/day-NN.parquet`, row for row: P(click), P(like | click), P(purchase | click), E(watch seconds | click).
    - `users.parquet`, `items.parquet`: what the log's user_id and item_id stand for.
    - `candidates.parquet`: requests of the day after the log, each with a list of items to score.
    - `simulation.json`, written last: the settings, the rows of each day, the label rates.

    Memory depends on the numbers of users and items, not on `num_rows`. By default there is a user per 100 rows, 200 to
    200,000, and an item per 250 rows, 200 to 50,000. `task_correlation` is the p of `pipeline/simulate/truth.py`, and
    `drift` the radians by which each day turns the weights of the truth, beside the little that they turn anyway.
    `progress` is told how many rows were written since it was last called.

    Raises:
        UsageError: an argument is out of its range, or `out` holds something.
    """
    settings = _Settings(
        num_rows=num_rows,
        seed=seed,
        task_correlation=task_correlation,
        num_days=num_days,
        num_users=min(max(num_rows // 100, 200), 200_000) if num_users is None else num_users,
        num_items=min(max(num_rows // 250, 200), 50_000) if num_items is None else num_items,
        items_per_request=items_per_request,
        num_candidate_requests=num_candidate_requests,
        candidates_per_request=candidates_per_request,
        drift=drift,
    )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} already holds something", "give a new or an empty folder")

    world_rng, probe_rng, truth_rng, candidate_rng, *day_rngs = np.random.default_rng(seed).spawn(4 + num_days)
    world = make_world(world_rng, num_rows, settings.num_users, settings.num_items, num_days)
    num_probes = -(-NUM_PROBE_ROWS // items_per_request)
    probe = Feed(probe_rng, world, num_days // 2, num_probes, items_per_request).take(num_probes)
    truth = make_truth(truth_rng, world, probe.impressions(NUM_PROBE_ROWS), task_correlation, drift)
    log = Log(world, truth, items_per_request)

    _write_table(out / "users.parquet", world.users.table)
    _write_table(out / "items.parquet", world.items.table)
    rows_by_name = {f"day-{day + 1:02d}": rows for day, rows in enumerate(settings.rows_by_day())}
    for day, (name, rows) in enumerate(rows_by_name.items()):
        chunks = log.day(day, rows, day_rngs[day])
        _write_day(out / "log" / f"{name}.parquet", out / "truth" / f"{name}.parquet", chunks, progress)
    candidates = log.candidates(num_days, num_candidate_requests, candidates_per_request, candidate_rng)
    _write_table(out / "candidates.parquet", candidates)
    # Without drift it is not among the settings: the bytes are those of before there was any.
    told = {name: value for name, value in asdict(settings).items() if name != "drift" or value}
    write_json(
        out / "simulation.json",
        {"settings": told, "rows_by_day": rows_by_name, "label_rates": log.label_rates()},
    )


def _write_day(
    log_path: Path,
    truth_path: Path,
    chunks: Iterable[tuple[pa.Table, pa.Table]],
    progress: Callable[[int], None] | None,
) -> None:
    """Writes both files as the chunks come, one row group per chunk."""

    def write(log_file: Path, truth_file: Path) -> None:
        with _writer(log_file, LOG_SCHEMA) as log, _writer(truth_file, TRUTH_SCHEMA) as truth:
            for log_rows, truth_rows in chunks:
                log.write_table(log_rows)
                truth.write_table(truth_rows)
                if progress:
                    progress(log_rows.num_rows)

    write_atomically(truth_path, lambda truth_file: write_atomically(log_path, lambda file: write(file, truth_file)))


def _write_table(path: Path, table: pa.Table) -> None:
    def write(file: Path) -> None:
        with _writer(file, table.schema) as writer:
            writer.write_table(table)

    write_atomically(path, write)


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd")
