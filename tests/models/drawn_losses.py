"""Three tasks, and losses and gradients drawn for them.

Shapes: T tasks, P parameters of an explicit gradient.
"""

import torch
from torch import Tensor

from models.tasks import Task

NAN = float("nan")
TASKS = [Task("click", "binary"), Task("like", "binary"), Task("watch", "regression")]


def draw_gradients(seed: int, num_tasks: int = 3, num_parameters: int = 7) -> Tensor:
    """Gradients of very different sizes, some in conflict: [T, P]."""
    generator = torch.Generator().manual_seed(seed)
    gradient_TP = torch.randn(num_tasks, num_parameters, generator=generator, dtype=torch.float64)
    return gradient_TP * 10 ** (2 * torch.rand(num_tasks, 1, generator=generator, dtype=torch.float64) - 1)


def draw_losses(seed: int, num_tasks: int = 3) -> Tensor:
    return torch.rand(num_tasks, generator=torch.Generator().manual_seed(seed)) + 0.1
