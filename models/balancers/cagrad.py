"""CAGrad, conflict-averse gradient descent (Liu et al., NeurIPS 2021): near the mean gradient, best for the worst."""

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from models.balancers.balancer import Balancer, Weights
from models.tasks import Task

MAX_MOVES = 2000
TOLERANCE = 1e-12
SMOOTHING = 1e-8
MAX_CANCELLATION = 1e4
Vector = list[float]


class CAGrad(Balancer):
    """The direction within c times the mean gradient's norm of it that improves the worst task most.

    It is g_0 + c |g_0| g_w / |g_w| with g_0 the mean gradient and g_w the mix that is least in `worst_case`; times T,
    so that c = 0 gives the plain sum of the gradients.
    """

    needs_gradients: ClassVar[bool] = True

    def __init__(self, tasks: Sequence[Task], *, c: float = 0.4) -> None:
        super().__init__(tasks)
        if not 0 <= c < 1:
            raise ValueError(f"c {c} must be from 0 to below 1")
        self.c = c

    def weights(self, loss_T: Tensor, gram_TT: Tensor | None, step: int) -> Weights:
        assert gram_TT is not None
        shared_T = self.equal_weights(loss_T)
        # A task without a row has no gradient: leaving it as it is would be the best mix of all.
        present = gram_TT.diagonal().gt(0).nonzero().flatten().tolist()
        if present:
            gram_PP = gram_TT[present][:, present]
            gram: list[Vector] = (gram_PP / gram_PP.max()).tolist()
            mix = least_mix(gram, self.c)
            mean_length = length_of(gram, [1 / len(gram)] * len(gram))
            # Where the gradients cancel out, no direction helps all tasks, and large weights would bring out rounding.
            lengths = sum(share * math.sqrt(gram[task][task]) for task, share in enumerate(mix))
            length = max(length_of(gram, mix), lengths / MAX_CANCELLATION)
            shared_T[present] += len(gram) * self.c * mean_length / length * shared_T.new_tensor(mix)
        return Weights(self.equal_weights(loss_T), shared_T)


def least_mix(gram: list[Vector], c: float) -> Vector:
    """The shares, at least 0 and 1 together, that minimise `worst_case`.

    Each move takes from the task whose slope is steepest up and gives to the one whose slope is steepest down, as much
    as is best: along such a line the function is a straight one and the root of a parabola. `SMOOTHING` rounds off the
    tip at |g_w| = 0, on which such moves would stay.
    """
    num_tasks = len(gram)
    mix = [1 / num_tasks] * num_tasks
    to_mean = [sum(row) / num_tasks for row in gram]
    radius = c * math.sqrt(max(0.0, sum(to_mean) / num_tasks))
    for _ in range(MAX_MOVES if radius > 0 else 0):
        to_mix = [sum(value * share for value, share in zip(row, mix, strict=True)) for row in gram]
        square = max(0.0, sum(share * product for share, product in zip(mix, to_mix, strict=True))) + SMOOTHING**2
        slope = [a + radius * b / math.sqrt(square) for a, b in zip(to_mean, to_mix, strict=True)]
        giver = max((task for task in range(num_tasks) if mix[task] > 0), key=lambda task: slope[task])
        taker = min(range(num_tasks), key=lambda task: slope[task])
        if slope[giver] - slope[taker] <= TOLERANCE:
            break
        straight = (to_mean[taker] - to_mean[giver]) / radius
        linear = to_mix[taker] - to_mix[giver]
        quadratic = gram[giver][giver] + gram[taker][taker] - 2 * gram[giver][taker]
        moved = mix[giver]
        if quadratic > straight**2:
            rest = max(0.0, square * quadratic - linear**2)
            moved = (-straight * math.sqrt(rest / (quadratic - straight**2)) - linear) / quadratic
        moved = min(max(moved, 0.0), mix[giver])
        mix[giver] -= moved
        mix[taker] += moved
    return mix


def worst_case(gram: list[Vector], mix: Vector, c: float) -> float:
    """g_w . g_0 + c |g_0| |g_w| of the mix g_w of gradients with these products."""
    equal = [1 / len(gram)] * len(gram)
    product = sum(share * sum(row) / len(gram) for share, row in zip(mix, gram, strict=True))
    return product + c * length_of(gram, equal) * length_of(gram, mix)


def length_of(gram: list[Vector], mix: Vector) -> float:
    """|g_w|."""
    square = sum(a * b * gram[i][j] for i, a in enumerate(mix) for j, b in enumerate(mix))
    return math.sqrt(max(0.0, square))
