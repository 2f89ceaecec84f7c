"""The networks of a batched layer computed one after the other, and what must equal them.

Shapes: B rows, I input width, G inputs, E experts, H hidden width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softmax

from models.layers import BatchedLinear, ExpertBank, SoftmaxGates


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
