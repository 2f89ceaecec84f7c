"""The dense part by `torch.compile`, where the configuration asks for it."""

import os
import shutil

import torch

from models.multitask import MultiTaskModel
from pipeline.errors import SetupError


def compile_dense(model: MultiTaskModel) -> None:
    """Has interaction, body and towers compiled when they are first called, for each shape they are called with.

    Each by itself: the balancer changes what lies between body and towers after the forward pass.

    Raises:
        SetupError: there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "g++")  # as torch finds it
    if shutil.which(compiler) is None:
        raise SetupError(
            f"train.compile is true, and there is no {compiler} on this machine",
            "install it, name another C++ compiler in the variable CXX, or leave train.compile out",
        )
    # A balancer that takes the gradient of each task goes backwards several times, and needs all memory each time.
    torch._functorch.config.donated_buffer = False
    for part in (model.front_end.interaction, model.body, model.towers):
        if part is not None:
            part.compile(dynamic=False)
