"""The `preprocess` section: where the raw log and its tables lie, and how rows are split."""

from datetime import date
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config import Section


class SourceConfig(Section):
    """A raw table: one file, a folder of files, or a glob. The format is told by the ending unless given."""

    path: str
    format: Literal["parquet", "csv", "arrow", "jsonl"] | None = None
    delimiter: str = Field(",", min_length=1, max_length=1, description="CSV only")
    column_names: tuple[str, ...] | None = Field(None, description="CSV without a header line: its columns, in order")
    strip_blanks: bool = Field(False, description="CSV only: remove blanks around every text value")
    null_values: tuple[str, ...] = Field(("",), description="CSV only: texts that mean null")


class TableConfig(SourceConfig):
    """A user or item table, joined to the log on one column."""

    key: str = Field(description="the key column of the table")
    log_key: str | None = Field(None, description="the log's column to join on; default: the same name")
    columns: tuple[str, ...] | None = Field(None, description="the columns to join; default: all that the schema uses")

    @property
    def left_key(self) -> str:
        return self.log_key or self.key


# A date is kept as its ISO text, so that a dumped configuration loads as the same one.
Boundary = Annotated[
    float | str, BeforeValidator(lambda value: value.isoformat() if isinstance(value, date) else value)
]


class TimeSplit(Section):
    """Rows before `validation_from` are for training, rows from `test_from` on for the test."""

    kind: Literal["time"]
    column: str
    validation_from: Boundary
    test_from: Boundary


class _FractionSplit(Section):
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    test_fraction: float = Field(0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> "_FractionSplit":
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction and test_fraction leave no rows for training")
        return self


class HashSplit(_FractionSplit):
    """All rows with the same value of `column` fall into the same split, by a stable hash."""

    kind: Literal["hash"]
    column: str
    seed: int = 0


class OrderSplit(_FractionSplit):
    """Rows in file order: training first, then validation, the test last."""

    kind: Literal["order"]


SplitConfig = Annotated[TimeSplit | HashSplit | OrderSplit, Field(discriminator="kind")]


class PreprocessConfig(Section):
    log: SourceConfig
    tables: tuple[TableConfig, ...] = ()
    split: SplitConfig
    rows_per_partition: int = Field(250_000, ge=1, description="the unit of work; one shard per partition and split")
