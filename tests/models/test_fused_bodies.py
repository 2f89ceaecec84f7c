"""The batched products of bodies against plain loops over their tasks and experts.

Shapes: B rows, I input width, G inputs, E experts, T tasks, H hidden width.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from networks_one_by_one import alone, assert_same, experts, gates, with_random_biases
from torch import Tensor, nn
from torch.nn.functional import silu

from models.bodies.cgc import ExtractionLevel
from models.catalogue import BODIES
from models.inputs import Inputs
from models.tasks import Task

TASKS = (Task("a", "binary"), Task("b", "binary", space="a"), Task("c", "binary"), Task("d", "binary", space="b"))
PLACES = range(len(TASKS))
INPUTS = {"x": 4, "y": 3, "z": 3}


def mix(weight_BE: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """The sum over experts of weight times output: [B, H]."""
    total = torch.zeros_like(outputs[0])
    for expert, h_BH in enumerate(outputs):
        total = total + weight_BE[:, expert, None] * h_BH
    return total


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
