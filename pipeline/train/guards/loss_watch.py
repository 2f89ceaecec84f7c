"""Finds out when a loss or a parameter is no number any more, without waiting for the device at each step.

Shapes: T tasks.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import TrainingError
from pipeline.train.checkpoints.sharded_tensors import local_tensors
from pipeline.train.guards.roll_call import RollCall

GOOD = -1
BALANCER_PREFIX = "model.balancer."
# Few enough for 32-bit places in the reductions of a GPU.
VALUES_AT_ONCE = 1 << 24


class LossWatch:
    """`note` every step, `check` where a wait for the device does no harm, and before anything is made of the model."""

    def __init__(
        self,
        tasks: Sequence[str],
        steps_per_epoch: int,
        newest_checkpoint: Callable[[], Path | None],
        device: torch.device,
    ) -> None:
        self.tasks = tasks
        self.steps_per_epoch = steps_per_epoch
        self.newest_checkpoint = newest_checkpoint
        self._first_bad = torch.tensor(GOOD, device=device)
        self._is_bad_T = torch.zeros(len(tasks), dtype=torch.bool, device=device)

    def note(self, step: int, sums: Tensor) -> None:
        """Looks at the [2, T] sums of a step, counted from 1."""
        is_bad_T = ~sums.isfinite().all(dim=0)
        is_first = (self._first_bad == GOOD) & is_bad_T.any()
        self._first_bad = torch.where(is_first, step, self._first_bad)
        self._is_bad_T = torch.where(is_first, is_bad_T, self._is_bad_T)

    def check(self) -> None:
        """Raises a TrainingError that names tasks, step and batch if a loss was not finite; on all ranks."""
        step = int(self._first_bad)
        if step == GOOD:
            return
        bad = ", ".join(repr(task) for task, is_bad in zip(self.tasks, self._is_bad_T.tolist(), strict=True) if is_bad)
        raise self._error(f"the loss of {bad} is not a number", step)

    def check_state(self, step: int, state: dict[str, Any], roll_call: RollCall) -> None:
        """Raises a TrainingError, on all ranks, if a tensor that any of them holds after `step` is not finite."""
        bad = next(
            (
                name
                for name, tensor in local_tensors(state)
                # Balancers mark what they have not seen yet by NaN.
                if not name.startswith(BALANCER_PREFIX) and not _is_finite(tensor)
            ),
            "",
        )
        found = next(filter(None, roll_call.gather(bad)), "")
        if found:
            raise self._error(f"tensor {found} is not a number", step)

    def _error(self, what: str, step: int) -> TrainingError:
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        kept = self.newest_checkpoint()
        return TrainingError(
            f"{what} at step {step}, batch {place + 1} of {self.steps_per_epoch} of epoch {epoch + 1}; "
            + (f"the last good checkpoint is {kept}" if kept else "there is no checkpoint yet"),
            "lower the learning rates, set train.max_gradient_norm, or see that batch's rows with train.record_rows",
        )


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are: the least and the largest, which are NaN if one is. Copies nothing of a tensor's size."""
    pieces = torch.split(tensor.detach().flatten(), VALUES_AT_ONCE) if tensor.numel() else ()
    return all(bool(torch.stack(torch.aminmax(piece)).isfinite().all()) for piece in pieces)
