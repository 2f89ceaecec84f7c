"""A model that serves says what the trained one says, whatever it is made of: of rows, and of pairs of two sides."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from served_models import (
    KINDS,
    NUM_EMBEDDINGS,
    Kind,
    Pairs,
    inputs_of,
    make_models,
    make_pairs,
    make_rows,
    predict_trained,
)
from torch import Tensor
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from models import pairs
from models.paired_inputs import Halves, PairedInputs
from models.pairs import predict_pairs
from models.serving import ServingModel
from models.tables import ServingTable

TOLERANCE = 2e-6
each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "PAIRS_PER_BLOCK", 16)


@pytest.fixture
def one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def predict(model: ServingModel, made: Pairs) -> dict[str, Tensor]:
    with torch.inference_mode():
        return predict_pairs(model, made.request, made.item)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = TOLERANCE) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.allclose(found[name], values, rtol=tolerance, atol=tolerance), name


@each_kind
def test_a_model_that_serves_says_what_the_trained_one_says(kind: Kind) -> None:
    trained, served = make_models(kind)
    rows = make_rows(40)
    with torch.inference_mode():
        found = served(inputs_of(rows, kind.weighted))
    expected = predict_trained(trained, rows, kind.weighted)
    assert_same(found, expected)
    assert all(len(set(values.tolist())) > 20 for values in expected.values())


@each_kind
def test_pairs_say_what_their_rows_say(kind: Kind) -> None:
    trained, served = make_models(kind)
    for num_requests, num_items, num_pairs, columns in (
        (5, 9, 40, (0, 2)),
        (5, 9, 20, ()),
        (5, 9, 20, (0, 1, 2, 3)),
        (1, 9, 20, (0, 2)),
        (5, 1, 20, (1,)),
        (1, 1, 1, (3,)),
    ):
        made = make_pairs(num_requests, num_items, num_pairs, kind.weighted, columns)
        assert_same(predict(served, made), predict_trained(trained, made.rows, kind.weighted))
    empty = predict(served, make_pairs(3, 2, 0, kind.weighted))
    assert {tuple(values.shape) for values in empty.values()} == {(0,)}


def test_pairs_do_not_depend_on_the_number_of_threads(one_thread: None) -> None:
    _, served = make_models(Kind("mmoe"))
    made = make_pairs(5, 9, 200, False)
    alone = predict(served, made)
    torch.set_num_threads(2)
    shared = predict(served, made)
    assert torch.get_num_threads() == 2
    assert all(torch.equal(values, shared[name]) for name, values in alone.items())


@pytest.mark.parametrize(
    "kind", [Kind("mmoe"), Kind("pepnet", attention=True), Kind("stem", "low_rank_cross")], ids=str
)
def test_bfloat16_says_nearly_the_same_of_rows_and_of_pairs(kind: Kind) -> None:
    trained, served = make_models(kind)
    served = copy.deepcopy(served)
    served.compute_in(torch.bfloat16)
    made = make_pairs(5, 9, 40, kind.weighted)
    expected = predict_trained(trained, made.rows, kind.weighted)
    with torch.inference_mode():
        of_rows = served(inputs_of(made.rows, kind.weighted))
    of_pairs = predict(served, made)
    for found in (of_rows, of_pairs):
        assert_same(found, expected, 0.05)
        assert any((found[name] != values).any() for name, values in expected.items())


def test_a_feature_on_both_sides_or_on_none_is_refused() -> None:
    _, served = make_models(Kind("mmoe"))
    made = make_pairs(5, 9, 20, False)
    with pytest.raises(ValueError, match="feature 'user' is on 2 sides"):
        predict(served, made._replace(item=made.request._replace(row_B=made.item.row_B)))
    without = {name: values for name, values in made.item.inputs.items() if name != "ids.item"}
    with pytest.raises(ValueError, match="feature 'item' is on 0 sides"):
        predict(served, made._replace(item=made.item._replace(inputs=without)))
    with pytest.raises(ValueError, match=r"numbers \[0, 2, 2, 3\]"):
        predict(served, made._replace(item=made.item._replace(dense_columns=(2, 3))))


# --- what is done once


class Recorded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the sizes of every matrix product, and how many rows are read of each tensor by its place."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: list[tuple[torch.Size, torch.Size]] = []
        self.rows_read: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "linear":
            self.products.append((args[0].shape, args[1].mT.shape))
        if name in ("mm", "bmm"):
            self.products.append((args[0].shape, args[1].shape))
        if name in ("addmm", "baddbmm", "baddbmm_"):
            self.products.append((args[1].shape, args[2].shape))
        if name in ("embedding_bag", "index_select"):
            place, ids = args[0].data_ptr(), args[2 if name == "index_select" else 1]
            self.rows_read[place] = self.rows_read.get(place, 0) + ids.numel()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("body", ["mmoe", "omoe", "cgc", "ple", "shared_bottom", "single_task", "stem", "cross_stitch"])
def test_each_side_is_looked_up_and_multiplied_once(body: str, one_thread: None) -> None:
    _, served = make_models(Kind(body))
    num_requests, num_items, num_pairs = 4, 6, 500
    made = make_pairs(num_requests, num_items, num_pairs, False)
    with Recorded() as recorded:
        predict(served, made)
    width = served.front_end.inputs.width
    of_inputs = [rows for rows, weight in recorded.products if weight[-2] == width]
    assert {rows[-2] for rows in of_inputs} == {num_requests + num_items}
    first_weights = [
        parameter
        for name, parameter in served.body.named_parameters()
        if parameter.ndim > 1 and width in parameter.shape[-2:] and "later" not in name
    ]
    assert len(of_inputs) <= len(first_weights)
    inputs = {**made.request.inputs, **made.item.inputs}
    num_ids = sum(len(ids) for name, ids in inputs.items() if name.startswith("ids."))
    for table in served.front_end.tables.values():
        assert isinstance(table, ServingTable)
        assert 0 < recorded.rows_read[table.weight.data_ptr()] <= num_ids


def test_a_plain_forward_multiplies_every_row(one_thread: None) -> None:
    _, served = make_models(Kind("mmoe"))
    with Recorded() as recorded, torch.inference_mode():
        served(inputs_of(make_rows(50), False))
    width = served.front_end.inputs.width
    assert {rows[-2] for rows, weight in recorded.products if weight[-2] == width} == {50}


# --- paired inputs


def make_inputs(num_groups: int = 1) -> tuple[PairedInputs, Tensor]:
    """Paired inputs of 7 pairs of 5 halves, 4 wide with 1 joint column, and the same plain."""
    generator = torch.Generator().manual_seed(0)
    half_GSI = torch.randn(num_groups, 5, 4, generator=generator)
    half_GSI[:, :, 1] = 0.0
    pair_B2 = torch.randint(0, 5, (7, 2), generator=generator)
    joint_GBJ = torch.randn(num_groups, 7, 1, generator=generator)
    plain_GBI = half_GSI[:, pair_B2].sum(dim=2)
    plain_GBI[:, :, 1:2] = joint_GBJ
    inputs = PairedInputs.of(Halves(half_GSI, torch.tensor([1]), {}), pair_B2, joint_GBJ)
    return inputs, plain_GBI[0] if num_groups == 1 else plain_GBI.transpose(0, 1)


@pytest.mark.parametrize("num_groups", [1, 3])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x * 2,
        lambda x: x + x.sin(),
        lambda x: torch.cat([x, x.square()], dim=-1),
        lambda x: x[..., :2],
        lambda x: x.unsqueeze(0).sum(dim=0),
        lambda x: x.unsqueeze(-1),
        lambda x: x.transpose(0, 1).transpose(1, 0) + 0,
        lambda x: x.transpose(0, 1)[:2].flatten(),
        lambda x: linear(x, torch.ones(3, 4), torch.arange(3.0)),
        lambda x: linear(x, torch.ones(3, 4)),
        lambda x: torch.matmul(x, torch.ones(4, 2)),
    ],
)
def test_paired_inputs_are_the_plain_tensor_to_everything_else(num_groups: int, change: Any) -> None:
    inputs, plain = make_inputs(num_groups)
    assert inputs.shape == plain.shape
    torch.testing.assert_close(change(inputs) + 0, change(plain) + 0)
    assert type(change(inputs) + 0) is Tensor


@pytest.mark.parametrize("num_groups", [1, 3])
def test_a_product_of_paired_inputs_keeps_its_groups(num_groups: int) -> None:
    inputs, plain = make_inputs(num_groups)
    weight_GIN, bias_G1N = torch.randn(num_groups, 4, 6), torch.randn(num_groups, 1, 6)
    stacked, plain_stacked = (x.unsqueeze(0) if num_groups == 1 else x.transpose(0, 1) for x in (inputs, plain))
    assert isinstance(stacked, PairedInputs)
    torch.testing.assert_close(torch.bmm(stacked, weight_GIN), torch.bmm(plain_stacked, weight_GIN))
    expected = torch.baddbmm(bias_G1N, plain_stacked, weight_GIN)
    torch.testing.assert_close(torch.baddbmm(bias_G1N, stacked, weight_GIN), expected)
    last, expected = torch.bmm(stacked[-1:], weight_GIN[-1:]), torch.bmm(plain_stacked[-1:], weight_GIN[-1:])
    torch.testing.assert_close(last, expected)


def test_paired_inputs_are_the_same_for_several_networks() -> None:
    inputs, plain = make_inputs()
    several, weight_TIN = inputs.expand(2, -1, -1), torch.randn(2, 4, 6)
    assert isinstance(several, PairedInputs)
    torch.testing.assert_close(torch.bmm(several, weight_TIN), torch.bmm(plain.expand(2, -1, -1), weight_TIN))


def test_what_is_no_product_with_a_matrix_alone_is_computed_for_each_pair() -> None:
    inputs, plain = make_inputs()
    weight_1IN, row_1BN = torch.randn(1, 4, 6), torch.randn(1, 7, 6)
    for x in (inputs, plain):
        assert x.unsqueeze(0).shape == (1, 7, 4)
    expected = torch.baddbmm(row_1BN, plain.unsqueeze(0), weight_1IN)
    torch.testing.assert_close(torch.baddbmm(row_1BN, inputs.unsqueeze(0), weight_1IN), expected)
    bias_11N = row_1BN[:, :1]
    expected = torch.baddbmm(bias_11N, plain.unsqueeze(0), weight_1IN, alpha=2.0)
    torch.testing.assert_close(torch.baddbmm(bias_11N, inputs.unsqueeze(0), weight_1IN, alpha=2.0), expected)
    torch.testing.assert_close(linear(inputs, inputs), linear(plain, plain))
    torch.testing.assert_close(linear(plain, inputs), linear(plain, plain))


def test_a_weight_that_was_computed_is_not_mistaken_for_another_one() -> None:
    inputs, plain = make_inputs()
    for factor in range(20):
        torch.testing.assert_close(linear(inputs, factor * torch.ones(3, 4)), linear(plain, factor * torch.ones(3, 4)))


# --- tables


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_a_smaller_table_is_off_by_at_most_half_a_step(kind: Any) -> None:
    value_RK = torch.randn(NUM_EMBEDDINGS, 8, generator=torch.Generator().manual_seed(0))
    value_RK[0], value_RK[1] = 0.0, 0.75
    table = ServingTable(NUM_EMBEDDINGS, 8, kind)
    table.fill(value_RK)
    largest_step_R1 = {
        "float32": torch.zeros(NUM_EMBEDDINGS, 1),
        "bfloat16": value_RK.abs().amax(dim=1, keepdim=True) / 128,
        "int8": (value_RK.amax(dim=1, keepdim=True) - value_RK.amin(dim=1, keepdim=True)) / 255,
    }[kind]
    ids_N = torch.arange(NUM_EMBEDDINGS)
    row_NK = table.rows(ids_N)
    assert ((row_NK - value_RK).abs() <= 0.5001 * largest_step_R1 + 1e-6).all()
    # A row of one value, such as the unseen one, loses nothing.
    assert torch.equal(row_NK[:2], value_RK[:2])
    lengths_B = torch.tensor([3, 0, 2])
    weights_N = torch.tensor([1.0, 0.5, 2.0, 1.0, 3.0])
    sum_BK = table.sums(ids_N[:5], lengths_B, weights_N)
    weighted_NK = row_NK[:5] * weights_N[:, None]
    expected = torch.stack([weighted_NK[:3].sum(0), torch.zeros(8), weighted_NK[3:].sum(0)])
    torch.testing.assert_close(sum_BK, expected)
    assert table.weight.element_size() == {"float32": 4, "bfloat16": 2, "int8": 1}[kind]
