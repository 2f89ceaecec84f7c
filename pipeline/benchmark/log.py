"""The raw log that benchmarks read: text categoricals, numbers with nulls, two labels and a time, as Parquet files.

Rows are in order of time, one every `TICK_US`. A log is made part by part, and only once for each `LogSpec`.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

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
# In a learnable log: deviations of what a value, and a number's logarithm, add to the logit of a label.
CATEGORY_EFFECT, NUMBER_EFFECT = 0.25, 0.2
WEIGHT_STREAM = 1 << 32  # beyond the numbers of parts
# A prime: it has no divisor in common with a number of values, so that steps of it meet each value equally often.
STRIDE = 7_368_787
FORMAT = 1


@dataclass(frozen=True)
class LogSpec:
    """A log of `num_rows` rows with a categorical for each cardinality and `num_numbers` numbers.

    Values such as c07_123 are drawn by a Zipf law whose tail is folded into the cardinality; those of an even log take
    turns, so that each is as frequent as any other. The labels of a learnable log depend on the features, by weights of
    values and of the logarithms of numbers that are drawn once; those of others are chance.
    """

    num_rows: int
    cardinalities: tuple[int, ...]
    num_numbers: int
    is_even: bool = False
    is_learnable: bool = False

    @classmethod
    def wide(cls, num_rows: int, *, is_learnable: bool = False) -> "LogSpec":
        """26 categoricals of 10 to a million values and 13 numbers: the shape of the Criteo logs."""
        cardinalities = tuple(np.logspace(1, 6, 26).astype(int).tolist())
        return cls(num_rows, cardinalities, 13, is_learnable=is_learnable)

    @cached_property
    def categoricals(self) -> tuple[str, ...]:
        return tuple(f"c{place:02}" for place in range(len(self.cardinalities)))

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        return tuple(f"n{place:02}" for place in range(self.num_numbers))

    def time_of(self, fraction: float) -> int:
        """Microseconds since 1970 of the first row after a fraction of all rows."""
        return time_of_row(int(self.num_rows * fraction))


def time_of_row(row: int) -> int:
    """Microseconds since 1970."""
    return START_US + row * TICK_US


def iso_time(time_us: int) -> str:
    # Whole ticks, which a float of seconds holds to the microsecond.
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat()


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


def read_ahead(folder: Path, pattern: str = "*") -> None:
    """Reads every file of a folder once, so that none of those who read it next waits for the disk."""
    for path in folder.glob(pattern):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def _write_part(folder: Path, spec: LogSpec, part: int) -> None:
    random = np.random.default_rng([SEED, part])
    first_row = part * ROWS_PER_FILE
    rows = np.arange(first_row, min(first_row + ROWS_PER_FILE, spec.num_rows))
    columns: dict[str, pa.Array] = {}
    logit_BT = np.tile(np.log(LABEL_RATES) - np.log1p(-np.array(LABEL_RATES)), (len(rows), 1))
    for place, (name, cardinality) in enumerate(zip(spec.categoricals, spec.cardinalities, strict=True)):
        if spec.is_even:
            values = pa.array(rows * STRIDE % cardinality)
        else:
            is_null = random.random(len(rows)) < NULL_CATEGORY_RATE
            drawn = random.zipf(ZIPF_EXPONENT, len(rows)) % cardinality
            values = pa.array(drawn, mask=is_null)
            if spec.is_learnable:
                logit_BT += CATEGORY_EFFECT * _weights(place, cardinality)[drawn] * ~is_null[:, None]
        columns[name] = pc.binary_join_element_wise(name, values.cast(pa.string()), "_")
    for place, name in enumerate(spec.numbers):
        numbers = random.lognormal(size=len(rows)).astype(np.float32)
        is_null = random.random(len(rows)) < NULL_NUMBER_RATE
        columns[name] = pa.array(numbers, mask=is_null)
        if spec.is_learnable:
            effect = np.where(is_null, 0.0, np.log(numbers))
            logit_BT += NUMBER_EFFECT * effect[:, None] * _weights(len(spec.cardinalities) + place, 1)
    for name, logit_B in zip(LABELS, logit_BT.T, strict=True):
        columns[name] = pa.array((random.random(len(rows)) < 1 / (1 + np.exp(-logit_B))).astype(np.int8))
    columns[TIME] = pa.array(START_US + rows * TICK_US, pa.timestamp("us"))
    pq.write_table(pa.table(columns), folder / f"part-{part:05}.parquet", row_group_size=ROWS_PER_GROUP)


def _weights(place: int, num_values: int) -> NDArray[np.float64]:
    """What the values of a feature add to the labels' logits, [values, labels]; half of it is the same for all."""
    weights = np.random.default_rng([SEED, WEIGHT_STREAM, place]).normal(size=(num_values, 1 + len(LABELS)))
    effects: NDArray[np.float64] = (weights[:, :1] + weights[:, 1:]) / np.sqrt(2)
    return effects
