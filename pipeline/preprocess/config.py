"""The `preprocess` section: where the raw log and its tables lie, how rows are split, and what they must hold."""

from datetime import date
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from pipeline.config import Section
from pipeline.feature_kinds import DEFAULT_TIME_UNIT, CountedTimeUnit

WEIGHT_SUFFIX = "_weight"


class PackedConfig(Section):
    """A column of texts such as `205:9032:1.5 206:77` that hold some fields of their row: field, id and weight.

    Each field becomes a column of ids and, named `FIELD_weight`, one of their weights. A row may lack a field.
    """

    column: str
    delimiter: str = Field(min_length=1, description="between two elements")
    field_delimiter: str = Field(min_length=1, description="the first one in an element separates its field and its id")
    weight_delimiter: str | None = Field(
        None, min_length=1, description="the last one after it separates id and weight; an id without a weight has 1"
    )
    fields: tuple[str, ...] = Field((), description="fields with at most one element per row: columns of single values")
    list_fields: tuple[str, ...] = Field((), description="fields with any number of elements: columns of lists")

    @property
    def column_names(self) -> list[str]:
        """The columns that the fields become."""
        return [f"{name}{suffix}" for name in (*self.fields, *self.list_fields) for suffix in ("", WEIGHT_SUFFIX)]

    @model_validator(mode="after")
    def _names_hold(self) -> "PackedConfig":
        names = self.column_names
        if not names:
            raise ValueError("packed needs fields or list_fields")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"packed gives column {name!r} twice")
            if self.field_delimiter in name.removesuffix(WEIGHT_SUFFIX):
                raise ValueError(f"field {name!r} holds the field_delimiter")
        return self


class SourceConfig(Section):
    """A raw table: one file, a folder of files, or a glob. The format is told by the ending unless given."""

    path: str
    format: Literal["parquet", "csv", "arrow", "jsonl"] | None = None
    delimiter: str = Field(
        ",", min_length=1, description="CSV only; with more than one character, quotes are part of the values"
    )
    encoding: Literal["utf-8", "latin-1"] = Field("utf-8", description="CSV only")
    column_names: tuple[str, ...] | None = Field(None, description="CSV without a header line: its columns, in order")
    strip_blanks: bool = Field(False, description="CSV only: remove blanks around every text value")
    null_values: tuple[str, ...] = Field(("",), description="CSV only: texts that mean null")
    packed: PackedConfig | None = Field(None, description="a column of texts that hold several fields each")


class TableConfig(SourceConfig):
    """A user or item table, joined to the log on one column."""

    key: str = Field(description="the key column of the table")
    log_key: str | None = Field(None, description="the log's column to join on; default: the same name")
    columns: tuple[str, ...] | None = Field(None, description="the columns to join; default: all that the schema uses")
    valid_from: str | None = Field(
        None,
        min_length=1,
        description="the column with the time from which a row of the table is valid, null for always: a key may have "
        "several rows, and a row of the log takes the latest that is not after its own time, the key `time`; "
        "candidates do the same, or take the latest of all where they have no such column",
    )
    time_unit: CountedTimeUnit = DEFAULT_TIME_UNIT

    @property
    def left_key(self) -> str:
        return self.log_key or self.key

    @model_validator(mode="after")
    def _unit_is_of_times(self) -> "TableConfig":
        if self.time_unit != DEFAULT_TIME_UNIT and not self.valid_from:
            raise ValueError("time_unit applies to a table with valid_from")
        return self


# A date is kept as its ISO text, so that a dumped configuration loads as the same one.
Boundary = Annotated[
    float | str, BeforeValidator(lambda value: value.isoformat() if isinstance(value, date) else value)
]


class WindowConfig(Section):
    """The rows that are read: those whose `column` is `from` or later, and before `to`.

    Row groups of a Parquet file that their statistics place outside are never read, and of such Arrow batches only this
    column.
    """

    model_config = ConfigDict(populate_by_name=True)

    column: str = Field(description="of the log itself, with times, numbers or texts as the two boundaries are")
    from_: Boundary = Field(alias="from")
    to: Boundary


class _Split(Section):
    disjoint: tuple[str, ...] = Field((), description="columns none of whose values may stand in rows of two splits")


class TimeSplit(_Split):
    """Rows before `validation_from` are for training, rows from `test_from` on for the test."""

    kind: Literal["time"]
    column: str
    validation_from: Boundary
    test_from: Boundary


class _FractionSplit(_Split):
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


SplitValues = Annotated[tuple[str | int | bool, ...], Field(min_length=1)]


class TimeHashSplit(_Split):
    """Rows from `test_from` on are for the test; of those before, the rows of some values of `key` are for validation.

    All rows with the same value of it fall into the same of the two, by a stable hash.
    """

    kind: Literal["time_hash"]
    column: str
    test_from: Boundary
    key: str
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    seed: int = 0


class ColumnSplit(_Split):
    """A column of the log says it: rows with these values are for validation and the test, all others for training."""

    kind: Literal["column"]
    column: str
    validation: SplitValues
    test: SplitValues

    @model_validator(mode="after")
    def _differ(self) -> "ColumnSplit":
        both = {str(value) for value in self.validation} & {str(value) for value in self.test}
        if both:
            raise ValueError(f"validation and test both have {sorted(both)[0]!r}")
        return self


class OrderSplit(_FractionSplit):
    """Rows in file order: training first, then validation, the test last."""

    kind: Literal["order"]


SplitConfig = Annotated[TimeSplit | HashSplit | TimeHashSplit | ColumnSplit | OrderSplit, Field(discriminator="kind")]


class ColumnContract(Section):
    """What every row of a column must hold. Values are compared as texts: 3 and "3.0" are the same."""

    type: Literal["integer", "number", "text", "boolean", "time", "list"] | None = Field(
        None, description="the texts of a CSV or JSON-lines file must parse as it; other files must have the type"
    )
    nullable: bool = Field(True, description="whether a row may have null or NaN")
    range: tuple[FiniteFloat | None, FiniteFloat | None] = Field(
        (None, None), description="the lowest and the highest number allowed; null leaves an end open"
    )
    allowed: Annotated[tuple[str | int | float | bool, ...], Field(min_length=1)] | None = Field(
        None, description="the only values allowed, of a list column in its lists"
    )

    @model_validator(mode="after")
    def _range_holds(self) -> "ColumnContract":
        low, high = self.range
        if low is not None and high is not None and low > high:
            raise ValueError("the lower end of range is above the upper end")
        if self.range != (None, None) and self.type not in (None, "integer", "number"):
            raise ValueError(f"range applies to numbers, and the type is {self.type}")
        return self


class DriftConfig(Section):
    """How far the training rows may be from those of the previous dataset, and what happens when they are further."""

    previous: str | None = Field(None, description="the previous dataset's folder, or its statistics.json")
    max_psi: float = Field(0.25, gt=0, description="the population stability index of a feature's values")
    max_unseen_rate_increase: float = Field(0.1, ge=0, le=1, description="in the share of unseen values of the test")
    max_null_rate_increase: float = Field(0.1, ge=0, le=1, description="in the share of nulls of a feature")
    max_label_rate_change: float = Field(0.25, ge=0, description="in a task's mean label, as a share of the previous")
    action: Literal["warn", "stop"] = "warn"


class ContractConfig(Section):
    """What the raw rows must hold, and what happens to those that do not."""

    columns: dict[str, ColumnContract] = Field(default_factory=dict, description="by column, of the log or joined")
    bad_rows: Literal["error", "quarantine"] = Field(
        "error", description="the first bad row stops the run, or bad rows are put into a file beside the shards"
    )
    labels: Literal["error", "quarantine", "ignore"] = Field(
        "error", description="of rows with label 1 in a task and 0 in the task that is its space"
    )
    max_quarantine_fraction: float = Field(0.01, ge=0, le=1, description="of all rows; more of them stop the run")
    drift: DriftConfig = DriftConfig()


Compression = Literal["none", "zstd"]


class PreprocessConfig(Section):
    log: SourceConfig
    tables: tuple[TableConfig, ...] = ()
    window: WindowConfig | None = Field(None, description="default: all rows are read")
    split: SplitConfig
    rows_per_partition: int = Field(250_000, ge=1, description="the unit of work of the first pass")
    rows_per_shard: int = Field(250_000, ge=1, description="at most; the shards of a split are equal within a row")
    compression: Compression = Field("none", description="of the shards: zstd takes less space and more time to read")
    shuffle: bool = Field(False, description="rows of a partition go to the shards of their split in random order")
    contract: ContractConfig = ContractConfig()
    extend: str | None = Field(
        None, description="an earlier dataset: its vocabularies get the new values, and its normalizations are kept"
    )
