"""The rules of a ranking, parsed: the fusion of the outputs, the filters and the caps."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import nearest
from pipeline.errors import ConfigError
from pipeline.score.config import CapConfig, ScoreConfig
from pipeline.score.formula import Filter, Fusion, parse_filter, parse_fusion


@dataclass(frozen=True)
class Rules:
    """How candidates become ranks; `columns` are the raw ones that this takes.

    `early` are filters on raw columns alone: what they remove need not be predicted.
    """

    fusion: Fusion
    early: tuple[Filter, ...]
    late: tuple[Filter, ...]
    caps: tuple[CapConfig, ...]
    top_k: int
    columns: tuple[str, ...]


def parse_rules(section: ScoreConfig, outputs: Sequence[str], columns: Sequence[str]) -> Rules:
    """The rules of a section; `columns` are those that it may name beside the outputs.

    Raises:
        ConfigError: a formula or a filter is not in its grammar, or one of them or a cap names something else.
    """
    fusion = parse_fusion(section.fusion, outputs, columns)
    filters = [parse_filter(text, outputs, columns) for text in section.filters]
    for cap in section.caps:
        if cap.column not in columns:
            raise ConfigError(
                f"score.caps names column {cap.column!r}, which neither the candidates nor a table has",
                nearest(cap.column, columns).rstrip("?"),
            )
    named = {*fusion.names, *(name for one in filters for name in one.names)} - {*outputs}
    return Rules(
        fusion,
        tuple(one for one in filters if not one.names & set(outputs)),
        tuple(one for one in filters if one.names & set(outputs)),
        section.caps,
        section.top_k,
        tuple(sorted({*named, *(cap.column for cap in section.caps)})),
    )
