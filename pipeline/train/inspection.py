"""A look inside a model while it trains: which experts each task uses, and how the tasks' gradients agree.

Shapes: B rows, T tasks, E experts, H expert width.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.balancers.balancer import Weights
from models.batch import Batch
from models.layers import Mixture, mix
from pipeline.train.training_model import TrainingModel

# An expert is dead when no task gives it this part of an equal share, and two are one when their outputs correlate so.
DEAD_SHARE = 0.05
IDENTICAL_CORRELATION = 0.99


@torch.no_grad()
def inspect_step(training_model: TrainingModel, batch: Batch, weights: Weights, gram_TT: Tensor) -> dict[str, Any]:
    """What the step that was just made on `batch` shows, over all ranks: `mixtures`, `alarms`, `gradients`, `weights`.

    mixtures: by level {"experts": E names, "mean_weight": {task: E means, None where its gate does not see the
    expert}, "entropy": {task: mean entropy of the gate over that of equal shares}, "similarity": E x E correlations of
    the experts' outputs}. gradients: {"norm": {task: norm on the shared part}, "cosine": T x T}. weights: the
    balancer's {"loss": {task: weight}, "shared": {task: weight}}. A collective.
    """
    names = [task.name for task in training_model.model.tasks]
    # On the inputs of the step and the parameters that it left; padding rows are left out.
    inputs = training_model.inputs.detach()[batch.weights > 0]
    mixtures, alarms = describe_mixtures(training_model.model.body, inputs, names)
    norm_T = gram_TT.diagonal().clamp(min=0.0).sqrt()
    cosine_TT = gram_TT / (norm_T[:, None] * norm_T).clamp_min(torch.finfo(torch.float64).tiny)
    return {
        "mixtures": mixtures,
        "alarms": alarms,
        "gradients": {"norm": dict(zip(names, norm_T.tolist(), strict=True)), "cosine": cosine_TT.tolist()},
        "weights": {
            "loss": dict(zip(names, weights.loss_T.tolist(), strict=True)),
            "shared": dict(zip(names, weights.shared_T.tolist(), strict=True)),
        },
    }


@torch.no_grad()
def describe_mixtures(body: nn.Module, inputs: Tensor, tasks: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The `mixtures` and `alarms` of `inspect_step`, of a body on its inputs; over all ranks if there are ranks."""
    _, found = mix(body, inputs)
    mixtures = {level: _describe(mixture, tasks) for level, mixture in found.items()}
    return mixtures, [alarm for level, found in mixtures.items() for alarm in _alarms(level, found)]


def _describe(mixture: Mixture, tasks: Sequence[str]) -> dict[str, Any]:
    weight_BTE, seen_TE = mixture.weight_BTE.double(), mixture.seen_TE
    entropy_BT = -torch.xlogy(weight_BTE, weight_BTE).sum(dim=2)
    num_rows = _sum_over_ranks(torch.tensor(float(len(weight_BTE)), device=weight_BTE.device)).clamp_min(1.0)
    mean_TE = _sum_over_ranks(weight_BTE.sum(dim=0)) / num_rows
    most_T = seen_TE.sum(dim=1).double().log().clamp_min(math.log(2.0))
    entropy_T = _sum_over_ranks(entropy_BT.sum(dim=0)) / num_rows / most_T
    expert_BEH = mixture.expert_BEH.double()
    mean_EH = _sum_over_ranks(expert_BEH.sum(dim=0)) / num_rows
    centred_BEH = expert_BEH - mean_EH
    covariance_EE = _sum_over_ranks(torch.einsum("beh,bfh->ef", centred_BEH, centred_BEH))
    deviation_E = covariance_EE.diagonal().sqrt().clamp_min(1e-30)
    return {
        "experts": list(mixture.names),
        "mean_weight": {
            task: [weight if seen else None for weight, seen in zip(weights, seen_row, strict=True)]
            for task, weights, seen_row in zip(tasks, mean_TE.tolist(), seen_TE.tolist(), strict=True)
        },
        "entropy": dict(zip(tasks, entropy_T.tolist(), strict=True)),
        "similarity": (covariance_EE / (deviation_E[:, None] * deviation_E)).tolist(),
    }


def _alarms(level: str, found: dict[str, Any]) -> list[str]:
    alarms, experts, similarity = [], found["experts"], found["similarity"]
    for place, expert in enumerate(experts):
        shares = [
            weights[place] * sum(weight is not None for weight in weights)
            for weights in found["mean_weight"].values()
            if weights[place] is not None
        ]
        if max(shares) < DEAD_SHARE:
            alarms.append(
                f"{expert!r} in {level} is dead: no task gives it more than {max(shares):.1%} of an equal share"
            )
        for other in range(place):
            if similarity[place][other] > IDENTICAL_CORRELATION:
                alarms.append(
                    f"{experts[other]!r} and {expert!r} in {level} say the same: "
                    f"their outputs correlate by {similarity[place][other]:.3f}"
                )
    return alarms


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor
