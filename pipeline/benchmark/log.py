"""The raw log that benchmarks read: text categoricals, numbers with nulls, two labels and a time, as Parquet files.

Rows are in order of time, one every `TICK_US`. A log is made part by part, and only once for each `LogSpec`.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.executor import InProcessExecutor, Progress
from pipeline.files import write_json

LABELS = ("click", "buy")
LABEL_RATES = (0.2, 0.05)
TIME = "time"
START_US = 1_700_000_000_000_000
TICK_US = 10_000
VALIDATION_FROM, TEST_FROM = 0.8, 0.9

SEED = 1
ROWS_PER_FILE, ROWS_PER_GROUP = 500_000, 250_000
ZIPF_EXPONENT = 1.2
NULL_CATEGORY_RATE, NULL_NUMBER_RATE = 0.01, 0.1
# A prime: it has no divisor in common with a number of values, so that steps of it meet each value equally often.
STRIDE = 7_368_787
FORMAT = 1


@dataclass(frozen=True)
class LogSpec:
    """A log of `num_rows` rows with a categorical for each cardinality and `num_numbers` numbers.

    Values such as c07_123 are drawn by a Zipf law whose tail is folded into the cardinality; those of an even log take
    turns, so that each is as frequent as any other.
    """

    num_rows: int
    cardinalities: tuple[int, ...]
    num_numbers: int
    is_even: bool = False

    @classmethod
    def wide(cls, num_rows: int) -> "LogSpec":
        """26 categoricals of 10 to a million values and 13 numbers: the shape of the Criteo logs."""
        return cls(num_rows, tuple(np.logspace(1, 6, 26).astype(int).tolist()), 13)

    @cached_property
    def categoricals(self) -> tuple[str, ...]:
        return tuple(f"c{place:02}" for place in range(len(self.cardinalities)))

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        return tuple(f"n{place:02}" for place in range(self.num_numbers))

    def time_of(self, fraction: float) -> int:
        """Microseconds since 1970 of the first row after a fraction of all rows."""
        return START_US + int(self.num_rows * fraction) * TICK_US


def make_log(folder: Path, spec: LogSpec, num_threads: int, progress: Progress | None = None) -> None:
    """Makes the log of a specification in `folder`, unless it is there already; a file beside it says what it holds."""
    description = json.loads(json.dumps({"format": FORMAT, "seed": SEED, **asdict(spec)}))
    path = folder.parent / f"{folder.name}.json"
    if path.is_file() and json.loads(path.read_text()) == description:
        return
    path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts = range(-(-spec.num_rows // ROWS_PER_FILE))
    write = partial(_write_part, folder, spec)
    show = progress or (lambda *_: None)
    show("rows", 0, spec.num_rows, 0, "rows")
    for part, _ in enumerate(InProcessExecutor(num_threads).map(write, parts), start=1):
        num_rows = min(part * ROWS_PER_FILE, spec.num_rows)
        show("rows", num_rows, spec.num_rows, num_rows, "rows")
    write_json(path, description)


def read_ahead(folder: Path) -> None:
    """Reads every file of a folder once, so that none of those who read it next waits for the disk."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def _write_part(folder: Path, spec: LogSpec, part: int) -> None:
    random = np.random.default_rng([SEED, part])
    first_row = part * ROWS_PER_FILE
    rows = np.arange(first_row, min(first_row + ROWS_PER_FILE, spec.num_rows))
    columns: dict[str, pa.Array] = {}
    for name, cardinality in zip(spec.categoricals, spec.cardinalities, strict=True):
        if spec.is_even:
            values = pa.array(rows * STRIDE % cardinality)
        else:
            is_null = random.random(len(rows)) < NULL_CATEGORY_RATE
            values = pa.array(random.zipf(ZIPF_EXPONENT, len(rows)) % cardinality, mask=is_null)
        columns[name] = pc.binary_join_element_wise(name, values.cast(pa.string()), "_")
    for name in spec.numbers:
        numbers = random.lognormal(size=len(rows)).astype(np.float32)
        columns[name] = pa.array(numbers, mask=random.random(len(rows)) < NULL_NUMBER_RATE)
    for name, rate in zip(LABELS, LABEL_RATES, strict=True):
        columns[name] = pa.array((random.random(len(rows)) < rate).astype(np.int8))
    columns[TIME] = pa.array(START_US + rows * TICK_US, pa.timestamp("us"))
    pq.write_table(pa.table(columns), folder / f"part-{part:05}.parquet", row_group_size=ROWS_PER_GROUP)
