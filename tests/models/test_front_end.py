"""The front end's parts: their order, groups of tables, histories read by attention, interactions.

Shapes: B rows, I width of the result, K embedding width.
"""

from itertools import combinations
from typing import Any

import pytest
import torch
from small_model import DIM, NUM_DENSE, PADDING, TASKS, batch_of, make_model, make_rows
from torch import Tensor, nn
from torch.nn.functional import silu
from torchrec import EmbeddingBagConfig, KeyedJaggedTensor, PoolingType

from models.front_end import Attended, FrontEnd
from models.inputs import DENSE_PART, Inputs
from models.interactions.factorization_machine import FactorizationMachine
from models.interactions.low_rank_cross import LowRankCross

CPU = torch.device("cpu")
each_interaction = pytest.mark.parametrize("interaction", [None, "factorization_machine", "low_rank_cross"])
each_way_to_read = pytest.mark.parametrize("attention", [False, True])


def make_table(name: str, features: list[str], dim: int = 4) -> EmbeddingBagConfig:
    return EmbeddingBagConfig(
        name=name, num_embeddings=20, embedding_dim=dim, feature_names=features, pooling=PoolingType.SUM
    )


def inputs_of(front_end: FrontEnd, batch_rows: int = 9) -> tuple[Tensor, list[dict[str, list[int]]]]:
    """What the front end gives for some rows, and the ids of each row by feature."""
    rows = make_rows(batch_rows)
    batch = batch_of(rows)
    x_BI: Tensor = front_end(batch.dense, batch.sparse)
    return x_BI, [{"user": [row.user], "item": [row.item], "history": row.history} for row in rows]


def table(front_end: FrontEnd, name: str) -> Tensor:
    return front_end.get_parameter(f"embeddings.embedding_bags.{name}.weight")


def test_parts_lie_where_the_inputs_say() -> None:
    front_end = make_model("shared_bottom").front_end
    x_BI, ids = inputs_of(front_end)
    assert front_end.inputs == Inputs({"user": DIM, "item": DIM, "history": DIM, DENSE_PART: 6})
    assert x_BI.shape == (9, front_end.inputs.width)
    for feature, name in (("user", "user"), ("item", "item"), ("history", "item")):
        columns = front_end.inputs.columns([feature])
        for row, of_row in enumerate(ids):
            bag_LK = table(front_end, name)[of_row[feature]]
            expected_K = bag_LK.mean(dim=0) if len(bag_LK) else torch.zeros(DIM)
            torch.testing.assert_close(x_BI[row, columns], expected_K)


def test_each_group_of_tables_fills_its_own_input() -> None:
    front_end = make_model("stem").front_end
    x_BGI, ids = inputs_of(front_end)
    groups = ["", *(f"@{task.name}" for task in TASKS)]
    assert x_BGI.shape == (9, len(groups), front_end.inputs.width)
    assert front_end.table_of == {f"{name}{group}": name for group in groups for name in ("user", "item")}
    columns = front_end.inputs.columns(["item"])
    for place, group in enumerate(groups):
        expected_BK = table(front_end, f"item{group}")[[row["item"][0] for row in ids]]
        torch.testing.assert_close(x_BGI[:, place, columns], expected_BK)
    dense = front_end.inputs.columns([DENSE_PART])
    assert not torch.allclose(x_BGI[:, 0, dense], x_BGI[:, 1, dense])


@pytest.mark.parametrize("body", ["shared_bottom", "single_task"])
def test_attention_weighs_each_item_of_a_history_by_its_pair_with_the_target(body: str) -> None:
    torch.manual_seed(0)
    front_end = make_model(body, attention=True).front_end
    x, ids = inputs_of(front_end)
    x_BGI = x if front_end.num_groups > 1 else x[:, None]
    columns = front_end.inputs.columns(["history"])
    assert any(not row["history"] for row in ids)
    for place in range(front_end.num_groups):
        group = f"@{TASKS[place].name}" if front_end.num_groups > 1 else ""
        table_NK = front_end.get_parameter(f"sequences.embeddings.item{group}.weight")
        unit: Any = front_end.activation_units[f"history_{place}"]
        first = unit.hidden[0]
        for row, of_row in enumerate(ids):
            target_K, expected_K = table_NK[of_row["item"][0]], torch.zeros(DIM)
            for item in of_row["history"]:
                item_K = table_NK[item]
                pair = torch.cat([item_K, target_K, item_K - target_K, item_K * target_K])
                h = silu(first.weight @ pair + first.bias)
                weight = unit.output.weight[0] @ h + unit.output.bias[0]
                expected_K = expected_K + weight * item_K
            torch.testing.assert_close(x_BGI[row, place, columns], expected_K, rtol=1e-5, atol=1e-6)


def test_a_feature_beside_an_attended_history_is_read_as_in_any_other_table() -> None:
    front_end = make_model("shared_bottom", attention=True).front_end
    x_BI, ids = inputs_of(front_end)
    assert list(front_end.inputs.widths) == ["user", "item", "history", DENSE_PART]
    table_NK = front_end.get_parameter("sequences.embeddings.item.weight")
    expected_BK = table_NK[[row["item"][0] for row in ids]]
    torch.testing.assert_close(x_BI[:, front_end.inputs.columns(["item"])], expected_BK)


def test_the_factorization_machine_sums_the_products_of_all_pairs() -> None:
    torch.manual_seed(0)
    machine = FactorizationMachine(Inputs({"a": 3, "b": 3, "c": 3, DENSE_PART: 5}))
    x_BI = torch.randn(4, 14)
    v = [x_BI[:, first : first + 3] for first in (0, 3, 6)]
    pairs_BK = torch.stack([a * b for a, b in combinations(v, 2)]).sum(dim=0)
    torch.testing.assert_close(machine(x_BI), torch.cat([x_BI, pairs_BK], dim=1), rtol=1e-5, atol=1e-6)
    assert machine.outputs.width == 17


def test_the_cross_network_multiplies_the_first_input_into_each_layer() -> None:
    torch.manual_seed(0)
    module = LowRankCross(Inputs({"a": 6}), num_layers=2, rank=3)
    for name, parameter in module.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)
    x_BI = torch.randn(4, 6)
    found_BI = x_BI
    for v_RI, w_IR, bias_I in zip(module.cross.V_kernels, module.cross.W_kernels, module.cross.bias, strict=True):
        found_BI = x_BI * (found_BI @ v_RI.T @ w_IR.T + bias_I) + found_BI
    torch.testing.assert_close(module(x_BI), found_BI, rtol=1e-5, atol=1e-6)
    assert module.outputs.width == 6


@pytest.mark.parametrize("body", ["mmoe", "single_task", "stem"])
@each_interaction
@each_way_to_read
def test_every_front_end_feeds_every_kind_of_body(body: str, interaction: str | None, attention: bool) -> None:
    """Gradients reach every parameter; padding and the order of rows change nothing."""
    model, rows = make_model(body, interaction=interaction, attention=attention), make_rows(32)
    batch = batch_of(rows)
    logit_BO = model(batch.dense, batch.sparse)
    logit_BO.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    padded = batch_of([*rows[::-1], *[PADDING] * 5])
    found_BO = model(padded.dense, padded.sparse)[: len(rows)].flip(0)
    torch.testing.assert_close(found_BO, logit_BO, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("tables", "attention", "message"),
    [
        ([make_table("item", ["item", "history"])], {"watched": ("item", (4,))}, "'watched', which is not a sparse"),
        ([make_table("item", ["item", "history"])], {"history": ("author", (4,))}, "'author', which is not a sparse"),
        (
            [make_table("item", ["item"]), make_table("history", ["history"])],
            {"history": ("item", (4,))},
            "'history' and its target 'item' do not share a table",
        ),
        (
            [make_table("item", ["item", "history"], 4), make_table("author", ["author", "authors"], 8)],
            {"history": ("item", (4,)), "authors": ("author", (4,))},
            r"have widths \[4, 8\], and must have one",
        ),
    ],
)
def test_attention_that_does_not_fit_the_tables_is_refused(
    tables: list[EmbeddingBagConfig], attention: dict[str, tuple[str, tuple[int, ...]]], message: str
) -> None:
    names = [feature for each in tables for feature in each.feature_names]
    chosen = {history: Attended(*read) for history, read in attention.items()}
    with pytest.raises(ValueError, match=message):
        FrontEnd(tables, names, 0, 1, CPU, attention=chosen)


def test_a_front_end_needs_an_input() -> None:
    with pytest.raises(ValueError, match="at least one table or one numeric input"):
        FrontEnd([], [], 0, 4, CPU)
    assert FrontEnd([], [], NUM_DENSE, 4, CPU).inputs.width == 4


def test_the_factorization_machine_needs_features_of_one_width() -> None:
    for widths in ({"a": 4, DENSE_PART: 4}, {"a": 4, "b": 8}):
        with pytest.raises(ValueError, match="two sparse features or more of one embedding width"):
            FactorizationMachine(Inputs(widths))


# --- weighted features

NAMES = ["user", "tags", "seen"]


def make_weighted(weighted: list[str], **options: Any) -> FrontEnd:
    torch.manual_seed(0)
    tables = [make_table("user", ["user"], 2), make_table("tags", ["tags", "seen"], 4)]
    return FrontEnd(tables, NAMES, 0, 1, CPU, weighted=weighted, **options)


def ids_of(bags: dict[str, list[list[int]]], weights: dict[str, list[list[float]]] | None = None) -> KeyedJaggedTensor:
    """One list of ids per row of each feature, and as many weights."""
    given = weights and [weight for name in NAMES for row in weights[name] for weight in row]
    return KeyedJaggedTensor(
        keys=NAMES,
        values=torch.tensor([id_ for name in NAMES for row in bags[name] for id_ in row], dtype=torch.int64),
        lengths=torch.tensor([len(row) for name in NAMES for row in bags[name]], dtype=torch.int32),
        weights=None if given is None else torch.tensor(given),
    )


BAGS = {"user": [[3], [4], [3], []], "tags": [[1, 2, 1], [5, 6], [], []], "seen": [[2, 7], [], [8], []]}
WEIGHTS = {
    "user": [[1.0], [1.0], [1.0], []],
    "tags": [[0.5, 2.0, 0.25], [0.0, 0.0], [], []],
    "seen": [[1.0, 1.0], [], [1.0], []],
}


@pytest.mark.parametrize("groups", [("",), ("", "a")])
def test_a_weighted_feature_is_the_weighted_mean_of_its_values(groups: tuple[str, ...]) -> None:
    front_end = make_weighted(["tags"], groups=groups)
    x_BI = front_end(torch.zeros(4, 0), ids_of(BAGS, WEIGHTS))
    x_BI.square().sum().backward()
    for place, group in enumerate(groups):
        names = {name: f"{name}@{group}" if group else name for name in ("user", "tags")}
        plain = {name: table(front_end, own).detach().clone().requires_grad_() for name, own in names.items()}
        parts = []
        for name, owner in (("user", "user"), ("tags", "tags"), ("seen", "tags")):
            rows = []
            for ids, weights in zip(BAGS[name], WEIGHTS[name], strict=True):
                weight_L = torch.tensor(weights)
                total = weight_L.sum() if weight_L.sum() > 0 else torch.tensor(1.0)
                rows.append((plain[owner][ids] * weight_L[:, None]).sum(dim=0) / total)
            parts.append(torch.stack(rows))
        expected_BI: Any = torch.cat(parts, dim=1)
        torch.testing.assert_close(x_BI if len(groups) == 1 else x_BI[:, place], expected_BI)
        expected_BI.square().sum().backward()
        for name, own in names.items():
            torch.testing.assert_close(table(front_end, own).grad, plain[name].grad)


def test_weights_of_1_change_nothing() -> None:
    ones = {name: [[1.0] * len(row) for row in rows] for name, rows in BAGS.items()}
    weighted_BI = make_weighted(["tags"])(torch.zeros(4, 0), ids_of(BAGS, ones))
    plain_BI = make_weighted([])(torch.zeros(4, 0), ids_of(BAGS))
    torch.testing.assert_close(weighted_BI, plain_BI)


def test_a_batch_without_any_value_gives_zeros() -> None:
    empty: dict[str, list[list[Any]]] = {name: [[], []] for name in NAMES}
    assert not make_weighted(["tags"])(torch.zeros(2, 0), ids_of(empty, empty)).any()


def test_a_weighted_feature_is_not_read_by_attention() -> None:
    for weighted in ("tags", "seen"):
        with pytest.raises(ValueError, match=f"'{weighted}' is weighted, and its table is read by attention"):
            make_weighted([weighted], attention={"seen": Attended("tags", (4,))})
