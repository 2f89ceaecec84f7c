"""Pairs of a request and an item: what belongs to one of them is looked up and multiplied once for all its pairs.

Shapes: B pairs, U requests, M items, S = U + M halves, D numeric inputs, N values of all rows one after the other,
K embedding width, G groups of tables, I input width, J width of what belongs to a pair and to neither half, O outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from models.inputs import DENSE_PART
from models.paired_inputs import Halves, PairedInputs, sum_pairs
from models.serving import DENSE, IDS, ServingFrontEnd, ServingModel, lengths_of
from models.tasks import predictions

# So many pairs at a time: what a layer leaves is then still in the cache of the core when the next one reads it. A GPU
# is given enough to be busy with.
PAIRS_PER_BLOCK = 2048
GPU_PAIRS_PER_BLOCK = 1 << 17


class Side(NamedTuple):
    """The requests or the items of pairs: inputs as `ServingFrontEnd` takes them, of some of its features and numbers.

    `dense_columns` are the places of its numbers among all; pair b has row `row_B[b]` of the inputs.
    """

    inputs: Mapping[str, Tensor]
    dense_columns: Sequence[int]
    row_B: Tensor
    num_rows: int


@torch.inference_mode()
def predict_pairs(model: ServingModel, request: Side, item: Side) -> dict[str, Tensor]:
    """The outputs of each pair, as the model gives them for rows that have the inputs of both sides: each [B].

    Memory grows with the halves (their inputs and first products) and with the outputs; the rest is done in blocks.

    Raises:
        ValueError: a feature or a number is on both sides, or on none.
    """
    pairs = _Pairs(model, request, item)
    pair_B2 = pairs.pair_B2
    num_outputs = sum(task.num_outputs for task in model.tasks)
    logit_BO = torch.empty(len(pair_B2), num_outputs, device=pair_B2.device)
    size = PAIRS_PER_BLOCK if pair_B2.device.type == "cpu" else GPU_PAIRS_PER_BLOCK

    @torch.inference_mode()  # which is a thread's own
    def compute(first: int) -> None:
        block = slice(first, first + size)
        logit_BO[block] = model.logits(pairs.inputs(pair_B2[block]))

    firsts = range(0, len(pair_B2), size)
    # The products of the halves are computed with the first block.
    for first in firsts[:1]:
        compute(first)
    num_threads = torch.get_num_threads() if pair_B2.device.type == "cpu" else 1
    _share_out(compute, firsts[1:], num_threads)
    return predictions(model.tasks, logit_BO)


def _share_out(compute: Callable[[int], None], firsts: Sequence[int], num_threads: int) -> None:
    """Computes blocks, each on one thread: threads that share a block wait for each other after every operation."""
    if min(num_threads, len(firsts)) < 2:
        for first in firsts:
            compute(first)
        return
    try:
        with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(compute, firsts):
                pass
    finally:
        # What a thread sets for itself is also what torch gives to new ones.
        torch.set_num_threads(num_threads)


class _Pairs:
    """The halves of some pairs, and what makes the inputs of a block of them."""

    def __init__(self, model: ServingModel, request: Side, item: Side) -> None:
        self.front_end, self.dtype = model.front_end, model.dtype
        self.sides = (request, item)
        _check_sides(self.front_end, self.sides)
        self.first_half = (0, request.num_rows)
        self.pair_B2 = torch.stack([request.row_B, item.row_B + request.num_rows], dim=1)
        parts = [self.front_end.look_up(side.inputs) for side in self.sides]
        self.histories = [name for name in self.front_end.attention if not any(name in own for own in parts)]
        self.projected_1SJ = self._project(parts)
        joint = [*self.histories, *([] if self.projected_1SJ is None else [DENSE_PART])]
        half_GSI = torch.cat([self._half(*one) for one in zip(self.sides, parts, strict=True)], dim=1)
        # An interaction is of the front end, which computes in float32.
        half_GSI = half_GSI.to(torch.float32 if self.front_end.interaction else self.dtype)
        joint_J = torch.tensor(self.front_end.parts.columns(joint), dtype=torch.int64, device=half_GSI.device)
        self.halves = Halves(half_GSI, joint_J, {})
        self.read_once = {name: self._history(name) for name in self.histories}

    def inputs(self, pair_B2: Tensor) -> Tensor:
        """What the body is given for a block of pairs."""
        joint = [self._attend(name, pair_B2) for name in self.histories]
        if self.projected_1SJ is not None:
            joint.append(self.front_end.by_group(silu(sum_pairs(self.projected_1SJ, pair_B2)[0], inplace=True)))
        half_GSI = self.halves.half_GSI
        if len(joint) == 1:
            (joint_GBJ,) = joint
        else:
            joint_GBJ = torch.cat([half_GSI.new_empty(len(half_GSI), len(pair_B2), 0), *joint], dim=2)
        x = self.front_end.mix(PairedInputs.of(self.halves, pair_B2, joint_GBJ.to(half_GSI.dtype)))
        return x if self.front_end.interaction is None else x.to(self.dtype)

    def _project(self, parts: Sequence[dict[str, Tensor]]) -> Tensor | None:
        """The projection's product of each half where both sides have numbers; else it is a part of one side."""
        if self.front_end.projection is None:
            return None
        layer = self.front_end.projection[0]
        assert isinstance(layer, nn.Linear)
        with_numbers = [place for place, side in enumerate(self.sides) if side.dense_columns]
        if len(with_numbers) == 1:
            (place,) = with_numbers
            side = self.sides[place]
            product = linear(side.inputs[DENSE], layer.weight[:, side.dense_columns], layer.bias)
            parts[place][DENSE_PART] = self.front_end.by_group(silu(product))
            return None
        biases = (layer.bias, None)
        return torch.cat(
            [
                linear(side.inputs[DENSE], layer.weight[:, side.dense_columns], bias)
                for side, bias in zip(self.sides, biases, strict=True)
            ]
        ).unsqueeze(0)

    def _half(self, side: Side, parts: Mapping[str, Tensor]) -> Tensor:
        """The inputs of one side's rows, zero where another side's or joint ones are: [G, rows, I]."""
        zeros = torch.zeros(self.front_end.num_groups, side.num_rows, 1, device=side.row_B.device)
        widths = self.front_end.parts.widths.items()
        return torch.cat([parts.get(name, zeros.expand(-1, -1, width)) for name, width in widths], dim=2)

    def _history(self, name: str) -> tuple[int, Tensor, Tensor]:
        """Of a history and a target on two sides: the place of the history's side, and the rows of both once."""
        place = next(place for place, side in enumerate(self.sides) if IDS + name in side.inputs)
        values_GNK = self.front_end.values(name, self.sides[place].inputs)
        return place, values_GNK, self.front_end.target(name, self.sides[1 - place].inputs)

    def _attend(self, name: str, pair_B2: Tensor) -> Tensor:
        place, value_GNK, target_GRK = self.read_once[name]
        lengths = lengths_of(name, self.sides[place].inputs)
        row_B = pair_B2[:, place] - self.first_half[place]
        lengths_B = lengths[row_B]
        # The values of a row stand together: from its first one on, as many as it has.
        shift_B = (lengths.cumsum(0) - lengths)[row_B] - (lengths_B.cumsum(0) - lengths_B)
        shift_N = shift_B.repeat_interleave(lengths_B)
        place_N = torch.arange(len(shift_N), device=shift_N.device) + shift_N
        target_row_B = pair_B2[:, 1 - place] - self.first_half[1 - place]
        return self.front_end.attend(
            name, value_GNK.index_select(1, place_N), lengths_B, target_GRK.index_select(1, target_row_B)
        )


def _check_sides(front_end: ServingFrontEnd, sides: Sequence[Side]) -> None:
    for name in front_end.table_of_feature:
        found = [side for side in sides if IDS + name in side.inputs]
        if len(found) != 1:
            raise ValueError(f"feature {name!r} is on {len(found)} sides of the pairs, and must be on one")
    columns = sorted(column for side in sides for column in side.dense_columns)
    if columns != list(range(front_end.num_dense)):
        raise ValueError(f"the sides have numbers {columns}, and must have each of {front_end.num_dense} once")
