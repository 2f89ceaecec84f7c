"""The front end: embedding tables and a projection of the numeric inputs, side by side, and what mixes them at once.

Shapes: B rows, D numeric inputs, I width of the result, F pooled features, G groups of tables, K embedding width,
N values of a history.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

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

from models.combination import Attended as Attended
from models.combination import Combination, mean_of
from models.inputs import Inputs
from models.layers import Untraced
from models.target_attention import sum_segments


class FrontEnd(Combination):
    """([B, D], sparse) -> [B, I]: a part per feature and then the dense part, as `inputs` says; mixed by `interaction`.

    With more than one of `groups`, which have tables of their own, the result is [B, G, I]; `table_of` gives the
    configured table of each. `sparse` has the keys `feature_names` in their order.

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
        super().__init__(tables, feature_names, groups, attention or {})
        if not tables and not num_dense:
            raise ValueError("a front end needs at least one table or one numeric input")
        for name in weighted:
            if name in self.sequence_features:
                raise ValueError(f"{name!r} is weighted, and its table is read by attention, which knows no weights")
        self._is_weighted = bool(weighted)
        self._num_features = len(feature_names)
        self._bag_places = [place for place, name in enumerate(feature_names) if name in self.bag_features]

        self.table_of: dict[str, str] = {}
        bags: list[EmbeddingBagConfig] = []
        sequences: list[EmbeddingBagConfig] = []
        for group in groups:
            for table in tables:
                own = replace(table, name=self.own_name(table.name, group))
                self.table_of[own.name] = table.name
                (sequences if table.name in self.attended_tables else bags).append(own)
        # torchrec names the output of a feature that several tables read by feature and table.
        self._keys = [
            {name: f"{name}@{self.own_name(table.name, group)}" for name, table in self.table_of_feature.items()}
            if self.num_groups > 1
            else {name: name for name in self.table_of_feature}
            for group in groups
        ]
        self.embeddings = (
            EmbeddingBagCollection(tables=bags, is_weighted=self._is_weighted, device=device) if bags else None
        )
        self.sequences = _sequence_collection(sequences, device) if sequences else None
        # Pooled features beside each other that are as wide: (how many, their width).
        widths = (self.table_of_feature[name].embedding_dim for name in self.bag_features)
        self._bag_runs = [(len(list(run)), width) for width, run in groupby(widths)]
        self._combining = Untraced(self._combine)
        self.add_layers(num_dense, dense_width, interaction)

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
            weight_BF = self._bag_weights(sparse)
            for part, sums_BI in zip(parts, self._sums(bags), strict=True):
                part += self._means(sums_BI, weight_BF)
        if sequences is not None:
            for place, (part, keys) in enumerate(zip(parts, self._keys, strict=True)):
                values = {name: sequences[keys[name]] for name in self.sequence_features}
                part += [self._read(name, place, values) for name in self.sequence_features]
        if self.projection is not None:
            for part, dense_BI in zip(parts, self.projection(dense).chunk(self.num_groups, dim=1), strict=True):
                part.append(dense_BI)
        groups = [torch.cat(part, dim=1) for part in parts]
        return self.mix(groups[0] if self.num_groups == 1 else torch.stack(groups, dim=1))

    @property
    def collections(self) -> list[nn.Module]:
        """The collections of tables, which are sharded."""
        return [part for part in (self.embeddings, self.sequences) if part is not None]

    def _sums(self, bags: KeyedTensor) -> list[Tensor]:
        """The pooled features of each group in their order; that of a sharded collection depends on its plan."""
        names = [[keys[name] for name in self.bag_features] for keys in self._keys]
        if list(bags.keys()) == names[0]:
            return [bags.values()]
        sums: list[Tensor] = KeyedTensor.regroup([bags], names)
        return sums

    def _bag_weights(self, sparse: KeyedJaggedTensor) -> Tensor:
        """The sum of the weights of each pooled feature of a row, or how many values it has, or 1 where that is 0.

        [B, F] for F pooled features.
        """
        sums = sparse.lengths()
        if self._is_weighted:
            sums = sum_segments(sparse.weights(), sums)
        sums_FB = sums.view(self._num_features, -1)[self._bag_places]
        # Floats row by row: dividing by other types, or over strides, takes many times as long.
        return torch.where(sums_FB > 0, sums_FB, 1).T.to(torch.float32, memory_format=torch.contiguous_format)

    def _means(self, sums_BI: Tensor, weight_BF: Tensor) -> list[Tensor]:
        """The sums of all pooled features over their weights, those of features that are as wide in one piece."""
        sums = torch.split(sums_BI, [count * width for count, width in self._bag_runs], dim=1)
        weights = torch.split(weight_BF, [count for count, _ in self._bag_runs], dim=1)
        return [
            (part_BI.view(part_BI.shape[0], *run) / weight.unsqueeze(2)).flatten(1)
            for part_BI, weight, run in zip(sums, weights, self._bag_runs, strict=True)
        ]

    def _read(self, name: str, place: int, values: Mapping[str, JaggedTensor]) -> Tensor:
        """One feature of an attended table: [B, K], by attention, or the mean as in every other table."""
        own_NK, lengths_B = values[name].values(), values[name].lengths()
        if name not in self.attention:
            return mean_of(own_NK, lengths_B)
        target = values[self.attention[name].target]
        target_BK = sum_segments(target.values(), target.lengths())
        return self.read(name, place, own_NK, lengths_B, target_BK)


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
