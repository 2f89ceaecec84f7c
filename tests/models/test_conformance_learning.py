"""Every body learns with every head, repeats itself bit by bit, and is saved and loaded whole.

Shapes: B rows.
"""

import io

import torch
from each_model import each_body, each_head, run, train
from small_model import TASKS, batch_of, make_head, make_model, make_rows
from torch import Tensor
from torch.nn.functional import softplus


@each_body
@each_head
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(body: str, head: str) -> None:
    def learn(seed: int) -> dict[str, Tensor]:
        model = make_model(body, seed)
        train(model, make_head(head), batch_of(make_rows()), num_steps=3)
        return model.state_dict()

    first, second, other = learn(7), learn(7), learn(8)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    # Every weight is drawn; biases begin at zero.
    assert not any(torch.equal(value, other[name]) for name, value in first.items())


@each_body
@each_head
def test_a_model_learns_64_rows_by_heart(body: str, head: str) -> None:
    batch = batch_of(make_rows())
    losses = train(make_model(body), make_head(head), batch, num_steps=300)
    # The least loss of a watch time is not 0: it is that of odds equal to the label.
    watched_B = batch.labels[batch.labels[:, 0] == 1, 3] / TASKS[3].scale
    watched_B = watched_B[~watched_B.isnan()]
    least = (softplus(watched_B.log()) + watched_B * softplus(-watched_B.log())).sum().item() / len(batch.weights)
    assert losses[0] - least > 1.0
    assert losses[-1] - least < 0.05 * (losses[0] - least)


@each_body
def test_a_state_dict_makes_another_model_the_same(body: str) -> None:
    model, other, batch = make_model(body, seed=1), make_model(body, seed=2), batch_of(make_rows())
    assert not torch.equal(run(model, batch), run(other, batch))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(run(model, batch), run(other, batch))
    # What is not in the state dict would be lost between training and scoring.
    assert model.state_dict().keys() == {name for name, _ in model.named_parameters()}
