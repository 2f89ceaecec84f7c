"""The batched products of layers and bodies against plain loops over their networks, tasks and experts.

Shapes: B rows, I input width, G inputs, E experts, T tasks, H hidden width.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softmax

from models.bodies.cgc import ExtractionLevel
from models.catalogue import BODIES
from models.inputs import Inputs
from models.layers import BatchedLinear, ExpertBank, SoftmaxGates, Towers
from models.tasks import Task

TASKS = (Task("a", "binary"), Task("b", "binary", space="a"), Task("c", "binary"), Task("d", "binary", space="b"))
PLACES = range(len(TASKS))
INPUTS = {"x": 4, "y": 3, "z": 3}


def assert_same(found: Tensor, expected: Tensor, leaves: Sequence[Tensor]) -> None:
    """Equal to 1e-6, and so are the gradients of a weighted sum with respect to `leaves`."""
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    weight = torch.linspace(-1, 1, found.numel()).reshape(found.shape)
    for a, b in zip(
        torch.autograd.grad((found * weight).sum(), leaves),
        torch.autograd.grad((expected * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def with_random_biases(module: nn.Module) -> Any:
    """Biases begin at zero, where a forgotten one would not show."""
    for name, parameter in module.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)
    return module


def alone(layer: nn.Module, place: int, x_BI: Tensor) -> Tensor:
    """One of the linear layers that lie side by side."""
    assert isinstance(layer, BatchedLinear)
    return x_BI @ layer.weight_NIH[place] + layer.bias_N1H[place, 0]


def experts(bank: ExpertBank, x_GBI: Sequence[Tensor]) -> list[Tensor]:
    """What each expert says, those of the first input first: [B, H] each."""
    outputs = []
    for group, x_BI in enumerate(x_GBI):
        for expert in range(bank.num_experts):
            width = bank.first.weight_NIH.shape[2] // bank.num_experts
            columns = slice(expert * width, (expert + 1) * width)
            h_BH = silu(alone(bank.first, group, x_BI)[:, columns])
            for layer in bank.later:
                h_BH = silu(alone(layer, group * bank.num_experts + expert, h_BH))
            outputs.append(h_BH)
    return outputs


def gates(gate: SoftmaxGates, x_GBI: Sequence[Tensor]) -> list[Tensor]:
    """The weights of each gate, those of the first input first: [B, E] each."""
    return [
        softmax(x_BI @ weight_IE, dim=1)
        for x_BI, weight_IN in zip(x_GBI, gate.weight_GIN, strict=True)
        for weight_IE in weight_IN.chunk(gate.num_gates, dim=1)
    ]


def mix(weight_BE: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """The sum over experts of weight times output: [B, H]."""
    total = torch.zeros_like(outputs[0])
    for expert, h_BH in enumerate(outputs):
        total = total + weight_BE[:, expert, None] * h_BH
    return total


# --- layers

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


# --- bodies


def shared_bottom(body: Any, x: Sequence[Tensor]) -> list[Tensor]:
    h_BH = x[0]
    for layer in body.bottom:
        h_BH = silu(h_BH @ layer.weight.T + layer.bias) if isinstance(layer, nn.Linear) else h_BH
    return [h_BH for _ in PLACES]


def mmoe(body: Any, x: Sequence[Tensor]) -> list[Tensor]:
    return [mix(gate_BE, experts(body.experts, x)) for gate_BE in gates(body.gate, x)]


def omoe(body: Any, x: Sequence[Tensor]) -> list[Tensor]:
    return mmoe(body, x) * len(TASKS)


def single_task(body: Any, x: Sequence[Tensor]) -> list[Tensor]:
    return experts(body.networks, x)


def cross_stitch(body: Any, x: Sequence[Tensor]) -> list[Tensor]:
    h = experts(body.first, x)
    for depth, stitch_TT in enumerate(body.stitch_LTT):
        if depth:
            h = [silu(alone(body.later[depth - 1], task, h_BH)) for task, h_BH in enumerate(h)]
        h = [mix(stitch_TT[task].expand(len(h[0]), -1), h) for task in PLACES]
    return h


def extraction_level(level: ExtractionLevel, x: Sequence[Tensor], *, is_last: bool) -> list[Tensor]:
    """`x`: one input at the first level, later one per task and the shared one."""
    *of_tasks, shared_BI = x if len(x) > 1 else list(x) * (len(TASKS) + 1)
    if len(x) == 1:
        outputs = experts(level.experts, x)
    else:
        outputs = experts(level.own_experts, of_tasks) + experts(level.shared_experts, [shared_BI])
    first_shared = len(TASKS) * level.num_own
    own_gates = gates(level.gates, x if len(x) == 1 else of_tasks)
    mixed = [
        mix(own_gates[task], outputs[task * level.num_own : (task + 1) * level.num_own] + outputs[first_shared:])
        for task in PLACES
    ]
    if is_last:
        return mixed
    assert level.shared_gate is not None
    return [*mixed, mix(gates(level.shared_gate, [shared_BI])[0], outputs)]


def cgc(body: Any, x: Sequence[Tensor]) -> list[Tensor]:
    return extraction_level(body.level, x, is_last=True)


def ple(body: Any, x: Sequence[Tensor]) -> list[Tensor]:
    z = list(x)
    for number, level in enumerate(body.levels, start=1):
        z = extraction_level(level, z, is_last=number == len(body.levels))
    return z


def aitm(body: Any, x: Sequence[Tensor]) -> list[Tensor]:
    own = experts(body.networks, x)
    z = [own[0]]
    # b takes from a, its space; c from b, the task before it; d from b, its space.
    for place, before in ((1, 0), (2, 1), (3, 1)):
        linear, transfer = body.handed_on[place - 1][0], body.transfers[place - 1]
        sources = [silu(linear(z[before])), own[place]]
        scores = [(transfer.key(u) * transfer.query(u)).sum(dim=1) / own[0].shape[1] ** 0.5 for u in sources]
        z.append(mix(torch.stack(scores, dim=1).softmax(dim=1), [transfer.value(u) for u in sources]))
    return z


def dbmtl(body: Any, x: Sequence[Tensor]) -> list[Tensor]:
    (bottom_BH, *_) = shared_bottom(body, x)
    own = experts(body.networks, [bottom_BH])
    return [body.relations[task](torch.cat(own[: task + 1], dim=1)) for task in PLACES]


def pepnet(body: Any, x: Sequence[Tensor]) -> list[Tensor]:
    def scale(gate: Any, x_BI: Tensor, columns: slice) -> Tensor:
        h_BH = silu(gate.hidden[0](torch.cat([x_BI[:, columns], x_BI.detach()], dim=1)))
        return 2 * torch.sigmoid(gate.output(h_BH))

    # Of INPUTS the domain is y and the person is z and x, in this order.
    x_BI = x[0] * scale(body.domain_gate, x[0], slice(4, 7))
    person_BI = torch.cat([x_BI[:, 7:], x_BI[:, :4]], dim=1)
    h_BH = silu(body.person_gate.hidden[0](torch.cat([person_BI, x_BI.detach()], dim=1)))
    scales = (2 * torch.sigmoid(body.person_gate.output(h_BH))).chunk(len(TASKS), dim=1)
    z = []
    for task in PLACES:
        h_BH, first = x_BI, 0
        for layer, width in zip(body.layers, body.widths, strict=True):
            h_BH = silu(alone(layer, task, h_BH)) * scales[task][:, first : first + width]
            first += width
        z.append(h_BH)
    return z


def stem(body: Any, x: Sequence[Tensor]) -> list[Tensor]:
    shared_BI, *of_tasks = x
    own, shared = experts(body.own_experts, of_tasks), experts(body.shared_experts, [shared_BI])
    per_task = body.own_experts.num_experts
    z = []
    for task, weight_BE in enumerate(gates(body.gates, of_tasks)):
        trained = range(task * per_task, (task + 1) * per_task)
        seen = [h_BH if place in trained else h_BH.detach() for place, h_BH in enumerate(own)]
        z.append(mix(weight_BE, seen + shared))
    return z


Reference = Callable[[Any, Sequence[Tensor]], list[Tensor]]
REFERENCES: dict[str, tuple[Reference, dict[str, Any]]] = {
    "aitm": (aitm, {"widths": (8, 6)}),
    "cgc": (cgc, {"num_shared_experts": 3, "num_task_experts": 2, "widths": (8, 6)}),
    "cross_stitch": (cross_stitch, {"widths": (8, 6, 5)}),
    "dbmtl": (dbmtl, {"widths": (8, 7), "task_widths": (6,), "relation_widths": (6, 5)}),
    "mmoe": (mmoe, {"num_experts": 3, "widths": (8, 6)}),
    "omoe": (omoe, {"num_experts": 3, "widths": (8, 6)}),
    "pepnet": (pepnet, {"domain_features": ("y",), "person_features": ("z", "x"), "widths": (8, 6), "gate_width": 5}),
    "ple": (ple, {"num_shared_experts": 3, "num_task_experts": 2, "levels": ((8, 7), (6,), (5, 4))}),
    "shared_bottom": (shared_bottom, {"widths": (8, 6)}),
    "single_task": (single_task, {"widths": (8, 6)}),
    "stem": (stem, {"num_shared_experts": 2, "num_task_experts": 3, "widths": (8, 6)}),
}


def test_every_body_has_a_reference() -> None:
    assert REFERENCES.keys() == BODIES.keys()


@pytest.mark.parametrize("name", REFERENCES)
def test_a_body_equals_a_loop_over_its_networks(name: str) -> None:
    """In float64, where an error of the layout cannot hide behind rounding, nor rounding look like one."""
    torch.manual_seed(0)
    reference, options = REFERENCES[name]
    num_groups = {"single_task": len(TASKS), "stem": len(TASKS) + 1}.get(name, 1)
    body = with_random_biases(BODIES[name](Inputs(INPUTS, num_groups), TASKS, **options)).double()
    x_BGI = torch.randn(7, num_groups, sum(INPUTS.values()), dtype=torch.float64, requires_grad=True)
    found = body(x_BGI if num_groups > 1 else x_BGI[:, 0])
    expected = torch.stack(reference(body, x_BGI.unbind(dim=1)), dim=1)
    assert found.shape == (7, len(TASKS), body.output_width)
    assert_same(found, expected, [x_BGI, *body.parameters()])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cgc", "0 shared experts and 2 per task"),
        ("ple", "levels are empty"),
        ("pepnet", "person_features is empty"),
        ("mmoe", "widths are"),
    ],
)
def test_options_that_make_no_body_are_refused(name: str, message: str) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "cgc": {"num_shared_experts": 0},
        "ple": {"levels": ()},
        "pepnet": {},
        "mmoe": {"widths": ()},
    }
    with pytest.raises(ValueError, match=message):
        BODIES[name](Inputs(INPUTS), TASKS, **wrong[name])


def test_pepnet_names_the_inputs_when_a_feature_is_none_of_them() -> None:
    with pytest.raises(ValueError, match="'user' is not an input; the inputs are x, y, z"):
        BODIES["pepnet"](Inputs(INPUTS), TASKS, person_features=("user",))


def test_the_columns_of_an_input_are_where_its_values_lie() -> None:
    inputs = Inputs(INPUTS)
    assert inputs.width == 10
    assert inputs.columns(["z", "x"]) == [7, 8, 9, 0, 1, 2, 3]
    ends = [inputs.columns([name]) for name in INPUTS]
    assert all(after[0] == before[-1] + 1 for before, after in pairwise(ends))
