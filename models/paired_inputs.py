"""The inputs of pairs of a request and an item, without a row for each: products are taken of the halves, and added.

Shapes: B pairs, S halves (those of all requests and those of all items), G groups of inputs, I width, J width of what
belongs to a pair and to neither of its halves, N width of a product.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

# By what is multiplied and added: these tensors, the product of the halves, and the weight's rows for what is joint.
Products = dict[Any, tuple[tuple[Tensor, ...], Tensor, Tensor]]


class Halves(NamedTuple):
    """What pairs are made of. Columns `joint_J` of the inputs are zero in `half_GSI`, and come with the pairs."""

    half_GSI: Tensor
    joint_J: Tensor
    products: Products


class PairedInputs(Tensor):
    """Stands in for x_BI or x_BGI, whose row b is the sum of the two halves that pair_B2[b] names, and of joint_GBJ.

    A product with a matrix is linear: it is taken once of each half, kept for the other pairs of the same halves, and
    added up for each pair. x.unsqueeze(0), x.transpose(0, 1), x.expand(n, -1, -1) and x[slice] may come before it.
    Whatever else is done with the inputs makes the plain tensor first, so that every body and interaction works.

    The tensor underneath is empty, so that nothing in torch can take it for the inputs.
    """

    halves: Halves
    pair_B2: Tensor
    joint_GBJ: Tensor
    # Where the dimension of the groups is: "BI" (there is none), "BGI" or "GBI".
    order: str
    plain: Tensor | None

    @classmethod
    def of(cls, halves: Halves, pair_B2: Tensor, joint_GBJ: Tensor) -> "PairedInputs":
        """The inputs of B pairs: [B, I], or [B, G, I] if there is more than one group."""
        return cls._make(halves, pair_B2, joint_GBJ, "BI" if len(joint_GBJ) == 1 else "BGI")

    @classmethod
    def _make(cls, halves: Halves, pair_B2: Tensor, joint_GBJ: Tensor, order: str) -> "PairedInputs":
        made = joint_GBJ.new_empty(0).as_subclass(cls)
        made.halves, made.pair_B2, made.joint_GBJ, made.order, made.plain = halves, pair_B2, joint_GBJ, order, None
        return made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            known = None if kwargs else _KNOWN.get(func)
            result = known(*args) if known else NotImplemented
            if result is NotImplemented:
                result = func(*_as_plain(args), **_as_plain(kwargs or {}))
            return result

    def _regrouped(self, change: Callable[[Tensor], Tensor], order: str) -> "PairedInputs":
        """The same pairs, the groups of their halves and joint parts changed."""
        halves = self.halves._replace(half_GSI=change(self.halves.half_GSI))
        return self._make(halves, self.pair_B2, change(self.joint_GBJ), order)

    def _sizes(self) -> torch.Size:
        sizes = {"G": len(self.joint_GBJ), "B": len(self.pair_B2), "I": self.halves.half_GSI.shape[2]}
        return torch.Size(sizes[dimension] for dimension in self.order)

    def _product(self, weight_GIN: Tensor, bias_G1N: Tensor | None) -> Tensor:
        """[G, B, N]."""
        half_GSI, joint_J, products = self.halves
        # By places in memory: a slice or a transpose of a parameter is a new tensor each time. To keep weight and bias
        # keeps their places from being used again.
        factors = (weight_GIN, half_GSI, *([] if bias_G1N is None else [bias_G1N]))
        key = tuple((one.data_ptr(), one.shape, one.stride()) for one in factors)
        if key not in products:
            # Both halves have half of the bias.
            half_GSN = (
                torch.bmm(half_GSI, weight_GIN)
                if bias_G1N is None
                else torch.baddbmm(bias_G1N, half_GSI, weight_GIN, beta=0.5)
            )
            products[key] = (factors, half_GSN, weight_GIN.index_select(1, joint_J))
        _, half_GSN, joint_weight_GJN = products[key]
        product_GBN = sum_pairs(half_GSN, self.pair_B2)
        return product_GBN.baddbmm_(self.joint_GBJ, joint_weight_GJN) if len(joint_J) else product_GBN

    def _plain_tensor(self) -> Tensor:
        if self.plain is None:
            x_GBI = sum_pairs(self.halves.half_GSI, self.pair_B2)
            x_GBI[:, :, self.halves.joint_J] = self.joint_GBJ
            self.plain = {"BI": x_GBI[0], "GBI": x_GBI, "BGI": x_GBI.transpose(0, 1)}[self.order]
        return self.plain


def sum_pairs(half_GSN: Tensor, pair_B2: Tensor) -> Tensor:
    """[G, B, N]; a bag of two is summed in one pass, three times as fast as two selections and a sum."""
    num_groups, num_halves, width = half_GSN.shape
    if num_groups == 1:
        return embedding_bag(pair_B2, half_GSN[0], mode="sum").unsqueeze(0)
    first_G = num_halves * torch.arange(num_groups, device=pair_B2.device)
    pair_GB2 = (pair_B2 + first_G[:, None, None]).flatten(0, 1)
    return embedding_bag(pair_GB2, half_GSN.flatten(0, 1), mode="sum").view(num_groups, -1, width)


def _as_plain(value: Any) -> Any:
    if isinstance(value, PairedInputs):
        return value._plain_tensor()
    if isinstance(value, list | tuple):
        return type(value)(map(_as_plain, value))
    return {name: _as_plain(one) for name, one in value.items()} if isinstance(value, dict) else value


# --- what is done without the plain tensor


def _unsqueeze(x: PairedInputs, dim: int) -> Any:
    return x._regrouped(lambda one: one, "GBI") if x.order == "BI" and dim == 0 else NotImplemented


def _transpose(x: PairedInputs, first: int, second: int) -> Any:
    swapped = {"BGI": "GBI", "GBI": "BGI"}.get(x.order)
    return x._regrouped(lambda one: one, swapped) if swapped and {first, second} == {0, 1} else NotImplemented


def _expand(x: PairedInputs, *sizes: int) -> Any:
    if x.order != "BI" or len(sizes) != 3 or sizes[1:] != (-1, -1):
        return NotImplemented
    return x._regrouped(lambda one: one.expand(*sizes), "GBI")


def _getitem(x: PairedInputs, place: Any) -> Any:
    if x.order != "GBI" or not isinstance(place, slice):
        return NotImplemented
    return x._regrouped(lambda one: one[place], "GBI")


def _bmm(x: Tensor, weight_GIN: Tensor) -> Any:
    return x._product(weight_GIN, None) if _is_first(x, "GBI", weight_GIN) else NotImplemented


def _baddbmm(bias_G1N: Tensor, x: Tensor, weight_GIN: Tensor) -> Any:
    if not _is_first(x, "GBI", bias_G1N, weight_GIN):
        return NotImplemented
    # What is added may be something else for each row.
    return x._product(weight_GIN, bias_G1N) if bias_G1N.dim() == 3 and bias_G1N.shape[1] == 1 else NotImplemented


def _linear(x: Tensor, weight_NI: Tensor, bias_N: Tensor | None = None) -> Any:
    if not _is_first(x, "BI", weight_NI):
        return NotImplemented
    return x._product(weight_NI.T[None], None if bias_N is None else bias_N[None, None])[0]


def _is_first(x: Tensor, order: str, *others: Tensor) -> TypeGuard[PairedInputs]:
    """Whether the inputs, in this order, are the first factor and nothing else."""
    is_paired = isinstance(x, PairedInputs) and x.order == order
    return is_paired and not any(isinstance(other, PairedInputs) for other in others)


_KNOWN: dict[Any, Callable[..., Any]] = {
    Tensor.shape.__get__: PairedInputs._sizes,  # type: ignore[attr-defined]
    Tensor.unsqueeze: _unsqueeze,
    Tensor.transpose: _transpose,
    Tensor.expand: _expand,
    Tensor.__getitem__: _getitem,
    torch.bmm: _bmm,
    torch.baddbmm: _baddbmm,
    torch.nn.functional.linear: _linear,
}
