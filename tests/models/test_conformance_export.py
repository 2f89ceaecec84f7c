"""Every body is exported to a program that says what its model says.

Shapes: B rows.
"""

import torch
from each_model import each_body
from small_model import batch_of, make_model, make_rows
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from models.batch import Batch
from models.multitask import MultiTaskModel
from models.tasks import predictions


@each_body
def test_an_exported_program_says_what_the_model_says(body: str) -> None:
    """Also for batches of other sizes than that of the example, and without torchrec's containers at its inputs."""
    model = _Serving(make_model(body)).eval()
    example, other = batch_of(make_rows(8)), batch_of(make_rows(13, seed=1))
    rows, values = torch.export.Dim("rows", min=2), torch.export.Dim("values", min=2)
    program = torch.export.export(
        model,
        _Serving.arguments(example),
        dynamic_shapes=({0: rows}, {0: values}, {0: torch.export.Dim.AUTO}),
        strict=False,
    ).module()
    for batch in (example, other):
        for name, expected_B in model(*_Serving.arguments(batch)).items():
            torch.testing.assert_close(program(*_Serving.arguments(batch))[name], expected_B, rtol=1e-6, atol=1e-6)


class _Serving(nn.Module):
    """The predictions of a model on plain tensors."""

    def __init__(self, model: MultiTaskModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, dense: Tensor, values: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        sparse = KeyedJaggedTensor(keys=["user", "item", "history"], values=values, lengths=lengths)
        return predictions(self.model.tasks, self.model(dense, sparse))

    @staticmethod
    def arguments(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        return batch.dense, batch.sparse.values(), batch.sparse.lengths()
