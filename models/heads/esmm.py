"""ESMM, entire-space multi-task model (Ma et al., SIGIR 2018), for any chain of conditional tasks and on any body.

p(conversion) = p(click) p(conversion | click) is trained on all impressions, so that p(conversion | click) is learnt
without the bias of clicked rows only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.tasks import Task, chain_of, joint_label, joint_log_probability, output_columns, space_mask

# log p of a joint probability is kept this far below 0, so that log(1 - p) stays finite in float32.
MAX_LOG_PROBABILITY = -1e-30


class ESMMHead(nn.Module):
    """Trains every binary task that has a space on its joint probability over all impressions.

    The other tasks are trained as by the independent head.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.joint = frozenset(p for p, t in enumerate(tasks) if t.kind == "binary" and t.space is not None)
        if not self.joint:
            raise ValueError("head esmm needs a binary task with a space, such as purchase with space: click")

    def forward(self, logit_BO: Tensor, label_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Trained logit [B, O], target (no NaN) and mask, both [B, T], in float32."""
        logit_BO = logit_BO.float()
        own_mask_BT = space_mask(self.tasks, label_BT)
        logits, targets, masks = [], [], []
        for place, (task, columns) in enumerate(zip(self.tasks, output_columns(self.tasks), strict=True)):
            if place not in self.joint:
                logits.append(logit_BO[:, columns])
                targets.append(label_BT[:, place].nan_to_num())
                masks.append(own_mask_BT[:, place])
                continue
            logits.append(_log_odds(joint_log_probability(self.tasks, task, logit_BO)).unsqueeze(1))
            target_B, known_B = joint_label(label_BT[:, chain_of(self.tasks, task)])
            targets.append(target_B)
            masks.append(known_B)
        return torch.cat(logits, 1), torch.stack(targets, 1), torch.stack(masks, 1)


def _log_odds(log_p_B: Tensor) -> Tensor:
    """log p - log(1 - p), from log p."""
    log_p_B = log_p_B.clamp(max=MAX_LOG_PROBABILITY)
    return log_p_B - torch.log(-torch.expm1(log_p_B))
