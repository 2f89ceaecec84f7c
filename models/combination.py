"""What a front end makes of the rows of its tables: which features are read how, in which order they come, what mixes
them. The same where a model is trained and where it serves; no torchrec.

Shapes: B rows, K embedding width, N values of a history, I width of the result.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from models.inputs import DENSE_PART, Inputs
from models.target_attention import TargetAttention, sum_segments


class Attended(NamedTuple):
    """How a history is read: by attention to the feature `target`, with an activation unit of these widths."""

    target: str
    widths: tuple[int, ...]


class Table(Protocol):
    """What is asked of the configuration of a table; torchrec's have it."""

    @property
    def name(self) -> str: ...
    @property
    def embedding_dim(self) -> int: ...
    @property
    def feature_names(self) -> list[str]: ...


class Combination(nn.Module):
    """The part of a front end that is no table. `add_layers` makes its layers, after those of the tables.

    Each of `groups` has every table for itself. The tables of a group are called `<table>@<group>`, those of the group
    "" by their own name. Features of a table that a history is read from by attention come after all others.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        feature_names: Sequence[str],
        groups: Sequence[str],
        attention: Mapping[str, Attended],
    ) -> None:
        super().__init__()
        self.groups = tuple(groups)
        self.num_groups = len(groups)
        self.attention = dict(attention)
        self.table_of_feature = {feature: table for table in tables for feature in table.feature_names}
        _check_attention(self.attention, self.table_of_feature)
        self.attended_tables = {self.table_of_feature[history].name for history in self.attention}
        is_attended = {name: self.table_of_feature[name].name in self.attended_tables for name in feature_names}
        self.bag_features = [name for name in feature_names if not is_attended[name]]
        self.sequence_features = [name for name in feature_names if is_attended[name]]

    def own_name(self, table: str, group: str) -> str:
        """What a group calls its table."""
        return f"{table}@{group}" if group else table

    def add_layers(self, num_dense: int, dense_width: int, interaction: Callable[[Inputs], nn.Module] | None) -> None:
        """Activation units, the projection of the numeric inputs, and the interaction; then `inputs` is known."""
        self.num_dense = num_dense
        dims = {name: table.embedding_dim for name, table in self.table_of_feature.items()}
        self.activation_units = nn.ModuleDict(
            {
                f"{history}_{place}": TargetAttention(dims[history], chosen.widths)
                for place in range(self.num_groups)
                for history, chosen in self.attention.items()
            }
        )
        projection = nn.Linear(num_dense, self.num_groups * dense_width) if num_dense else None
        self.projection = nn.Sequential(projection, nn.SiLU()) if projection else None
        widths = {name: dims[name] for name in (*self.bag_features, *self.sequence_features)}
        self.parts = Inputs(widths | ({DENSE_PART: dense_width} if num_dense else {}), self.num_groups)
        self.interaction = interaction(self.parts) if interaction else None
        self.inputs: Inputs = self.interaction.outputs if self.interaction else self.parts  # type: ignore[assignment]

    def read(self, history: str, place: int, own_NK: Tensor, lengths_B: Tensor, target_BK: Tensor) -> Tensor:
        """A history of the group at `place`, by attention to the target: [B, K]."""
        read_BK: Tensor = self.activation_units[f"{history}_{place}"](own_NK, lengths_B, target_BK)
        return read_BK

    def mix(self, x: Tensor) -> Tensor:
        """[B, I] or [B, G, I], the parts in the order of `parts`, after the interaction if there is one."""
        mixed: Tensor = x if self.interaction is None else self.interaction(x)
        return mixed


def mean_of(values_NK: Tensor, lengths_B: Tensor) -> Tensor:
    """The mean of each row's values, zeros for a row without any: [B, K]."""
    return sum_segments(values_NK, lengths_B) / lengths_B.clamp(min=1).unsqueeze(1)


def _check_attention(attention: Mapping[str, Attended], table_of_feature: Mapping[str, Table]) -> None:
    """Raises a ValueError where a history and its target do not share a table, or attended tables differ in width."""
    for history, chosen in attention.items():
        for name in (history, chosen.target):
            if name not in table_of_feature:
                raise ValueError(f"attention names {name!r}, which is not a sparse feature")
        if table_of_feature[history] is not table_of_feature[chosen.target]:
            raise ValueError(f"attention: {history!r} and its target {chosen.target!r} do not share a table")
    widths = {table_of_feature[history].embedding_dim for history in attention}
    if len(widths) > 1:
        raise ValueError(f"attention: the tables of the histories have widths {sorted(widths)}, and must have one")
