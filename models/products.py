"""The large matrix products of a model's layers.

Shapes: N networks side by side, B rows, I input width, H output width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# For code that it compiles torch has oneDNN's product of two matrices on a CPU, with the bias in the same pass.
# Elsewhere it takes MKL's for float32, which reach half of that speed on AMD processors. None where torch is built
# without.
_linear: Callable[..., Tensor] | None = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
# Narrower products are as fast either way, and their weight gradients slower by oneDNN.
SMALLEST_WIDTH = 128


def batched_linear(bias_N1H: Tensor, x_NBI: Tensor, weight_NIH: Tensor) -> Tensor:
    """x_n * weight_n + bias_n for each of N networks: [N, B, H]."""
    type_ = _own_type(x_NBI, weight_NIH)
    is_wide = min(weight_NIH.shape[1:]) >= SMALLEST_WIDTH
    if is_wide and has_onednn_product(type_) and (type_ == torch.float32 or len(weight_NIH) == 1):
        factors = [part.to(type_) for part in (bias_N1H, x_NBI, weight_NIH)]
        y_NBH: Tensor = _OneDnnLinear.apply(*factors)  # type: ignore[no-untyped-call]
        return y_NBH
    if type_ == torch.bfloat16:
        # `baddbmm` would write the bias to all of its output, and read it again.
        return torch.bmm(x_NBI, weight_NIH).add_(bias_N1H.to(type_))
    return torch.baddbmm(bias_N1H, x_NBI, weight_NIH)


def as_factor(x: Tensor) -> Tensor:
    """x in the type that its products have, made once for all of them; under autocast each would make it again."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def mix_experts(weight_BTE: Tensor, expert_BEH: Tensor) -> Tensor:
    """The sum over e of weight_te * expert_e in each row: [B, T, H]."""
    type_ = _own_type(weight_BTE, expert_BEH)
    if type_ != torch.bfloat16:
        return torch.bmm(weight_BTE, expert_BEH)
    z_BTH: Tensor = _MixedExperts.apply(weight_BTE.to(type_), expert_BEH.to(type_))  # type: ignore[no-untyped-call]
    return z_BTH


def is_run_as_written() -> bool:
    """Whether what is called now is run by itself, and not exported, compiled, or transformed by `torch.func`.

    Only then are there gradients of our own: a program that is exported keeps to what every torch has.
    """
    return not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()


def has_onednn_product(type_: torch.dtype | None) -> bool:
    """Whether there is an `onednn_product` of matrices of a type."""
    return _linear is not None and type_ in (torch.float32, torch.bfloat16)


def onednn_product(left_BI: Tensor, right_HI: Tensor, bias_H: Tensor | None = None) -> Tensor:
    """left * right^T + bias on a CPU: [B, H].

    `right_HI` or its transpose must be in one piece: over other strides there is only oneDNN's reference code, which is
    hundreds of times as slow.
    """
    assert _linear is not None
    return _linear(left_BI, right_HI, bias_H, "none", [], "")


def _own_type(left: Tensor, right: Tensor) -> torch.dtype | None:
    """The type of a product where it may have a gradient of ours; else None, also for types that torch refuses."""
    if left.device.type != "cpu" or not is_run_as_written():
        return None
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return left.dtype if left.dtype == right.dtype else None


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
        if x_NBI.dtype == torch.bfloat16:  # which torch too has of oneDNN, and here without a copy
            weight_NIH = torch.bmm(x_NBI.mT, gradient_NBH)
        else:
            # oneDNN copies its left factor across, so that it is the narrower one.
            is_wider = x_NBI.shape[2] > gradient_NBH.shape[2]
            left, right = (gradient_NBH, x_NBI) if is_wider else (x_NBI, gradient_NBH)
            product = _stack([onednn_product(one.T, other.T) for one, other in zip(left, right, strict=True)])
            weight_NIH = product.mT if is_wider else product
        return gradient_NBH.sum(dim=1, keepdim=True), _stack(x), weight_NIH


class _MixedExperts(torch.autograd.Function):
    """torch's product, whose gradients would be copied: the experts lie one after the other, not row by row."""

    @staticmethod
    def forward(ctx: Any, weight_BTE: Tensor, expert_BEH: Tensor) -> Tensor:
        ctx.strides = expert_BEH.stride()
        expert_BEH = expert_BEH.contiguous()
        ctx.save_for_backward(weight_BTE, expert_BEH)
        return torch.bmm(weight_BTE, expert_BEH)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BTH: Tensor) -> tuple[Tensor, Tensor | None]:
        weight_BTE, expert_BEH = ctx.saved_tensors
        expert_gradient_BEH = None
        if ctx.needs_input_grad[1]:
            out_BEH = expert_BEH.new_empty_strided(expert_BEH.shape, ctx.strides)
            expert_gradient_BEH = torch.bmm(weight_BTE.mT, gradient_BTH, out=out_BEH)
        return torch.bmm(expert_BEH, gradient_BTH.mT).mT, expert_gradient_BEH


def _stack(parts: Sequence[Tensor]) -> Tensor:
    return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(tuple(parts))
