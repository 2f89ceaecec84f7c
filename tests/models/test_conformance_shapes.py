"""The shapes and the order of what every body gives, with every head.

Shapes: B rows, I input width, T tasks, O outputs, H hidden width.
"""

import pytest
import torch
from each_model import each_body, each_head, make_inputs, run
from small_model import NUM_OUTPUTS, TASKS, batch_of, make_head, make_model, make_rows

from models.tasks import output_names, predictions


@each_body
@pytest.mark.parametrize("num_rows", [1, 5])
def test_a_body_gives_one_representation_per_task(body: str, num_rows: int) -> None:
    network, x_BI = make_inputs(body, num_rows)
    z_BTH = network(x_BI)
    assert z_BTH.shape == (num_rows, len(TASKS), network.output_width)
    assert z_BTH.dtype == torch.float32


@each_body
@each_head
@pytest.mark.parametrize("num_rows", [1, 5])
def test_model_head_and_predictions_have_their_shapes(body: str, head: str, num_rows: int) -> None:
    batch = batch_of(make_rows(num_rows))
    logit_BO = run(make_model(body), batch)
    trained_BO, target_BT, mask_BT = make_head(head)(logit_BO, batch.labels)
    for part, width in ((logit_BO, NUM_OUTPUTS), (trained_BO, NUM_OUTPUTS), (target_BT, len(TASKS))):
        assert part.shape == (num_rows, width)
        assert part.dtype == torch.float32
        assert part.isfinite().all()
    assert mask_BT.shape == (num_rows, len(TASKS))
    assert mask_BT.dtype == torch.bool
    said = predictions(TASKS, logit_BO)
    assert sorted(said) == sorted(output_names(TASKS))
    assert {(tuple(value.shape), value.dtype) for value in said.values()} == {((num_rows,), torch.float32)}


@each_body
def test_a_permuted_batch_gives_the_permuted_output(body: str) -> None:
    model, rows = make_model(body), make_rows()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).tolist()
    before, after = run(model, batch_of(rows)), run(model, batch_of([rows[place] for place in order]))
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, before[order], rtol=1e-5, atol=1e-6)
