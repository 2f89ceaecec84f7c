"""What the ranks of a run agree on before each step, and which of them no longer answer."""

import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pipeline.errors import TrainingError

ANSWER_SECONDS = 8.0
POLL_SECONDS = 0.05


class LostRankError(TrainingError):
    """Another rank no longer answers; the cause lies there."""


class RollCall:
    """A vote of all ranks on the CPU, beside the group that computes. All ranks make it and call it in step.

    Every rank comes by here before each step, also where computing is asynchronous, so that one that hangs is noticed
    within the timeout.
    """

    def __init__(self, timeout_seconds: int) -> None:
        self.timeout_seconds = timeout_seconds
        self.group = None
        if dist.get_world_size() > 1:
            self.group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))

    def is_any(self, claim: bool) -> bool:
        """Whether the claim is true on any rank."""
        if self.group is None:
            return claim
        votes = torch.tensor([int(claim)], dtype=torch.int32)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self.group)
        return bool(votes.item())

    def share(self, text: str) -> str:
        """The first rank's text, on all ranks."""
        if self.group is None:
            return text
        shared = [text]
        dist.broadcast_object_list(shared, src=0, group=self.group)
        return shared[0]

    def gather(self, text: str) -> list[str]:
        """The text of every rank, on all ranks."""
        if self.group is None:
            return [text]
        texts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(texts, text, group=self.group)
        return texts

    def lost_ranks(self) -> list[int]:
        """After a failed collective: the ranks that do not answer. Every rank that is still there calls this."""
        rank, num_ranks = dist.get_rank(), dist.get_world_size()
        try:
            store = dist.distributed_c10d._get_default_store()
            store.set(_answer_of(rank), "here")
            missing = [other for other in range(num_ranks) if other != rank]
            deadline = time.monotonic() + ANSWER_SECONDS
            while missing and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                missing = [other for other in missing if not store.check([_answer_of(other)])]
        except RuntimeError:
            # The store lives in the first rank's process.
            return [0]
        return missing

    def explain(self, error: BaseException, step: int) -> LostRankError | None:
        """The failure of a collective at a step, with the ranks that caused it; None if it is another failure."""
        if self.group is None or not _is_collective_failure(error):
            return None
        lost = self.lost_ranks()
        if not lost:
            return None
        names = f"rank {lost[0]}" if len(lost) == 1 else "ranks " + ", ".join(map(str, lost))
        return LostRankError(
            f"{names} of {dist.get_world_size()} did not answer at step {step} within the "
            f"{self.timeout_seconds} s of train.collective_timeout_seconds",
            "look at the log and stacks/ of that rank, then go on with --resume, which `retrain` does unasked",
        )


def _answer_of(rank: int) -> str:
    return f"gatehouse/answer/{rank}"


def _is_collective_failure(error: BaseException) -> bool:
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in ("gloo", "Gloo", "NCCL", "Connection "))
