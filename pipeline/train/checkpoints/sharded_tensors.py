"""Copies and leading rows of tensors that lie in parts on several ranks."""

import copy
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor  # type: ignore[attr-defined]

CPU = torch.device("cpu")


def map_tensors(state: dict[str, object], function: Callable[[Tensor | ShardedTensor], object]) -> dict[str, object]:
    """A nested dict of tensors with `function` of each."""
    return {
        key: map_tensors(value, function) if isinstance(value, dict) else function(value)  # type: ignore[arg-type]
        for key, value in state.items()
    }


def local_tensors(state: Mapping[str, object], path: str = "") -> Iterator[tuple[str, Tensor]]:
    """What this rank holds of the tensors in a nested dict, each with its name: the keys joined by dots."""
    for key, value in state.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            yield from local_tensors(value, name)
        elif isinstance(value, ShardedTensor):
            yield from ((name, shard.tensor) for shard in value.local_shards())
        elif isinstance(value, Tensor):
            yield name, value


def copy_to_cpu(value: Tensor | ShardedTensor) -> Tensor | ShardedTensor:
    """A copy in host memory that later steps do not change. No collective."""
    if not isinstance(value, ShardedTensor):
        return value.detach().to(CPU, copy=True)

    def on_cpu(metadata: ShardMetadata) -> ShardMetadata:
        moved = copy.deepcopy(metadata)
        moved.placement._device = CPU  # type: ignore[union-attr]
        return moved

    shards = [Shard(s.tensor.detach().to(CPU, copy=True), on_cpu(s.metadata)) for s in value.local_shards()]
    return _rebuilt(value, shards, [on_cpu(m) for m in value.metadata().shards_metadata], value.size())


def first_rows(value: Tensor | ShardedTensor, num_rows: int) -> Tensor | ShardedTensor:
    """The first rows of a tensor, in the same memory. No collective."""
    if not isinstance(value, ShardedTensor):
        return value[:num_rows]

    def cut(metadata: ShardMetadata) -> ShardMetadata | None:
        rows = min(metadata.shard_sizes[0], num_rows - metadata.shard_offsets[0])
        if rows <= 0:
            return None
        left = copy.deepcopy(metadata)
        left.shard_sizes[0] = rows
        return left

    shards = [
        Shard(shard.tensor[: left.shard_sizes[0]], left)
        for shard in value.local_shards()
        if (left := cut(shard.metadata)) is not None
    ]
    metadata = [left for m in value.metadata().shards_metadata if (left := cut(m)) is not None]
    return _rebuilt(value, shards, metadata, torch.Size([num_rows, *value.size()[1:]]))


def _rebuilt(
    value: ShardedTensor, shards: list[Shard], shards_metadata: list[ShardMetadata], size: torch.Size
) -> ShardedTensor:
    metadata = copy.copy(value.metadata())
    metadata.shards_metadata = shards_metadata
    metadata.size = size
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        shards, sharded_tensor_metadata=metadata, process_group=dist.GroupMember.WORLD
    )
