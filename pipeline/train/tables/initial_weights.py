"""Starting values of the embedding tables: a function of (seed, table, row), whatever the sharding plan.

torchrec draws them shard by shard, so that they depend on plan and world size; these overwrite what it drew.
"""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor  # type: ignore[attr-defined]

from pipeline.feature_kinds import UNSEEN_ROW

# A fixed bound and whole blocks keep old rows' values when a table grows.
BOUND = 0.05
BLOCK_ROWS = 65_536


@torch.no_grad()
def fill_tables(model: nn.Module, seed: int) -> None:
    """Fills every embedding table of a sharded or plain model, in place. The unseen row starts at zero."""
    for name, value in model.state_dict().items():
        table = table_of(name)
        if table is None:
            continue
        for shard, first_row, first_column in _parts(value):
            _fill(shard, table, seed, first_row, first_column, value.size()[1])


def table_of(state_name: str) -> str | None:
    """The table that a key of a state dict is the weight of, or None."""
    parts = state_name.split(".")
    is_weight = len(parts) >= 3 and parts[-1] == "weight" and parts[-3] in ("embedding_bags", "embeddings")
    return parts[-2] if is_weight else None


def _parts(value: Tensor | ShardedTensor) -> Iterator[tuple[Tensor, int, int]]:
    if isinstance(value, ShardedTensor):
        for shard in value.local_shards():
            yield shard.tensor, shard.metadata.shard_offsets[0], shard.metadata.shard_offsets[1]
    else:
        yield value, 0, 0


def _fill(shard: Tensor, table: str, seed: int, first_row: int, first_column: int, dim: int) -> None:
    end_row = first_row + shard.shape[0]
    for block in range(first_row // BLOCK_ROWS, -(-end_row // BLOCK_ROWS)):
        digest = hashlib.sha256(f"{seed}|{table}|{block}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        values = torch.empty(BLOCK_ROWS, dim).uniform_(-BOUND, BOUND, generator=generator)
        if block == 0:
            values[UNSEEN_ROW] = 0.0
        low, high = max(first_row, block * BLOCK_ROWS), min(end_row, (block + 1) * BLOCK_ROWS)
        rows = values[low - block * BLOCK_ROWS : high - block * BLOCK_ROWS]
        shard[low - first_row : high - first_row].copy_(rows[:, first_column : first_column + shard.shape[1]])
