"""The building blocks of bodies and towers: every group of equal networks is one batched matrix product.

The activation is SiLU: it has no kink, so rounding stays rounding. See infra/docs/decisions.md.

Shapes: B rows, I input width, G inputs side by side, N networks, E experts, T tasks, O outputs, H hidden width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from models.products import batched_linear, is_run_as_written

# Where a model serves, in torch's inference mode, these are faster forms of the same: in the place of what they are
# computed from, or summed in another order. Training keeps the plain ones, and its results to the last bit.


def silu(x: Tensor) -> Tensor:
    """The activation of a layer's own output."""
    return functional.silu(x, inplace=_is_serving())


def silu_apart(h_GBN: Tensor, num_networks: int) -> Tensor:
    """The activation of networks that lie side by side, each by itself: [G, B, N * H] -> [G * N, B, H] in one piece.

    Over strides the weight gradient of the next layer would take many times as long.
    """
    if not is_run_as_written() or _is_serving():
        return _apart(silu(h_GBN), num_networks).flatten(0, 1).contiguous()
    h_NBH: Tensor = _SiluApart.apply(h_GBN, num_networks)  # type: ignore[no-untyped-call]
    return h_NBH


def _apart(h_GBN: Tensor, num_networks: int) -> Tensor:
    return h_GBN.view(*h_GBN.shape[:2], num_networks, -1).transpose(1, 2)


class _SiluApart(torch.autograd.Function):
    """One pass over the memory each way, where an activation and a copy take two."""

    @staticmethod
    def forward(ctx: Any, h_GBN: Tensor, num_networks: int) -> Tensor:
        ctx.save_for_backward(h_GBN)
        ctx.num_networks = num_networks
        h_GNBH = _apart(h_GBN, num_networks)
        out_GNBH = torch.empty_like(h_GNBH, memory_format=torch.contiguous_format)
        torch.ops.aten.silu.out(h_GNBH, out=out_GNBH)
        return out_GNBH.flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NBH: Tensor) -> tuple[Tensor, None]:
        (h_GBN,) = ctx.saved_tensors
        h_GNBH, gradient_GBN = _apart(h_GBN, ctx.num_networks), torch.empty_like(h_GBN)
        torch.ops.aten.silu_backward.grad_input(
            gradient_NBH.view(h_GNBH.shape), h_GNBH, grad_input=_apart(gradient_GBN, ctx.num_networks)
        )
        return gradient_GBN, None


def softmax(logit: Tensor) -> Tensor:
    """Over the last dimension, which has the few experts of a gate."""
    if not _is_serving():
        return logit.softmax(dim=-1)
    # Across long rows instead of along short ones: 10 times as fast for 4 experts.
    weight: Tensor = logit.flatten(0, -2).T.contiguous().softmax(dim=0).T.view(logit.shape)
    return weight


def _is_serving() -> bool:
    # While torch compiles it cannot ask for the mode, and would compile what comes before and after by itself.
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


class Untraced(nn.Module):
    """A function as a module without parameters.

    TorchRec's pipelines trace a model down to its tables to find their inputs, and go around modules like this, so that
    what the function does need not be traceable.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class MLP(nn.Sequential):
    """Linear and SiLU per width: [B, I] -> [B, widths[-1]]."""

    def __init__(self, input_width: int, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise([input_width, *check_widths(widths)]):
            linear = nn.Linear(before, after)
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.SiLU()]
        super().__init__(*layers)


class BatchedLinear(nn.Module):
    """N linear layers side by side, one product for all: [N, B, I] -> [N, B, H]."""

    def __init__(self, num_networks: int, input_width: int, output_width: int, gain: float = math.sqrt(2.0)) -> None:
        super().__init__()
        bound = gain * math.sqrt(3.0 / input_width)
        self.weight_NIH = nn.Parameter(torch.empty(num_networks, input_width, output_width).uniform_(-bound, bound))
        self.bias_N1H = nn.Parameter(torch.zeros(num_networks, 1, output_width))

    def forward(self, x_NBI: Tensor) -> Tensor:
        if self.weight_NIH.shape[2] == 1 and _is_serving():
            return (x_NBI * self.weight_NIH.mT).sum(dim=2, keepdim=True) + self.bias_N1H
        return batched_linear(self.bias_N1H, x_NBI, self.weight_NIH)


class ExpertBank(nn.Module):
    """The experts on each of G inputs, as many on each: [G, B, I] -> [B, G * E, H] with H = widths[-1].

    Experts with the same input share the product of their first layer, [B, I] x [I, E * H1]; all inputs together, and
    each later layer of all experts, are one batched product.
    """

    def __init__(self, input_width: int, num_experts: int, widths: Sequence[int], num_groups: int = 1) -> None:
        super().__init__()
        if num_experts < 1:
            raise ValueError(f"the number of experts is {num_experts}, and must be at least 1")
        check_widths(widths)
        self.num_experts = num_experts
        self.output_width = widths[-1]
        self.first = BatchedLinear(num_groups, input_width, num_experts * widths[0])
        # Each expert is a network by itself: its first layer starts as if it stood alone.
        self.later = nn.ModuleList(
            BatchedLinear(num_groups * num_experts, before, after) for before, after in pairwise(widths)
        )

    def forward(self, x_GBI: Tensor) -> Tensor:
        h_EBH = silu_apart(self.first(x_GBI), self.num_experts)
        for layer in self.later:
            h_EBH = silu(layer(h_EBH))
        h_BEH: Tensor = h_EBH.transpose(0, 1)
        return h_BEH


class SoftmaxGates(nn.Module):
    """Gates over E experts on each of G inputs, as many on each, in one product: [G, B, I] -> [B, G * gates, E]."""

    def __init__(self, input_width: int, num_gates: int, num_experts: int, num_groups: int = 1) -> None:
        super().__init__()
        self.num_gates = num_gates
        bound = math.sqrt(6.0 / (input_width + num_experts))
        self.weight_GIN = nn.Parameter(
            torch.empty(num_groups, input_width, num_gates * num_experts).uniform_(-bound, bound)
        )

    def forward(self, x_GBI: Tensor) -> Tensor:
        logit_GBN = torch.bmm(x_GBI, self.weight_GIN)
        weight_GBNE = softmax(logit_GBN.view(*x_GBI.shape[:2], self.num_gates, -1))
        return weight_GBNE.transpose(0, 1).flatten(1, 2)


@dataclass(frozen=True)
class Mixture:
    """Experts and the gates that mix them, for a look inside a body.

    `expert_BEH` is what each expert says, `weight_BTE` how much each task takes of it, and `seen_TE` (bool) which
    experts a task's gate sees at all; where it does not, the weight is 0.
    """

    names: tuple[str, ...]
    expert_BEH: Tensor
    weight_BTE: Tensor
    seen_TE: Tensor


def mix(body: nn.Module, x_BI: Tensor) -> tuple[Tensor, dict[str, Mixture]]:
    """What a body gives, and the mixtures of its levels, none for a body without experts."""
    own: Callable[[Tensor], tuple[Tensor, dict[str, Mixture]]] | None = getattr(body, "mix", None)
    return own(x_BI) if own else (body(x_BI), {})


class Towers(nn.Module):
    """One small MLP per task, all tasks in one batched product a layer, ending in the outputs: [B, T, H] -> [B, O]."""

    def __init__(self, num_outputs: Sequence[int], input_width: int, widths: Sequence[int]) -> None:
        super().__init__()
        sizes = [input_width, *(check_widths(widths) if widths else ())]
        self.hidden = nn.ModuleList(BatchedLinear(len(num_outputs), before, after) for before, after in pairwise(sizes))
        self.output = BatchedLinear(sum(num_outputs), sizes[-1], 1, gain=1.0 / math.sqrt(3.0))
        self.task_O: Tensor
        places = [task for task, count in enumerate(num_outputs) for _ in range(count)]
        self.register_buffer("task_O", torch.tensor(places), persistent=False)
        self.has_one_output_each = max(num_outputs) == 1

    def forward(self, z_BTH: Tensor) -> Tensor:
        h_TBH = z_BTH.transpose(0, 1).contiguous()
        for layer in self.hidden:
            h_TBH = silu(layer(h_TBH))
        h_OBH = h_TBH if self.has_one_output_each else h_TBH.index_select(0, self.task_O)
        output_OB: Tensor = self.output(h_OBH).squeeze(-1)
        return output_OB.transpose(0, 1)


def check_widths(widths: Sequence[int]) -> Sequence[int]:
    """The widths of layers, unchanged.

    Raises:
        ValueError: there is none, or one is below 1.
    """
    if not widths or min(widths) < 1:
        raise ValueError(f"widths are {list(widths)}, and must be one or more numbers of at least 1")
    return widths
