"""The least that a training step can take on this machine: what its model needs, at the speeds that were measured.

    python -m pipeline.benchmark.train.floor CONFIG OUT.json

Work and shapes come from one real batch through the model that the configuration builds, forwards and backwards.
"""

import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from models.batch import Batch
from models.products import has_onednn_product, onednn_product
from pipeline.assemble import build_model
from pipeline.benchmark.machine import measure_copy
from pipeline.run_config import load_run_config
from pipeline.shards.manifest import read_index
from pipeline.train.batches import Batches
from pipeline.train.run import one_rank_group

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Products that together have this share of the FLOPs are timed; the others are too small to say what the cores can do.
TIMED_SHARE = 0.95
NUM_TRIALS = 20
# What follows a product reads its output, which is read again backwards; the gradient of it is written and read.
ACTIVATION_PASSES = 5
# A batched product [N, B, I] x [N, I, H] as (N, B, I, H).
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Need:
    """What a step on a batch needs: `flops` of products forwards and backwards, the float32 bytes of the outputs of the
    products, the rows of tables that it reads, and the shapes of the products forwards."""

    flops: int
    activation_bytes: int
    num_ids: int
    shapes: dict[Shape, int]


@dataclass(frozen=True)
class Floor:
    """`seconds` a step, by precision: flops / flops_per_second + activation_passes * activation_bytes /
    copy_bytes_per_second + 2 * gather_seconds + scatter_seconds.

    In bfloat16 activations have half the bytes. Rows of tables are gathered forwards, and gathered and scattered
    backwards, by themselves and without the state of an optimizer.
    """

    flops: int
    activation_bytes: int
    activation_passes: int
    flops_per_second: dict[str, float]
    copy_bytes_per_second: float
    gather_seconds: float
    scatter_seconds: float
    seconds: dict[str, float]


def need_of(model: nn.Module, batch: Batch) -> Need:
    """Counts one step of a model, without its loss and its optimizers."""
    with FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: _linear_flops}) as counter:
        # In bfloat16 the products of equal networks are one.
        with _Products() as products, torch.autocast("cpu", torch.bfloat16):
            outputs = model(batch.dense, batch.sparse)
        outputs.sum().backward()
    num_bytes = sum(
        count * num * rows * width * TYPES["float32"].itemsize
        for (num, rows, _, width), count in products.shapes.items()
    )
    return Need(counter.get_total_flops(), num_bytes, batch.sparse.values().numel(), dict(products.shapes))


def measure_floor(need: Need, num_rows: int, embedding_dim: int, num_threads: int) -> Floor:
    """What a need takes on this machine, with tables of `num_rows` rows in all; takes seconds."""
    torch.set_num_threads(num_threads)
    rates = {name: _product_rate(need.shapes, type_) for name, type_ in TYPES.items()}
    copy_rate = measure_copy(num_threads)
    table, ids = torch.zeros(num_rows, embedding_dim), torch.randint(num_rows, (need.num_ids,))
    rows = torch.zeros(need.num_ids, embedding_dim)
    gather = _best_seconds(lambda: torch.index_select(table, 0, ids, out=rows))
    scatter = _best_seconds(lambda: table.index_copy_(0, ids, rows))
    seconds = {}
    for name, type_ in TYPES.items():
        moved = ACTIVATION_PASSES * need.activation_bytes * type_.itemsize / TYPES["float32"].itemsize
        seconds[name] = need.flops / rates[name] + moved / copy_rate + 2 * gather + scatter
    return Floor(need.flops, need.activation_bytes, ACTIVATION_PASSES, rates, copy_rate, gather, scatter, seconds)


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the shapes of the products that are made within."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: Counter[Shape] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm", "_linear_pointwise"):
            left, right = (args[0], args[1].mT) if name == "_linear_pointwise" else args[-2:]
            num = left.shape[0] if left.dim() == 3 else 1
            self.shapes[num, *left.shape[-2:], right.shape[-1]] += 1
        return func(*args, **(kwargs or {}))


def _linear_flops(left_shape: Sequence[int], right_shape: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(left_shape) * right_shape[0]


def _product_rate(shapes: dict[Shape, int], type_: torch.dtype) -> float:
    """FLOPs per second of the largest products, in memory that is there already where torch allows that."""
    flops = {shape: count * 2 * shape[0] * shape[1] * shape[2] * shape[3] for shape, count in shapes.items()}
    done, seconds = 0, 0.0
    for shape in sorted(flops, key=lambda one: -flops[one]):
        if done >= TIMED_SHARE * sum(flops.values()):
            break
        num, rows, inner, width = shape
        left, right = torch.ones(num, rows, inner, dtype=type_), torch.ones(num, inner, width, dtype=type_)
        done += flops[shape]
        ways = _products(left, right, torch.empty(num, rows, width, dtype=type_))
        seconds += shapes[shape] * min(map(_best_seconds, ways))
    return done / seconds


def _products(left: Tensor, right: Tensor, out: Tensor) -> list[Callable[[], object]]:
    """The ways to make a product, of which the fastest counts."""
    is_one = len(left) == 1
    ways: list[Callable[[], object]] = [
        (lambda: torch.mm(left[0], right[0], out=out[0])) if is_one else (lambda: torch.bmm(left, right, out=out))
    ]
    if has_onednn_product(left.dtype):
        ways.append(lambda: [onednn_product(one, other.T) for one, other in zip(left, right, strict=True)])
    return ways


def _best_seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(NUM_TRIALS):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def main(config_path: str, out: str) -> None:
    print("floor ...", flush=True)
    config = load_run_config(config_path)
    index = read_index(config.dataset_dir)
    model = build_model(index, config.model, config.seed, torch.device("cpu"))
    with one_rank_group(config):
        batch = next(Batches(config, index).training(0, 0))
    num_rows = sum(config.model.front_end.num_embeddings.values())
    num_threads = len(os.sched_getaffinity(0))
    floor = measure_floor(need_of(model, batch), num_rows, config.model.front_end.embedding_dim, num_threads)
    Path(out).write_text(json.dumps(asdict(floor)))


if __name__ == "__main__":
    main(*sys.argv[1:])
