"""PCGrad on sharded, fused tables against the textbook algorithm on plain tensors, on 1 and 2 ranks.

The reference has no torchrec in it: tables are tensors, their optimizer is written out, and each task's gradient is
taken by itself, projected on the normal plane of each conflicting one, and added up (Yu et al., NeurIPS 2020).
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from combination_ranks import NUM_ROWS, make_step, on_ranks, own_rows
from small_model import TASKS, Row, batch_of, make_head, make_model, make_rows
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor  # type: ignore[attr-defined]
from torch.nn.functional import silu

from models.balancers.pcgrad import projection_order
from models.losses import task_loss_sums
from pipeline.train.config import TrainConfig
from pipeline.train.tables.initial_weights import fill_tables

NUM_STEPS = 5
TABLE_RATE, DENSE_RATE, EPS = 0.05, 0.1, 1e-8


def train_sharded(sharding: str) -> dict[str, Tensor]:
    """Every parameter after the steps, whole on rank 0, and the losses of each step."""
    config = TrainConfig.model_validate(
        {
            "sharding": {"default": sharding},
            "sparse_optimizer": {"kind": "rowwise_adagrad", "learning_rate": TABLE_RATE, "eps": EPS},
            "dense_optimizer": {"kind": "sgd", "learning_rate": DENSE_RATE},
        }
    )
    train_step, model = make_step(("shared_bottom", "independent", "pcgrad"), config)
    losses = []
    for step in range(NUM_STEPS):
        sums = train_step(batch_of(make_rows(NUM_ROWS, seed=step)[own_rows(step)]), step)
        losses.append(sums[0] / sums[1])
    found = {name.removeprefix("model."): _whole(value) for name, value in model.state_dict().items()}
    return {**found, "losses": torch.stack(losses)}


def _whole(value: Any) -> Tensor:
    if not isinstance(value, ShardedTensor):
        return value.detach().clone()  # type: ignore[no-any-return]
    whole = torch.empty(value.size())
    value.gather(0, whole if dist.get_rank() == 0 else None)
    return whole


def textbook() -> tuple[dict[str, Tensor], int]:
    """The same from plain tensors, and how many pairs of tasks were in conflict."""
    filled = make_model("shared_bottom")
    fill_tables(filled, 0)
    # Tables that are made take random numbers from the dense layers; sharded ones are made on meta.
    dense = {
        name: p for name, p in make_model("shared_bottom", table_device="meta").state_dict().items() if not p.is_meta
    }
    parameters = {name: value.clone().requires_grad_() for name, value in (filled.state_dict() | dense).items()}
    tables = [name for name in parameters if "embedding_bags" in name]
    squares = {name: torch.zeros(len(parameters[name])) for name in tables}
    losses, num_conflicts = [], 0
    for step in range(NUM_STEPS):
        rows = make_rows(NUM_ROWS, seed=step)
        x_BI, loss_T = _forward(parameters, rows)
        shared = {name: value for name, value in parameters.items() if name.startswith("body.")} | {"x": x_BI}
        gradients = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(shared.values()), retain_graph=True)])
            for loss in loss_T.unbind()
        ]
        projected = []
        for task, others in enumerate(projection_order(len(TASKS), step)):
            gradient = gradients[task].clone()
            for other in others:
                product = gradient @ gradients[other]
                if product < 0:
                    num_conflicts += 1
                    gradient -= product / gradients[other].square().sum() * gradients[other]
            projected.append(gradient)
        sizes = [value.numel() for value in shared.values()]
        combined = dict(zip(shared, torch.split(torch.stack(projected).sum(dim=0), sizes), strict=True))
        of_x = combined.pop("x").view_as(x_BI)
        before = [name for name in parameters if name.startswith("front_end.")]
        found = torch.autograd.grad(x_BI, [parameters[name] for name in before], of_x, retain_graph=True)
        towers = [name for name in parameters if name.startswith("towers.")]
        own = torch.autograd.grad(loss_T.sum(), [parameters[name] for name in towers])
        combined |= dict(zip([*before, *towers], [*found, *own], strict=True))
        with torch.no_grad():
            for name, gradient in combined.items():
                if name in tables:
                    squares[name] += gradient.square().mean(dim=1)
                    parameters[name] -= TABLE_RATE * gradient / (squares[name].sqrt() + EPS)[:, None]
                else:
                    parameters[name] -= DENSE_RATE * gradient.view_as(parameters[name])
        losses.append(loss_T.detach())
    return {
        **{name: value.detach() for name, value in parameters.items()},
        "losses": torch.stack(losses),
    }, num_conflicts


def _forward(p: dict[str, Tensor], rows: list[Row]) -> tuple[Tensor, Tensor]:
    """The inputs of the body, and the mean loss of each task."""
    user_NK, item_NK = (p[f"front_end.embeddings.embedding_bags.{name}.weight"] for name in ("user", "item"))
    empty = torch.zeros(item_NK.shape[1])
    history_BK = torch.stack([item_NK[row.history].mean(dim=0) if row.history else empty for row in rows])
    batch = batch_of(rows)
    dense_BI = silu(batch.dense @ p["front_end.projection.0.weight"].T + p["front_end.projection.0.bias"])
    users, items = [row.user for row in rows], [row.item for row in rows]
    x_BI = torch.cat([user_NK[users], item_NK[items], history_BK, dense_BI], dim=1)
    h_BH = x_BI
    for layer in ("body.bottom.0", "body.bottom.2"):
        h_BH = silu(h_BH @ p[f"{layer}.weight"].T + p[f"{layer}.bias"])
    columns: list[Tensor] = []
    for place, task in enumerate(TASKS):
        t_BH = silu(h_BH @ p["towers.hidden.0.weight_NIH"][place] + p["towers.hidden.0.bias_N1H"][place])
        for _ in range(task.num_outputs):
            output = len(columns)
            columns.append(t_BH @ p["towers.output.weight_NIH"][output] + p["towers.output.bias_N1H"][output])
    logit_BO, target_BT, mask_BT = make_head("independent")(torch.cat(columns, dim=1), batch.labels)
    loss_T, weight_T = task_loss_sums(TASKS, logit_BO, target_BT, mask_BT, batch.weights)
    return x_BI, loss_T / weight_T


@pytest.mark.slow
@pytest.mark.parametrize(("num_ranks", "sharding"), [(1, "table_wise"), (2, "table_wise"), (2, "row_wise")])
def test_pcgrad_on_sharded_tables_is_the_textbook_algorithm(num_ranks: int, sharding: str, tmp_path: Path) -> None:
    expected, num_conflicts = textbook()
    assert num_conflicts >= NUM_STEPS
    found = on_ranks(train_sharded, num_ranks, tmp_path, sharding)
    assert expected.keys() <= found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=name)
