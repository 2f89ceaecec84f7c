"""How candidates are read, joined and encoded: which columns and features are a request's, an item's or a row's own.

What belongs to a request is joined and encoded once per request, what belongs to an item once per distinct item, or
item and time where a table has versions of items. In files with a row per candidate, all columns but the keys of
request, user and time are a row's own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.preprocess.config import SourceConfig, TableConfig
from pipeline.preprocess.joins.join import open_tables, plan_columns
from pipeline.preprocess.joins.table import JoinTable
from pipeline.preprocess.raw_files.formats import check_columns, read_column_names
from pipeline.preprocess.raw_files.sources import list_files
from pipeline.preprocess.transform import FittedTransform
from pipeline.run_config import RunConfig
from pipeline.schema import Schema
from pipeline.score.config import ScoreConfig


@dataclass(frozen=True)
class Side:
    """A request's, an item's or a row's own: the tables that are joined to it, and the features that it has.

    `carried` are raw columns that are kept beside the encoded ones: keys, and what filters, caps, the fusion or a row
    need.
    """

    tables: tuple[JoinTable, ...]
    transform: FittedTransform
    carried: tuple[str, ...]


@dataclass(frozen=True)
class CandidatePlan:
    """The candidate files of a run, the columns that are read from them, and their sides.

    `item_time` is the column with the time that tables of items take versions of, `row_inputs` are those of requests
    and items that a row's own tables and features need, and `named` those of the fusion, of filters and of caps.
    """

    schema: Schema
    source: SourceConfig
    items_column: str | None
    item_key: str
    request_key: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    request_columns: tuple[str, ...]
    row_columns: tuple[str, ...]
    item_time: str | None
    row_inputs: tuple[str, ...]
    named: tuple[str, ...]
    request: Side
    item: Side
    row: Side

    @property
    def has_lists(self) -> bool:
        return self.items_column is not None


def available_columns(config: RunConfig, section: ScoreConfig) -> list[str]:
    """The raw columns that a fusion, a filter or a cap may name.

    Raises:
        DataError: the candidates or a table is not there.
    """
    sources: list[SourceConfig] = [config.source(section.candidates), *_tables(config)]
    names = [_names_in(source) for source in sources]
    chosen = [source.columns or own for source, own in zip(sources[1:], names[1:], strict=True)]  # type: ignore[attr-defined]
    of_candidates = [name for name in names[0] if name != section.items_column]
    return list(dict.fromkeys([*of_candidates, str(config.data_schema.keys.item), *(n for own in chosen for n in own)]))


def _tables(config: RunConfig) -> list[TableConfig]:
    return [table.model_copy(update={"path": config.input_path(table.path)}) for table in config.preprocess.tables]


def _names_in(source: SourceConfig) -> list[str]:
    return read_column_names(source, list_files(source)[0])


def plan_candidates(
    config: RunConfig, section: ScoreConfig, fitted: FittedTransform, named: Sequence[str], staging: Path
) -> CandidatePlan:
    """The plan of a run; `named` are the raw columns of its fusion, filters and caps, `staging` is for large tables.

    Raises:
        ConfigError: a column is both in the candidates and in a table, a feature reads columns of two sides, or the
            candidates have no items.
        DataError: a file or a column is missing, or a table cannot be read.
    """
    schema, source = config.data_schema, config.source(section.candidates)
    item_key, request_key = str(schema.keys.item), str(schema.keys.request)
    keys = tuple(dict.fromkeys([request_key, schema.keys.user or request_key]))
    file = list_files(source)[0]
    names = read_column_names(source, file)
    _check_items(section, item_key, names, file)
    columns_of = {feature.name: schema.columns_of(feature) for feature in schema.features}
    needed = [*keys, *(column for columns in columns_of.values() for column in columns), *named]
    # Without times, such as those of a replay, candidates are scored now: with the latest version of everything.
    time = schema.keys.time if schema.keys.time in names else None
    tables = _tables(config)
    columns = plan_columns([*names, item_key], file, tables, needed, time)
    own = [name for name in columns.log if name != item_key]
    has_lists = section.items_column is not None
    request_columns = [name for name in own if has_lists or name in (*keys, time)]
    row_columns = [name for name in own if name not in request_columns]
    levels = _Levels(request_columns, [item_key], row_columns)
    for table in open_tables(tables, columns, time, staging):
        levels.add(table)
    check_columns(keys, levels.columns["request"], file)
    side_of = {name: levels.side_of(name, own, has_lists=has_lists) for name, own in columns_of.items()}
    row_inputs = levels.row_inputs([columns_of[name] for name, side in side_of.items() if side == "row"])
    item_time = levels.time_column("item")
    sides = {}
    for name, kept in (
        ("request", [*keys, item_time, *named, *row_inputs]),
        ("item", [*named, *row_inputs]),
        ("row", named),
    ):
        transform = _restrict(fitted, [side == name for side in side_of.values()])
        carried = tuple(dict.fromkeys(column for column in kept if column in levels.columns[name]))
        sides[name] = Side(tuple(levels.tables[name]), transform, carried)
    return CandidatePlan(
        schema=schema,
        source=source,
        items_column=section.items_column,
        item_key=item_key,
        request_key=request_key,
        keys=keys,
        columns=tuple(dict.fromkeys([*request_columns, *row_columns, section.items_column or item_key])),
        request_columns=tuple(request_columns),
        row_columns=tuple(row_columns),
        item_time=item_time,
        row_inputs=row_inputs,
        named=tuple(named),
        **sides,
    )


def _check_items(section: ScoreConfig, item_key: str, names: Sequence[str], file: str) -> None:
    if section.items_column is not None:
        check_columns([section.items_column], names, file)
    elif item_key not in names:
        raise ConfigError(
            f"{file} has no column {item_key!r}, the item key of a row per candidate",
            "set score.items_column to the column of lists, or give that column",
        )


class _Levels:
    """The columns of requests, of items and of rows, and the tables that are joined to each."""

    def __init__(self, request: Sequence[str], item: Sequence[str], row: Sequence[str]) -> None:
        self.columns = {"request": [*request], "item": [*item], "row": [*row]}
        self.tables: dict[str, list[JoinTable]] = {"request": [], "item": [], "row": []}

    def add(self, table: JoinTable) -> None:
        key = table.config.left_key
        side = next((side for side in ("request", "row") if key in self.columns[side]), "item")
        self.tables[side].append(table)
        self.columns[side] += table.columns

    def time_column(self, side: str) -> str | None:
        """The column with the time at which tables of a side are joined."""
        return next((table.time_column for table in self.tables[side] if table.time_column), None)

    def row_inputs(self, columns: Sequence[Sequence[str]]) -> tuple[str, ...]:
        """What rows need of requests and items, with features that read these columns."""
        needed = [column for own in columns for column in own]
        time = self.time_column("row")
        needed += [time] if time else []
        return tuple(column for column in dict.fromkeys(needed) if column not in self.columns["row"])

    def side_of(self, feature: str, columns: Sequence[str], *, has_lists: bool) -> str:
        """Which of the sides has all columns of a feature."""
        of_request = [column for column in columns if column in self.columns["request"]]
        if len(of_request) == len(columns):
            return "request"
        if has_lists and of_request:
            raise ConfigError(
                f"feature {feature!r} reads {of_request[0]!r} of the request and another column of the item, which "
                "scoring does not take together",
                "make that column in the log, or leave the feature out",
            )
        return "item" if all(column in self.columns["item"] for column in columns) else "row"


def _restrict(fitted: FittedTransform, is_kept: Iterable[bool]) -> FittedTransform:
    """The transform of some of the features."""
    features = tuple(feature for feature, kept in zip(fitted.schema.features, is_kept, strict=True) if kept)
    return replace(fitted, schema=fitted.schema.model_copy(update={"features": features}))
