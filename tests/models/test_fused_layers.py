"""The batched products of layers against plain loops over their networks.

Shapes: B rows, I input width, G inputs, E experts, T tasks, H hidden width.
"""

import pytest
import torch
from networks_one_by_one import alone, assert_same, experts, gates, with_random_biases
from torch import Tensor
from torch.nn.functional import silu

from models.layers import ExpertBank, SoftmaxGates, Towers

SHAPES = [(5, 4, 1, (3,)), (1, 7, 2, (6, 5)), (9, 8, 4, (16, 8, 4))]
LAYER_SHAPES = pytest.mark.parametrize(("num_rows", "input_width", "num_networks", "widths"), SHAPES)


@LAYER_SHAPES
@pytest.mark.parametrize("num_groups", [1, 3])
def test_an_expert_bank_equals_its_experts_one_by_one(
    num_rows: int, input_width: int, num_networks: int, widths: tuple[int, ...], num_groups: int
) -> None:
    torch.manual_seed(0)
    bank = with_random_biases(ExpertBank(input_width, num_networks, widths, num_groups))
    x_GBI = torch.randn(num_groups, num_rows, input_width, requires_grad=True)
    found = bank(x_GBI)
    assert found.shape == (num_rows, num_groups * num_networks, widths[-1])
    assert_same(found, torch.stack(experts(bank, x_GBI.unbind()), dim=1), [x_GBI, *bank.parameters()])


@pytest.mark.parametrize(
    ("num_rows", "num_gates", "num_experts", "num_groups"), [(5, 1, 1, 1), (3, 4, 6, 1), (4, 2, 3, 3)]
)
def test_softmax_gates_equal_one_gate_after_the_other(
    num_rows: int, num_gates: int, num_experts: int, num_groups: int
) -> None:
    torch.manual_seed(0)
    gate = SoftmaxGates(7, num_gates, num_experts, num_groups)
    x_GBI = torch.randn(num_groups, num_rows, 7, requires_grad=True)
    found = gate(x_GBI)
    assert found.shape == (num_rows, num_groups * num_gates, num_experts)
    assert_same(found, torch.stack(gates(gate, x_GBI.unbind()), dim=1), [x_GBI, *gate.parameters()])


@LAYER_SHAPES
@pytest.mark.parametrize("num_outputs_of_first", [1, 3])
def test_towers_equal_one_small_network_per_task(
    num_rows: int, input_width: int, num_networks: int, widths: tuple[int, ...], num_outputs_of_first: int
) -> None:
    torch.manual_seed(0)
    num_outputs = [num_outputs_of_first, *[1] * (num_networks - 1)]
    towers = with_random_biases(Towers(num_outputs, input_width, widths))
    z_BTH = torch.randn(num_rows, num_networks, input_width, requires_grad=True)
    columns: list[Tensor] = []
    for task in range(num_networks):
        h_BH = z_BTH[:, task]
        for layer in towers.hidden:
            h_BH = silu(alone(layer, task, h_BH))
        for _ in range(num_outputs[task]):
            columns.append(alone(towers.output, len(columns), h_BH).squeeze(1))
    found = towers(z_BTH)
    assert found.shape == (num_rows, sum(num_outputs))
    assert_same(found, torch.stack(columns, dim=1), [z_BTH, *towers.parameters()])


def test_towers_without_a_hidden_layer_are_one_linear_layer_per_task() -> None:
    torch.manual_seed(0)
    towers = with_random_biases(Towers([1, 1, 1], 4, ()))
    z_BTH = torch.randn(6, 3, 4)
    expected = torch.stack([z_BTH[:, t] @ towers.output.weight_NIH[t, :, 0] for t in range(3)], dim=1)
    torch.testing.assert_close(towers(z_BTH), expected + towers.output.bias_N1H[:, 0, 0], rtol=1e-6, atol=1e-6)


def test_an_expert_bank_needs_an_expert_and_layers_of_some_width() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        ExpertBank(4, 0, (4,))
    for widths in ((), (4, 0), (-1,)):
        with pytest.raises(ValueError, match="must be one or more numbers of at least 1"):
            ExpertBank(4, 2, widths)
