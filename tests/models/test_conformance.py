"""What every body and every head of the catalogue must do, with every other.

A new body or head adds one row of options to small_model.py.

Shapes: B rows, I input width, T tasks, O outputs, E experts, H hidden width.
"""

import inspect
import io
from typing import Any

import pytest
import torch
from small_model import (
    BALANCER_OPTIONS,
    BODY_OPTIONS,
    HEAD_OPTIONS,
    INTERACTION_OPTIONS,
    NAN,
    NUM_OUTPUTS,
    PADDING,
    TASKS,
    batch_of,
    make_body,
    make_head,
    make_model,
    make_rows,
)
from torch import Tensor, nn
from torch.nn.functional import softplus
from torchrec import KeyedJaggedTensor

from models.batch import Batch
from models.catalogue import BALANCERS, BODIES, HEADS, INTERACTIONS
from models.inputs import DENSE_PART, Inputs
from models.layers import mixtures_of
from models.losses import task_loss_sums
from models.multitask import MultiTaskModel, table_groups
from models.tasks import output_columns, output_names, predictions

BODY_NAMES = sorted(BODIES.keys() & BODY_OPTIONS.keys())
HEAD_NAMES = sorted(HEADS.keys() & HEAD_OPTIONS.keys())
each_body = pytest.mark.parametrize("body", BODY_NAMES)
each_head = pytest.mark.parametrize("head", HEAD_NAMES)

PLACES = range(len(TASKS))
# The tasks whose space depends on each task, and the tasks that each one's space depends on.
DESCENDANTS = {"click": {"like", "share", "watch"}, "like": {"share"}}
ANCESTORS = {"like": ["click"], "share": ["click", "like"], "watch": ["click"]}


def make_inputs(body: str, num_rows: int) -> tuple[nn.Module, Tensor]:
    """A body by itself and random inputs for it."""
    inputs = Inputs({"user": 5, "item": 4, DENSE_PART: 3}, len(table_groups(BODIES[body], TASKS)))
    shape = (num_rows, inputs.num_groups, inputs.width) if inputs.num_groups > 1 else (num_rows, inputs.width)
    return make_body(body, inputs), torch.randn(shape)


def run(model: MultiTaskModel, batch: Batch) -> Tensor:
    logit_BO: Tensor = model(batch.dense, batch.sparse)
    return logit_BO


def loss_sums(model: MultiTaskModel, head: nn.Module, batch: Batch) -> Tensor:
    """The loss sum of each task: [T]."""
    logit_BO, target_BT, mask_BT = head(run(model, batch), batch.labels)
    return task_loss_sums(TASKS, logit_BO, target_BT, mask_BT, batch.weights)[0]


def gradients(model: MultiTaskModel, loss: Tensor) -> dict[str, Tensor | None]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


def existing(found: dict[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def train(model: MultiTaskModel, head: nn.Module, batch: Batch, num_steps: int) -> list[float]:
    """The mean loss before each step of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = loss_sums(model, head, batch).sum() / len(batch.weights)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


# --- the catalogue


@pytest.mark.parametrize(
    ("what", "catalogue", "options"),
    [
        ("BODIES", BODIES, BODY_OPTIONS),
        ("HEADS", HEADS, HEAD_OPTIONS),
        ("INTERACTIONS", INTERACTIONS, INTERACTION_OPTIONS),
        ("BALANCERS", BALANCERS, BALANCER_OPTIONS),
    ],
)
def test_every_entry_of_the_catalogue_has_small_options(
    what: str, catalogue: dict[str, Any], options: dict[str, Any]
) -> None:
    without = sorted(catalogue.keys() - options.keys())
    assert not without, f"models.catalogue.{what} has {without}: give each a row with small options in small_model.py"
    gone = sorted(options.keys() - catalogue.keys())
    assert not gone, f"the rows {gone} of small_model.py are not in models.catalogue.{what}: remove them"


@pytest.mark.parametrize("entry", [*BODIES.values(), *HEADS.values(), *INTERACTIONS.values(), *BALANCERS.values()])
def test_every_option_has_a_type_and_a_default_that_a_configuration_can_show(entry: type[nn.Module]) -> None:
    for parameter in inspect.signature(entry).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        assert parameter.annotation is not inspect.Parameter.empty
        # A text would be an annotation that was not evaluated.
        assert not isinstance(parameter.annotation, str)
        assert parameter.default is not inspect.Parameter.empty


@pytest.mark.parametrize(
    "entry", [*BODIES.values(), *INTERACTIONS.values(), *(BALANCERS[name] for name in BALANCERS if name != "fixed")]
)
def test_what_comes_from_a_paper_cites_it(entry: type[nn.Module]) -> None:
    module = inspect.getmodule(entry)
    assert module is not None
    first_line = (module.__doc__ or "").splitlines()[0]
    assert any(str(year) in first_line for year in range(1990, 2100)), f"{module.__name__} begins with {first_line!r}"


# --- shapes


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


# --- gradients


@each_body
@each_head
def test_gradients_reach_every_parameter_and_every_table(body: str, head: str) -> None:
    model, rows = make_model(body), make_rows()
    found = gradients(model, loss_sums(model, make_head(head), batch_of(rows)).sum())
    missing = [name for name, gradient in found.items() if gradient is None]
    assert not missing
    for name, gradient in existing(found).items():
        assert gradient.isfinite().all(), name
        if "embedding_bags" not in name:
            # A whole expert, gate or tower that is left out is a larger part than a few zeros.
            assert (gradient != 0).float().mean() > 0.8, name
    used = {"user": {row.user for row in rows}, "item": {i for row in rows for i in (row.item, *row.history)}}
    for own_name, table in model.front_end.table_of.items():
        ids, gradient = used[table], existing(found)[f"front_end.embeddings.embedding_bags.{own_name}.weight"]
        if "@" in own_name:
            # Of a task alone, which not every row trains.
            assert set((gradient != 0).any(dim=1).nonzero().flatten().tolist()) <= ids
            assert gradient.any()
            continue
        is_reached = (gradient != 0).any(dim=1)
        assert set(is_reached.nonzero().flatten().tolist()) <= ids
        # A row of which no task is labelled adds nothing.
        assert is_reached.sum() > 0.9 * len(ids)


@each_body
@each_head
@pytest.mark.parametrize("place", PLACES, ids=[task.name for task in TASKS])
def test_a_task_without_labels_leaves_no_trace_in_the_gradients(body: str, head: str, place: int) -> None:
    model, name = make_model(body), TASKS[place].name
    batch = batch_of(make_rows())
    silent = [other for other in PLACES if TASKS[other].name in {name} | DESCENDANTS.get(name, set())]
    # With every earlier label 1, a null label leaves the joint label of an entire-space head unknown.
    batch.labels[:, [other for other in PLACES if TASKS[other].name in ANCESTORS.get(name, [])]] = 1.0
    batch.labels[:, silent] = NAN
    sums = loss_sums(model, make_head(head), batch)
    assert (sums[silent] == 0).all()
    others = [other for other in PLACES if other not in silent]
    assert (sums[others] > 0).all()
    with_task = existing(gradients(model, sums.sum()))
    without_task = existing(gradients(model, loss_sums(model, make_head(head), batch)[others].sum()))
    assert with_task.keys() == without_task.keys()
    for parameter, gradient in with_task.items():
        assert torch.equal(gradient, without_task[parameter]), parameter
        if parameter.startswith("towers."):
            of_outputs = parameter.startswith("towers.output")
            columns = output_columns(TASKS) if of_outputs else [slice(task, task + 1) for task in PLACES]
            assert all((gradient[columns[task]] == 0).all() for task in silent), parameter
            assert all((gradient[columns[other]] != 0).any() for other in others), parameter


@each_body
@each_head
def test_rows_without_a_label_train_as_if_they_were_absent(body: str, head: str) -> None:
    model, rows = make_model(body), make_rows(32)
    unlabelled = [row._replace(labels=[NAN] * len(TASKS)) for row in make_rows(16, seed=1)]
    mixed = [row for pair in zip(rows[:16], unlabelled, strict=True) for row in pair] + rows[16:]
    expected = loss_sums(model, make_head(head), batch_of(rows))
    found = loss_sums(model, make_head(head), batch_of(mixed))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        existing(gradients(model, found.sum())), existing(gradients(model, expected.sum())), rtol=1e-4, atol=1e-5
    )


@each_body
@each_head
@pytest.mark.parametrize("is_labelled", [False, True])
def test_padding_rows_change_nothing(body: str, head: str, is_labelled: bool) -> None:
    """Even one with labels: its weight is 0."""
    model, rows = make_model(body), make_rows(32)
    padding = PADDING._replace(labels=[1.0] * len(TASKS)) if is_labelled else PADDING
    expected = loss_sums(model, make_head(head), batch_of(rows))
    found = loss_sums(model, make_head(head), batch_of([*rows, *[padding] * 9]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        existing(gradients(model, found.sum())), existing(gradients(model, expected.sum())), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        run(model, batch_of([*rows, *[padding] * 9]))[: len(rows)], run(model, batch_of(rows)), rtol=1e-5, atol=1e-6
    )


@each_body
@each_head
def test_a_batch_of_padding_alone_gives_zero_loss_and_zero_gradients(body: str, head: str) -> None:
    model = make_model(body)
    sums = loss_sums(model, make_head(head), batch_of([PADDING] * 4))
    assert torch.equal(sums, torch.zeros(len(TASKS)))
    found = existing(gradients(model, sums.sum()))
    assert found
    assert all((gradient == 0).all() for gradient in found.values())


@each_body
def test_a_permuted_batch_gives_the_permuted_output(body: str) -> None:
    model, rows = make_model(body), make_rows()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).tolist()
    before, after = run(model, batch_of(rows)), run(model, batch_of([rows[place] for place in order]))
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, before[order], rtol=1e-5, atol=1e-6)


# --- learning


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


# --- experts and gates


@pytest.mark.parametrize("body", [name for name in BODY_NAMES if hasattr(BODIES[name], "mixtures")])
def test_the_gates_of_each_task_share_out_one_over_the_experts_they_see(body: str) -> None:
    torch.manual_seed(0)
    network, x_BI = make_inputs(body, 9)
    found = mixtures_of(network, x_BI)
    assert found
    for level, mixture in found.items():
        num_experts = len(mixture.names)
        assert len(set(mixture.names)) == num_experts, level
        assert mixture.expert_BEH.shape[:2] == (9, num_experts), level
        assert mixture.weight_BTE.shape == (9, len(TASKS), num_experts), level
        assert mixture.seen_TE.shape == (len(TASKS), num_experts), level
        assert (mixture.weight_BTE[:, mixture.seen_TE] > 0).all(), level
        assert (mixture.weight_BTE[:, ~mixture.seen_TE] == 0).all(), level
        torch.testing.assert_close(mixture.weight_BTE.sum(dim=2), torch.ones(9, len(TASKS)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("body", ["cgc", "mmoe", "omoe", "stem"])
def test_what_a_body_gives_a_task_is_its_mixture_of_the_experts(body: str) -> None:
    torch.manual_seed(0)
    network, x_BI = make_inputs(body, 9)
    (mixture,) = mixtures_of(network, x_BI).values()
    expected = torch.einsum("bte,beh->bth", mixture.weight_BTE, mixture.expert_BEH)
    torch.testing.assert_close(network(x_BI), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("body", ["single_task", "cgc", "stem"])
@pytest.mark.parametrize("place", PLACES, ids=[task.name for task in TASKS])
def test_what_belongs_to_one_task_gets_no_gradient_from_another(body: str, place: int) -> None:
    """Its experts and tables. From PLE's second level on, all tasks read them through the shared part."""
    model, batch = make_model(body), batch_of(make_rows())
    found = existing(gradients(model, loss_sums(model, make_head("independent"), batch)[place]))
    own = {f"@{task.name}": task.name == TASKS[place].name for task in TASKS}
    for name, gradient in found.items():
        for mark, is_own in own.items():
            if mark + "." in name:
                assert gradient.any() == is_own, name
    bank = {
        "single_task": "body.networks",
        "cgc": "body.level.experts",
        "stem": "body.own_experts",
    }[body]
    # Each of these has one expert per task, its networks in the order of the tasks.
    of_network_N = found[f"{bank}.later.0.weight_NIH"].flatten(1).any(dim=1)
    assert [bool(of_network_N[task]) for task in PLACES] == [task == place for task in PLACES]


# --- export


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
