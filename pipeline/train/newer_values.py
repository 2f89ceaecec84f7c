"""Values that are newer than a model: they take the unseen row, as they would in serving, and are counted."""

from collections.abc import Mapping

from torchrec import KeyedJaggedTensor

from pipeline.feature_kinds import UNSEEN_ROW
from pipeline.shards.manifest import DatasetIndex


class NewerValues:
    """Of the features whose tables have more rows in the dataset than in `known_rows`, the rows that the model knows.

    `counts` is {feature: {"values", "newer"}} over all batches so far.
    """

    def __init__(self, index: DatasetIndex, known_rows: Mapping[str, int]) -> None:
        tables = {feature.name: feature.table_name for feature in index.data_schema.sparse_features}
        grown = {name: table for name, table in tables.items() if known_rows[table] < index.table_rows[table]}
        self.known_rows = {name: known_rows[table] for name, table in grown.items()}
        self.forget()

    def forget(self) -> None:
        """Begins to count anew."""
        self.counts = {name: {"values": 0, "newer": 0} for name in self.known_rows}

    def take_as_unseen(self, sparse: KeyedJaggedTensor) -> None:
        """Replaces the ids that the model does not know, in place."""
        for name, known_rows in self.known_rows.items():
            ids = sparse[name].values()  # a view
            is_newer = ids >= known_rows
            self.counts[name]["values"] += len(ids)
            self.counts[name]["newer"] += int(is_newer.sum())
            ids[is_newer] = UNSEEN_ROW
