"""Which device a process computes on."""

import os
from importlib import metadata

import torch

from pipeline.errors import ConfigError
from pipeline.train.config import TrainConfig

FBGEMM_CUDA = "fbgemm-gpu"


def has_cuda() -> bool:
    """Whether torch sees a GPU and the installed fbgemm has kernels for it; a CPU set-up on a GPU machine has none."""
    try:
        metadata.version(FBGEMM_CUDA)
    except metadata.PackageNotFoundError:
        return False
    return torch.cuda.is_available()


def rank_device(config: TrainConfig) -> torch.device:
    """The device of this process: the GPU of its local rank, or the CPU.

    Raises:
        ConfigError: CUDA is asked for and cannot be used.
    """
    if config.device == "cuda" and not has_cuda():
        raise ConfigError(
            "train.device is cuda, and there is no GPU that torch and fbgemm can use",
            "set train.device to cpu, or see what `gatehouse doctor` says",
        )
    if config.device == "cpu" or not has_cuda():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
