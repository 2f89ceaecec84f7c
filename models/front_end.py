"""The front end: embedding tables and a projection of the numeric inputs, side by side, and what mixes them at once.

Shapes: B rows, D numeric inputs, I width of the result, G groups of tables, K embedding width, N values of a history.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    JaggedTensor,
    KeyedJaggedTensor,
    KeyedTensor,
)

from models.inputs import DENSE_PART, Inputs
from models.layers import Untraced
from models.target_attention import TargetAttention, sum_segments


class Attended(NamedTuple):
    """How a history is read: by attention to the feature `target`, with an activation unit of these widths."""

    target: str
    widths: tuple[int, ...]


class FrontEnd(nn.Module):
    """([B, D], sparse) -> [B, I]: a part per feature and then the dense part, as `inputs` says; mixed by `interaction`.

    Each of `groups` has every table for itself: with more than one the result is [B, G, I]. The tables of a group are
    called `<table>@<group>`, those of the group "" by their own name; `table_of` gives the configured table of each.
    Features of a table that a history is read from by attention come after all others. `sparse` has the keys
    `feature_names` in their order.

    The tables pool by sum and the mean is taken here, so that it is the same under every sharding plan: torchrec 1.8
    does not divide the sums of grid-sharded tables, and adds 1e-6 to the counts of row-wise ones. With `weighted`
    features all ids of `sparse` have weights, and each mean is the weighted one, zeros where all weights are 0.
    """

    def __init__(
        self,
        tables: Sequence[EmbeddingBagConfig],
        feature_names: Sequence[str],
        num_dense: int,
        dense_width: int,
        device: torch.device,
        *,
        groups: Sequence[str] = ("",),
        attention: Mapping[str, Attended] | None = None,
        weighted: Collection[str] = (),
        interaction: Callable[[Inputs], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if not tables and not num_dense:
            raise ValueError("a front end needs at least one table or one numeric input")
        self.num_groups = len(groups)
        self.attention = dict(attention or {})
        table_of_feature = {feature: table for table in tables for feature in table.feature_names}
        _check_attention(self.attention, table_of_feature)
        attended = {table_of_feature[history].name for history in self.attention}
        for name in weighted:
            if table_of_feature[name].name in attended:
                raise ValueError(f"{name!r} is weighted, and its table is read by attention, which knows no weights")
        self._is_weighted = bool(weighted)
        self.bag_features = [name for name in feature_names if table_of_feature[name].name not in attended]
        self._num_features = len(feature_names)
        self._bag_places = [place for place, name in enumerate(feature_names) if name in self.bag_features]
        self.sequence_features = [name for name in feature_names if table_of_feature[name].name in attended]

        self.table_of: dict[str, str] = {}
        bags: list[EmbeddingBagConfig] = []
        sequences: list[EmbeddingBagConfig] = []
        for group in groups:
            for table in tables:
                own = replace(table, name=f"{table.name}@{group}" if group else table.name)
                self.table_of[own.name] = table.name
                (sequences if table.name in attended else bags).append(own)
        # torchrec names the output of a feature that several tables read by feature and table.
        self._keys = [
            {name: f"{name}@{table.name}{f'@{group}' if group else ''}" for name, table in table_of_feature.items()}
            if self.num_groups > 1
            else {name: name for name in table_of_feature}
            for group in groups
        ]
        self.embeddings = (
            EmbeddingBagCollection(tables=bags, is_weighted=self._is_weighted, device=device) if bags else None
        )
        self.sequences = _sequence_collection(sequences, device) if sequences else None
        self.activation_units = nn.ModuleDict(
            {
                f"{history}_{place}": TargetAttention(table_of_feature[history].embedding_dim, chosen.widths)
                for place in range(self.num_groups)
                for history, chosen in self.attention.items()
            }
        )
        bag_widths = [table_of_feature[name].embedding_dim for name in self.bag_features]
        self.bag_widths: Tensor
        self.register_buffer("bag_widths", torch.tensor(bag_widths), persistent=False)
        self._combining = Untraced(self._combine)
        projection = nn.Linear(num_dense, self.num_groups * dense_width) if num_dense else None
        self.projection = nn.Sequential(projection, nn.SiLU()) if projection else None

        widths = {n: table_of_feature[n].embedding_dim for n in (*self.bag_features, *self.sequence_features)}
        inputs = Inputs(widths | ({DENSE_PART: dense_width} if num_dense else {}), self.num_groups)
        self.interaction = interaction(inputs) if interaction else None
        self.inputs: Inputs = self.interaction.outputs if self.interaction else inputs  # type: ignore[assignment]

    def forward(self, dense: Tensor, sparse: KeyedJaggedTensor) -> Tensor:
        bags = None if self.embeddings is None else self.embeddings(sparse)
        sequences = None if self.sequences is None else self.sequences(sparse)
        x: Tensor = self._combining(bags, sequences, dense, sparse)
        return x

    def _combine(
        self,
        bags: KeyedTensor | None,
        sequences: Mapping[str, JaggedTensor] | None,
        dense: Tensor,
        sparse: KeyedJaggedTensor,
    ) -> Tensor:
        parts: list[list[Tensor]] = [[] for _ in range(self.num_groups)]
        if bags is not None:
            # By key: the order of a sharded collection's own values depends on the sharding plan.
            names = [[keys[name] for name in self.bag_features] for keys in self._keys]
            weight_BI = self._bag_weights(sparse)
            for part, sums_BI in zip(parts, KeyedTensor.regroup([bags], names), strict=True):
                part.append(sums_BI / weight_BI)
        if sequences is not None:
            for place, (part, keys) in enumerate(zip(parts, self._keys, strict=True)):
                values = {name: sequences[keys[name]] for name in self.sequence_features}
                part += [self._read(name, place, values) for name in self.sequence_features]
        if self.projection is not None:
            for part, dense_BI in zip(parts, self.projection(dense).chunk(self.num_groups, dim=1), strict=True):
                part.append(dense_BI)
        groups = [torch.cat(part, dim=1) for part in parts]
        x = groups[0] if self.num_groups == 1 else torch.stack(groups, dim=1)
        mixed: Tensor = x if self.interaction is None else self.interaction(x)
        return mixed

    @property
    def collections(self) -> list[nn.Module]:
        """The collections of tables, which are sharded."""
        return [part for part in (self.embeddings, self.sequences) if part is not None]

    def _bag_weights(self, sparse: KeyedJaggedTensor) -> Tensor:
        """The sum of the weights of each pooled feature of a row, or how many values it has, or 1 where that is 0.

        Once per column of the feature: [B, I].
        """
        sums = sparse.lengths()
        if self._is_weighted:
            sums = sum_segments(sparse.weights(), sums)
        sums_FB = sums.view(self._num_features, -1)[self._bag_places]
        sums_FB = torch.where(sums_FB > 0, sums_FB, 1)
        weight_BI: Tensor = sums_FB.T.repeat_interleave(self.bag_widths, dim=1)
        return weight_BI

    def _read(self, name: str, place: int, values: Mapping[str, JaggedTensor]) -> Tensor:
        """One feature of an attended table: [B, K], by attention, or the mean as in every other table."""
        own_NK, lengths_B = values[name].values(), values[name].lengths()
        if name not in self.attention:
            mean_BK: Tensor = sum_segments(own_NK, lengths_B) / lengths_B.clamp(min=1).unsqueeze(1)
            return mean_BK
        target = values[self.attention[name].target]
        target_BK = sum_segments(target.values(), target.lengths())
        read_BK: Tensor = self.activation_units[f"{name}_{place}"](own_NK, lengths_B, target_BK)
        return read_BK


def _sequence_collection(tables: Sequence[EmbeddingBagConfig], device: torch.device) -> EmbeddingCollection:
    configs = [
        EmbeddingConfig(
            name=table.name,
            embedding_dim=table.embedding_dim,
            num_embeddings=table.num_embeddings,
            feature_names=list(table.feature_names),
        )
        for table in tables
    ]
    return EmbeddingCollection(tables=configs, device=device)


def _check_attention(attention: Mapping[str, Attended], table_of_feature: Mapping[str, EmbeddingBagConfig]) -> None:
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
