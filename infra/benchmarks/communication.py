"""Counts the bytes that ranks send each other in a training step, and compares them with formulas, by kind of sharding.

    .venv/bin/python infra/benchmarks/communication.py --ranks 4

Real processes over gloo train a small MMoE with the step of `gatehouse train`. Every collective that a step starts
comes by torch's dispatcher with its tensors, and counts as what a ring, or an exchange of pairs, sends of them. The
last column is what the kernel sent over the sockets of a process (TCP_INFO): it has gloo's headers, and gloo makes an
all-reduce of a reduce-scatter, which sends twice as much.
"""

import argparse
import json
import os
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torchrec import EmbeddingBagConfig, KeyedJaggedTensor, PoolingType  # noqa: E402

from models.balancers.fixed import FixedWeights  # noqa: E402
from models.batch import Batch  # noqa: E402
from models.bodies.mmoe import MMoE  # noqa: E402
from models.front_end import FrontEnd  # noqa: E402
from models.heads.independent import IndependentHead  # noqa: E402
from models.multitask import MultiTaskModel  # noqa: E402
from models.tasks import Task  # noqa: E402
from pipeline.train.config import TrainConfig  # noqa: E402
from pipeline.train.distribute import distribute  # noqa: E402
from pipeline.train.known_warnings import silence  # noqa: E402
from pipeline.train.optimizers import dense_parameters  # noqa: E402
from pipeline.train.step import TrainingStep  # noqa: E402
from pipeline.train.training_model import TrainingModel  # noqa: E402

KINDS = ("table_wise", "row_wise", "column_wise", "table_row_wise", "grid", "data_parallel")
PHASES = ("ids", "rows", "gradients", "all-reduce")
TASKS = (Task("click", "binary"), Task("like", "binary"))
NUM_NUMBERS = 13
LENGTH_BYTES, ID_BYTES, FLOAT_BYTES = 4, 8, 4
# What each rank tells each other one beforehand: how many lengths, how many ids, how many rows.
SIZE_BYTES = 3 * 8
# In the first ones the data-parallel wrapper of the ranks agrees on what it sends together.
WARM_UP_STEPS = 4
NUM_STEPS = 10
SETTLE_SECONDS = 0.3
TCP_INFO, BYTES_ACKED = 11, 120


@dataclass(frozen=True)
class Workload:
    """One step: every feature has a table of its own and `ids_per_row` ids in each row, spread evenly over the table.

    Tables that are split by columns have `column_parts` parts.
    """

    num_ranks: int
    ranks_per_node: int
    rows_per_rank: int = 256
    num_tables: int = 8
    ids_per_row: int = 3
    table_rows: int = 4096
    width: int = 16
    column_parts: int = 2


def formula(kind: str, work: Workload, num_dense_parameters: int) -> dict[str, float]:
    """Bytes that a rank sends to others in a step, the mean of all ranks, with every table sharded as `kind`."""
    n, m = work.num_ranks, work.ranks_per_node
    num_nodes = n // m
    others = (n - 1) / n
    lengths = work.num_tables * work.rows_per_rank * LENGTH_BYTES
    ids = work.num_tables * work.rows_per_rank * work.ids_per_row * ID_BYTES
    pooled = work.num_tables * work.rows_per_rank * work.width * FLOAT_BYTES
    replicas = work.num_tables * work.table_rows * work.width * (kind == "data_parallel")
    # How often a rank's lengths and ids are sent, and what it sends of the pooled rows. Parts of rows go to one rank of
    # all, of a node or of each, and their sums over all of them, or over a node and then the node's alone, come back.
    sums_in_node = (m - 1) + (num_nodes - 1) / num_nodes
    lengths_times, ids_times, rows_times = {
        "table_wise": (1, 1, others),
        "column_wise": (work.column_parts, work.column_parts, others),
        "row_wise": (n, 1, n - 1),
        "table_row_wise": (m, 1, sums_in_node),
        "grid": (m * work.column_parts, work.column_parts, sums_in_node),
        "data_parallel": (0, 0, 0),
    }[kind]
    sizes = SIZE_BYTES * (n - 1) * (kind != "data_parallel")
    summed = num_dense_parameters + replicas + 2 * len(TASKS)
    return {
        "ids": sizes + others * (lengths_times * lengths + ids_times * ids),
        "rows": rows_times * pooled,
        "gradients": rows_times * pooled,
        "all-reduce": 2 * others * summed * FLOAT_BYTES,
    }


class CountSent(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up, by phase of the step, the bytes that this rank sends to others in the collectives that it starts."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sent = dict.fromkeys(PHASES, 0.0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            phase, num_bytes = _sent(func._opname, args)
            self.sent[phase] += num_bytes
        return func(*args, **(kwargs or {}))


def _sent(name: str, args: Sequence[Any]) -> tuple[str, float]:
    """The phase of a collective, and what this rank sends of it."""
    if name == "allreduce_":
        size = dist.ProcessGroup.unbox(args[1]).size()
        return "all-reduce", 2 * (size - 1) / size * sum(map(_num_bytes, args[0]))
    given: Tensor = args[1]
    group = dist.ProcessGroup.unbox(args[2])
    others = (group.size() - 1) / group.size()
    phase = "gradients" if torch._C._current_graph_task_id() != -1 else "rows"
    if name == "alltoall_base_":
        own = args[4][group.rank()] / given.numel() if args[4] and given.numel() else 1 - others
        return phase if given.is_floating_point() else "ids", (1 - own) * _num_bytes(given)
    # The parts of one rank: given to it, or given by it to each of the others.
    factor = {"_reduce_scatter_base_": others, "_allgather_base_": group.size() - 1}[name]
    return phase, factor * _num_bytes(given)


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def tcp_bytes_sent() -> int:
    """What the other ends of this process's TCP connections have received."""
    total = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(descriptor))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                    info = one.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 256)
                    total += struct.unpack_from("Q", info, BYTES_ACKED)[0]
        except OSError:  # closed since it was listed
            continue
    return total


def count(work: Workload, kinds: Sequence[str], folder: Path) -> dict[str, dict[str, float]]:
    """By kind: the counted bytes of each phase and "tcp", means of all ranks, and the number of "dense parameters"."""
    store, found = folder / "store", folder / "counted.json"
    store.unlink(missing_ok=True)
    mp.start_processes(  # type: ignore[attr-defined, no-untyped-call]
        _run_rank, args=(work, kinds, str(store), str(found)), nprocs=work.num_ranks, start_method="spawn"
    )
    counted: dict[str, dict[str, float]] = json.loads(found.read_text())
    return counted


def _run_rank(rank: int, work: Workload, kinds: Sequence[str], store: str, found: str) -> None:
    torch.set_num_threads(1)
    silence()
    os.environ["LOCAL_WORLD_SIZE"] = str(work.ranks_per_node)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=work.num_ranks)
    counted = {kind: _count(kind, work) for kind in kinds}
    if rank == 0:
        Path(found).write_text(json.dumps(counted))
    dist.barrier()
    # gloo's threads can outlive the interpreter's end and abort it.
    os._exit(0)


def _count(kind: str, work: Workload) -> dict[str, float]:
    step, batch = _make_step(kind, work), _make_batch(work)
    for number in range(WARM_UP_STEPS):
        step(batch, number)
    with CountSent() as counter:
        step(batch, WARM_UP_STEPS)
    before = _settled_tcp_bytes()
    for number in range(NUM_STEPS):
        step(batch, WARM_UP_STEPS + 1 + number)
    tcp = (_settled_tcp_bytes() - before) / NUM_STEPS
    means = torch.tensor([*(counter.sent[phase] for phase in PHASES), tcp], dtype=torch.float64) / work.num_ranks
    dist.all_reduce(means)
    num_dense = sum(parameter.numel() for parameter in dense_parameters(step.optimizer))
    return dict(zip((*PHASES, "tcp"), means.tolist(), strict=True)) | {"dense parameters": num_dense}


def _settled_tcp_bytes() -> int:
    dist.barrier()
    time.sleep(SETTLE_SECONDS)
    return tcp_bytes_sent()


def _make_step(kind: str, work: Workload) -> TrainingStep:
    names = _features(work)
    tables = [
        EmbeddingBagConfig(
            name=f"{name} table",
            num_embeddings=work.table_rows,
            embedding_dim=work.width,
            feature_names=[name],
            pooling=PoolingType.SUM,
        )
        for name in names
    ]
    front_end = FrontEnd(tables, names, NUM_NUMBERS, 32, torch.device("meta"))
    body: nn.Module = MMoE(front_end.inputs, TASKS, num_experts=4, widths=(64, 32))
    model = MultiTaskModel(front_end, body, TASKS, (32,))
    training_model = TrainingModel(model, IndependentHead(TASKS), FixedWeights(list(TASKS)))
    min_columns = work.width // work.column_parts if kind in ("column_wise", "grid") else None
    config = TrainConfig.model_validate(
        {
            # Row-wise optimizers do not go with splits by columns.
            "sparse_optimizer": {"kind": "adagrad"},
            "sharding": {"tables": {"*": {"type": kind, "min_columns": min_columns}}},
        }
    )
    device = torch.device("cpu")
    ids_per_row = dict.fromkeys(names, work.ids_per_row)
    distributed = distribute(training_model, config, device, 1, work.rows_per_rank, ids_per_row)
    return TrainingStep(distributed.model, training_model, distributed.optimizer, config, NUM_STEPS)


def _features(work: Workload) -> list[str]:
    return [f"feature{number}" for number in range(work.num_tables)]


def _make_batch(work: Workload) -> Batch:
    """Ids that go round the parts of a table split by rows, so that each of them gets as many."""
    rows = work.rows_per_rank
    place = torch.arange(work.num_tables * rows * work.ids_per_row)
    ids = (place % work.num_ranks) * (work.table_rows // work.num_ranks)
    lengths = torch.full((work.num_tables * rows,), work.ids_per_row, dtype=torch.int32)
    sparse = KeyedJaggedTensor(keys=_features(work), values=ids, lengths=lengths)
    return Batch(torch.zeros(rows, NUM_NUMBERS), sparse, torch.zeros(rows, len(TASKS)), torch.ones(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    num_ranks = parser.parse_args().ranks
    work = Workload(num_ranks, ranks_per_node=2 if num_ranks % 2 == 0 else 1)
    print(work)
    with tempfile.TemporaryDirectory() as folder:
        counted = count(work, KINDS, Path(folder))
    print("bytes that a rank sends in a step, by the formula and counted; and over its sockets")
    for kind, found in counted.items():
        expected = formula(kind, work, int(found["dense parameters"]))
        phases = "  ".join(f"{phase} {expected[phase]:,.0f} / {found[phase]:,.0f}" for phase in PHASES)
        sums = [sum(bytes_of[phase] for phase in PHASES) for bytes_of in (expected, found)]
        print(f"{kind:14} {phases}  sum {sums[0]:,.0f} / {sums[1]:,.0f}  sockets {found['tcp']:,.0f}")


if __name__ == "__main__":
    main()
