"""A trained model as it serves: plain torch, no torchrec; for rows, or for pairs of a request and an item.

Shapes: B rows or pairs, D numeric inputs, N values of all rows one after the other, K embedding width, G groups of
tables, I input width, O outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.combination import Attended, Combination
from models.inputs import DENSE_PART, Inputs
from models.layers import Towers
from models.tables import ServingTable, TableType
from models.target_attention import sum_segments
from models.tasks import Task, check_tasks, predictions

# The names of inputs: the numbers of all rows, and of each feature its ids and, where a row may have several, how many
# each row has and what they weigh.
DENSE, IDS, LENGTHS, WEIGHTS = "dense", "ids.", "lengths.", "weights."


@dataclass(frozen=True)
class TableConfig:
    """An embedding table and the features that are looked up in it."""

    name: str
    num_embeddings: int
    embedding_dim: int
    feature_names: list[str]


def lengths_of(feature: str, inputs: Mapping[str, Tensor]) -> Tensor:
    """How many values each row has of a feature: [B]."""
    lengths_B = inputs.get(LENGTHS + feature)
    return torch.ones_like(inputs[IDS + feature]) if lengths_B is None else lengths_B


class ServingFrontEnd(Combination):
    """What `FrontEnd` gives, from tables that only serve: [B, I], or [B, G, I] with more than one group.

    Inputs by name: `dense` [B, D]; `ids.<feature>` [B] of a feature with one value per row, or [N] together with
    `lengths.<feature>` [B]; `weights.<feature>` [N] of a weighted one.
    """

    def __init__(
        self,
        tables: Sequence[TableConfig],
        feature_names: Sequence[str],
        num_dense: int,
        dense_width: int,
        *,
        table_type: TableType = "float32",
        groups: Sequence[str] = ("",),
        attention: Mapping[str, Attended] | None = None,
        interaction: Callable[[Inputs], nn.Module] | None = None,
    ) -> None:
        super().__init__(tables, feature_names, groups, attention or {})
        self.tables = nn.ModuleDict(
            {
                self.own_name(table.name, group): ServingTable(table.num_embeddings, table.embedding_dim, table_type)
                for group in groups
                for table in tables
            }
        )
        self.add_layers(num_dense, dense_width, interaction)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        parts = self.look_up(inputs)
        if self.projection is not None:
            parts[DENSE_PART] = self.by_group(self.projection(inputs[DENSE]))
        x_GBI = torch.cat([parts[name] for name in self.parts.widths], dim=2)
        return self.mix(x_GBI[0] if self.num_groups == 1 else x_GBI.transpose(0, 1))

    def look_up(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is read for each feature of the inputs, each [G, B, K].

        A history whose target is not among the inputs is left out: it is read by `attend` for each pair.
        """
        present = [name for name in self.table_of_feature if IDS + name in inputs]
        parts = {name: self._mean(name, inputs) for name in present if name not in self.attention}
        for name in self.attention:
            if name in present and self.attention[name].target in present:
                values_GNK, target_GBK = self.values(name, inputs), self.target(name, inputs)
                parts[name] = self.attend(name, values_GNK, lengths_of(name, inputs), target_GBK)
        return parts

    def attend(self, history: str, value_GNK: Tensor, lengths_B: Tensor, target_GBK: Tensor) -> Tensor:
        """A history read by attention to its target: [G, B, K]."""
        read = [
            self.read(history, place, value_NK, lengths_B, target_BK)
            for place, (value_NK, target_BK) in enumerate(zip(value_GNK, target_GBK, strict=True))
        ]
        return torch.stack(read)

    def values(self, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """The rows of the tables for all values of a feature: [G, N, K]."""
        return torch.stack([table.rows(inputs[IDS + name]) for table in self._tables_of(name)])

    def target(self, history: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """What a history is read by attention to: [G, B, K]."""
        return self._sum(self.attention[history].target, inputs)

    def by_group(self, projected: Tensor) -> Tensor:
        """[B, G * width] -> [G, B, width]."""
        return projected.view(projected.shape[0], self.num_groups, -1).transpose(0, 1)

    def _tables_of(self, name: str) -> list[ServingTable]:
        table = self.table_of_feature[name].name
        return [self.tables[self.own_name(table, group)] for group in self.groups]  # type: ignore[misc]

    def _sum(self, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
        ids, lengths_B = inputs[IDS + name], inputs.get(LENGTHS + name)
        if lengths_B is None:
            return self.values(name, inputs)
        weights_N = inputs.get(WEIGHTS + name)
        return torch.stack([table.sums(ids, lengths_B, weights_N) for table in self._tables_of(name)])

    def _mean(self, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
        sum_GBK, lengths_B = self._sum(name, inputs), inputs.get(LENGTHS + name)
        if lengths_B is None:
            return sum_GBK
        weights_N = inputs.get(WEIGHTS + name)
        weight_B = lengths_B if weights_N is None else sum_segments(weights_N, lengths_B)
        return sum_GBK / torch.where(weight_B > 0, weight_B, 1).unsqueeze(1)


class ServingModel(nn.Module):
    """The outputs that `models.tasks.predictions` gives of a `MultiTaskModel`, of rows or of pairs, each [B]."""

    def __init__(
        self, front_end: ServingFrontEnd, body: nn.Module, tasks: Sequence[Task], tower_widths: Sequence[int]
    ) -> None:
        super().__init__()
        check_tasks(tasks)
        self.tasks = tuple(tasks)
        self.front_end = front_end
        self.body = body
        self.towers = Towers([task.num_outputs for task in tasks], int(body.output_width), tower_widths)  # type: ignore[arg-type]

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return predictions(self.tasks, self.logits(self.front_end(inputs).to(self.dtype)))

    def logits(self, x: Tensor) -> Tensor:
        """[B, O] in float32, of the inputs of rows or of pairs."""
        logit_BO: Tensor = self.towers(self.body(x))
        return logit_BO.float()

    @property
    def dtype(self) -> torch.dtype:
        """What body and towers compute in."""
        return self.towers.output.bias_N1H.dtype

    def compute_in(self, dtype: torch.dtype) -> None:
        """Has body and towers compute in another type; the front end stays in float32."""
        self.body.to(dtype)
        self.towers.to(dtype)

    def load_trained(self, state: Mapping[str, Tensor]) -> None:
        """Takes the values of a trained `MultiTaskModel` from its state dict.

        Of each table so many rows as there are here: later ones belong to no value.
        """
        rest = {name: value for name, value in self.state_dict().items() if name.startswith("front_end.tables.")}
        for own_name, table in self.front_end.tables.items():
            assert isinstance(table, ServingTable)
            (weight_RK,) = [
                state[name]
                for kind in ("embeddings.embedding_bags", "sequences.embeddings")
                if (name := f"front_end.{kind}.{own_name}.weight") in state
            ]
            table.fill(weight_RK[: len(table.weight)])
        collections = ("front_end.embeddings.", "front_end.sequences.")
        rest |= {name: value for name, value in state.items() if not name.startswith(collections)}
        self.load_state_dict(rest)
