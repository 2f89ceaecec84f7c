"""The exported model as a program of torch.export, which runs without any code of Gatehouse."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim

from models.serving import LENGTHS, ServingModel


def write_program(model: ServingModel, inputs: Mapping[str, Tensor], path: Path) -> None:
    """Writes the model on rows, for any number of them: a dict of tensors in, a dict of outputs by name out.

    `inputs` are those of at least two rows that have at least two values of each feature.
    """
    num_rows = Dim("num_rows")
    num_ids = {name.removeprefix(LENGTHS): Dim(f"ids_of_{name[len(LENGTHS) :]}") for name in inputs if LENGTHS in name}

    def length(name: str) -> Dim:
        prefix, dot, feature = name.partition(".")
        return num_rows if prefix + dot == LENGTHS else num_ids.get(feature, num_rows)

    shapes = {name: {0: length(name)} for name in inputs}
    with torch.no_grad():
        program = torch.export.export(model, (dict(inputs),), dynamic_shapes=(shapes,), strict=False)
    torch.export.save(program, path)


def run_program(path: Path, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a program that was written gives for the inputs of some rows."""
    with torch.no_grad():
        outputs: dict[str, Tensor] = torch.export.load(path).module()(dict(inputs))
    return outputs
