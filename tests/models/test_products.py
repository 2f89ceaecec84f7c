"""The large products: the same numbers by either library, forwards and backwards."""

import pytest
import torch
from torch import Tensor

from models import products
from models.layers import ExpertBank
from models.products import SMALLEST_WIDTH, batched_linear, mix_experts

WIDE = SMALLEST_WIDTH + 3


def make_factors(num_networks: int, input_width: int, output_width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (num_networks, 1, output_width), (num_networks, 70, input_width), (num_networks, input_width, output_width)
    bias, x, weight = (torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes)
    return bias, x, weight


def product_and_gradients(factors: tuple[Tensor, Tensor, Tensor], gradient_NBH: Tensor) -> list[Tensor]:
    y_NBH = batched_linear(*factors)
    return [y_NBH.detach(), *torch.autograd.grad(y_NBH, factors, gradient_NBH)]


@pytest.mark.parametrize("num_networks", [1, 3])
def test_wide_products_and_their_gradients_are_those_of_torch_to_rounding(
    num_networks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors = make_factors(num_networks, WIDE, 2 * WIDE)
    gradient = torch.randn(num_networks, 70, 2 * WIDE, generator=torch.Generator().manual_seed(2))
    by_onednn = product_and_gradients(factors, gradient)
    monkeypatch.setattr(products, "_linear", None)
    by_torch = product_and_gradients(factors, gradient)
    exact = [part.detach().double().requires_grad_() for part in factors]
    expected = product_and_gradients((exact[0], exact[1], exact[2]), gradient.double())
    for own, other, wanted in zip(by_onednn, by_torch, expected, strict=True):
        assert own.shape == other.shape == wanted.shape
        scale = wanted.abs().max()
        assert (own - wanted).abs().max() < 1e-6 * scale
        assert (other - wanted).abs().max() < 1e-6 * scale


def test_inputs_and_gradients_over_strides_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    bias, x, weight = make_factors(2, WIDE, WIDE)
    gradient = torch.randn(2, 70, WIDE, generator=torch.Generator().manual_seed(2))
    expected = product_and_gradients((bias, x, weight), gradient)
    strided = x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    found = product_and_gradients((bias, strided, weight), gradient.transpose(1, 2).contiguous().transpose(1, 2))
    assert not strided.is_contiguous()
    for own, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-4)


def test_narrow_products_are_those_of_torch_to_the_bit() -> None:
    bias, x, weight = make_factors(3, WIDE, SMALLEST_WIDTH - 1)
    assert torch.equal(batched_linear(bias, x, weight), torch.baddbmm(bias, x, weight))


@pytest.mark.parametrize("num_networks", [1, 3])
@pytest.mark.parametrize("width", [SMALLEST_WIDTH // 2, WIDE])
def test_under_autocast_products_and_their_gradients_are_right_to_the_rounding_of_bfloat16(
    num_networks: int, width: int
) -> None:
    factors = make_factors(num_networks, WIDE, width)
    gradient = torch.randn(num_networks, 70, width, generator=torch.Generator().manual_seed(2))
    expected = product_and_gradients(factors, gradient)
    with torch.autocast("cpu", torch.bfloat16):
        y = batched_linear(*factors)
    assert y.dtype == torch.bfloat16
    gradients = torch.autograd.grad(y, factors, gradient.bfloat16())
    assert all(part.dtype == torch.float32 for part in gradients)
    for own, wanted in zip([y.detach(), *gradients], expected, strict=True):
        assert own.shape == wanted.shape
        assert (own - wanted).norm() < 0.01 * wanted.norm()


@pytest.mark.parametrize("is_row_by_row", [True, False])
def test_mixed_experts_and_their_gradients_are_those_of_torch(is_row_by_row: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, gradient = torch.rand(70, 3, 5, generator=generator), torch.randn(70, 3, 16, generator=generator)
    expert = torch.randn(5, 70, 16, generator=generator).transpose(0, 1)
    parts = [weight, expert.contiguous() if is_row_by_row else expert]
    weight, expert = (part.bfloat16().requires_grad_() for part in parts)
    assert expert.is_contiguous() == is_row_by_row
    found = mix_experts(weight, expert)
    expected = torch.bmm(weight, expert)
    assert torch.equal(found, expected)
    gradients = torch.autograd.grad(found, (weight, expert), gradient.bfloat16())
    for own, wanted in zip(
        gradients, torch.autograd.grad(expected, (weight, expert), gradient.bfloat16()), strict=True
    ):
        torch.testing.assert_close(own, wanted, rtol=0.02, atol=0.02)
    assert gradients[1].stride() == expert.stride()
    (of_weight,) = torch.autograd.grad(mix_experts(weight, expert.detach()), weight, gradient.bfloat16())
    assert torch.equal(of_weight, gradients[0])


def test_factors_of_two_types_are_refused_without_autocast() -> None:
    bias, x, weight = make_factors(1, WIDE, WIDE)
    with pytest.raises(RuntimeError, match="same dtype"):
        batched_linear(bias, x, weight.bfloat16())
    with pytest.raises(RuntimeError, match="same dtype"):
        mix_experts(x, weight.bfloat16())


def test_the_locked_torch_has_the_product() -> None:
    assert products.has_onednn_product(torch.float32)


def test_wide_experts_can_be_transformed() -> None:
    torch.manual_seed(0)
    experts, x_2BI = ExpertBank(WIDE, 2, (WIDE, WIDE)), torch.randn(2, 5, WIDE)
    found = torch.func.vmap(lambda x_BI: experts(x_BI.unsqueeze(0)))(x_2BI)
    expected = torch.stack([experts(x_BI.unsqueeze(0)) for x_BI in x_2BI])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
