"""The large matrix products of a model's layers.

Shapes: N networks side by side, B rows, I input width, H output width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# For code that it compiles torch has oneDNN's product of float32 matrices on a CPU. Elsewhere it takes MKL's, which
# reach half of that speed on AMD processors. None where torch is built without.
_linear: Callable[..., Tensor] | None = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
# Narrower products are as fast either way, and their weight gradients slower by oneDNN.
SMALLEST_WIDTH = 128


def batched_linear(bias_N1H: Tensor, x_NBI: Tensor, weight_NIH: Tensor) -> Tensor:
    """x_n * weight_n + bias_n for each of N networks: [N, B, H]."""
    if not _is_for_onednn(x_NBI, weight_NIH):
        return torch.baddbmm(bias_N1H, x_NBI, weight_NIH)
    y_NBH: Tensor = _OneDnnLinear.apply(bias_N1H, x_NBI, weight_NIH)  # type: ignore[no-untyped-call]
    return y_NBH


def is_run_as_written() -> bool:
    """Whether what is called now is run by itself, and not exported, compiled, or transformed by `torch.func`.

    Only then are there gradients of our own: a program that is exported keeps to what every torch has.
    """
    return not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()


def has_onednn_product(type_: torch.dtype) -> bool:
    """Whether there is an `onednn_product` of matrices of a type."""
    return _linear is not None and type_ == torch.float32


def onednn_product(left_BI: Tensor, right_HI: Tensor, bias_H: Tensor | None = None) -> Tensor:
    """left * right^T + bias on a CPU: [B, H].

    `right_HI` or its transpose must be in one piece: over other strides there is only oneDNN's reference code, which is
    hundreds of times as slow.
    """
    assert _linear is not None
    return _linear(left_BI, right_HI, bias_H, "none", [], "")


def _is_for_onednn(x_NBI: Tensor, weight_NIH: Tensor) -> bool:
    return (
        x_NBI.device.type == "cpu"
        and x_NBI.dtype == weight_NIH.dtype
        and has_onednn_product(x_NBI.dtype)
        and not torch.is_autocast_enabled("cpu")
        and is_run_as_written()
        and min(weight_NIH.shape[1:]) >= SMALLEST_WIDTH
    )


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bias_N1H: Tensor, x_NBI: Tensor, weight_NIH: Tensor) -> Tensor:
        ctx.save_for_backward(x_NBI, weight_NIH)
        networks = zip(x_NBI, weight_NIH, bias_N1H, strict=True)
        return _stack([onednn_product(x_BI, weight_IH.T, bias_1H[0]) for x_BI, weight_IH, bias_1H in networks])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NBH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_NBI, weight_NIH = ctx.saved_tensors
        gradient_NBH = gradient_NBH.contiguous()
        x = [onednn_product(g_BH, weight_IH) for g_BH, weight_IH in zip(gradient_NBH, weight_NIH, strict=True)]
        weight = [onednn_product(x_BI.T, g_BH.T) for x_BI, g_BH in zip(x_NBI, gradient_NBH, strict=True)]
        return gradient_NBH.sum(dim=1, keepdim=True), _stack(x), _stack(weight)


def _stack(parts: Sequence[Tensor]) -> Tensor:
    return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(tuple(parts))
