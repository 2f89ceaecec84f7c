"""A small model and rows for it: tasks of every kind, three sparse features, and options for each catalogue entry.

A new body, head, interaction or balancer adds one row of options here. Shapes: B rows, T tasks.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagConfig, KeyedJaggedTensor, PoolingType

from models.balancers.balancer import Balancer
from models.batch import Batch
from models.catalogue import BALANCERS, BODIES, HEADS, INTERACTIONS
from models.front_end import Attended, FrontEnd
from models.inputs import Inputs
from models.multitask import MultiTaskModel, table_groups
from models.tasks import Task

# Small, so that a test takes milliseconds.
BODY_OPTIONS: dict[str, dict[str, Any]] = {
    "aitm": {"widths": (16, 8)},
    "cgc": {"num_shared_experts": 2, "num_task_experts": 1, "widths": (16, 8)},
    "cross_stitch": {"widths": (16, 8)},
    "dbmtl": {"widths": (16,), "task_widths": (8,), "relation_widths": (8,)},
    "mmoe": {"num_experts": 3, "widths": (16, 8)},
    "omoe": {"num_experts": 3, "widths": (16, 8)},
    "pepnet": {"domain_features": ("item",), "person_features": ("user",), "widths": (16, 8), "gate_width": 8},
    "ple": {"num_shared_experts": 1, "num_task_experts": 2, "levels": ((16, 12), (12,), (8,))},
    "shared_bottom": {"widths": (16, 8)},
    "single_task": {"widths": (16, 8)},
    "stem": {"num_shared_experts": 2, "num_task_experts": 1, "widths": (16, 8)},
}
HEAD_OPTIONS: dict[str, dict[str, Any]] = {
    "esmm": {},
    "independent": {},
}

INTERACTION_OPTIONS: dict[str, dict[str, Any]] = {
    "factorization_machine": {},
    "low_rank_cross": {"num_layers": 2, "rank": 4},
}
BALANCER_OPTIONS: dict[str, dict[str, Any]] = {
    "cagrad": {},
    "dwa": {"window_steps": 4},
    "famo": {},
    "fixed": {},
    "gradnorm": {},
    "metabalance": {"target": "like"},
    "pcgrad": {},
    "random": {"seed": 3},
    "uncertainty": {},
}

TASKS = (
    Task("click", "binary"),
    Task("like", "binary", space="click"),
    Task("share", "binary", space="like"),
    Task("watch", "watch_time", space="click", scale=3.0),
    Task("stay", "regression", center=1.0, scale=0.5),
    Task("mood", "multiclass", classes=("bad", "fair", "good")),
)
NUM_OUTPUTS = sum(task.num_outputs for task in TASKS)

NUM_USERS, NUM_ITEMS, NUM_DENSE, DIM = 80, 20, 3, 8
NAN = float("nan")


class Row(NamedTuple):
    user: int
    item: int
    history: list[int]
    dense: list[float]
    labels: list[float]
    weight: float = 1.0
    is_padding: bool = False


PADDING = Row(0, 0, [], [0.0] * NUM_DENSE, [NAN] * len(TASKS), weight=0.0, is_padding=True)


def make_rows(num_rows: int = 64, seed: int = 0) -> list[Row]:
    """Rows with a user each; about half are clicked, half of those liked, half of those shared; some labels null."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator)

    rows = []
    for user in range(num_rows):
        labels = [*(draw(3) < 0.6).float().tolist(), *(4 * draw(2)).tolist(), float(int(3 * draw(1).item()))]
        labels = [NAN if draw(1).item() < 0.1 else label for label in labels]
        history = (draw(int(4 * draw(1).item())) * NUM_ITEMS).long().tolist()
        item = int(draw(1).item() * NUM_ITEMS)
        rows.append(Row(user, item, history, draw(NUM_DENSE).sub(0.5).mul(4).tolist(), labels))
    return rows


def batch_of(rows: Sequence[Row]) -> Batch:
    bags = [
        [[] if row.is_padding else [row.user] for row in rows],
        [[] if row.is_padding else [row.item] for row in rows],
        [row.history for row in rows],
    ]
    return Batch(
        torch.tensor([row.dense for row in rows]),
        KeyedJaggedTensor(
            keys=["user", "item", "history"],
            values=torch.tensor([value for feature in bags for bag in feature for value in bag], dtype=torch.int64),
            lengths=torch.tensor([len(bag) for feature in bags for bag in feature], dtype=torch.int32),
        ),
        torch.tensor([row.labels for row in rows]),
        torch.tensor([row.weight for row in rows]),
    )


def make_model(
    body: str,
    seed: int = 0,
    *,
    interaction: str | None = None,
    attention: bool = False,
    table_device: str = "cpu",
) -> MultiTaskModel:
    """A small model; `item` and `history` share a table, and `attention` reads one by the other."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tables = [
            EmbeddingBagConfig(
                name=name,
                num_embeddings=rows,
                embedding_dim=DIM,
                feature_names=features,
                pooling=PoolingType.SUM,
            )
            for name, rows, features in (("user", NUM_USERS, ["user"]), ("item", NUM_ITEMS, ["item", "history"]))
        ]
        names = ["user", "item", "history"]
        front_end = FrontEnd(
            tables,
            names,
            NUM_DENSE,
            6,
            torch.device(table_device),
            groups=table_groups(BODIES[body], TASKS),
            attention={"history": Attended("item", (6,))} if attention else None,
            interaction=(lambda inputs: INTERACTIONS[interaction](inputs, **INTERACTION_OPTIONS[interaction]))
            if interaction
            else None,
        )
        return MultiTaskModel(front_end, make_body(body, front_end.inputs), TASKS, (8,))


def make_body(body: str, inputs: Inputs) -> nn.Module:
    return BODIES[body](inputs, TASKS, **BODY_OPTIONS[body])


def make_head(head: str) -> nn.Module:
    return HEADS[head](TASKS, **HEAD_OPTIONS[head])


def make_balancer(balancer: str) -> Balancer:
    return BALANCERS[balancer](TASKS, **BALANCER_OPTIONS[balancer])
