"""What every body and every head of the catalogue must do, and the fused layers against plain loops.

A new body or head adds one row to OPTIONS. Shapes: B rows, I input width, T tasks, E experts, H hidden width.
"""

import inspect
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softmax
from torchrec import EmbeddingBagConfig, KeyedJaggedTensor, PoolingType

from models.batch import Batch
from models.catalogue import BODIES, HEADS
from models.front_end import FrontEnd
from models.layers import BatchedLinear, ExpertBank, SoftmaxGates, Towers
from models.losses import task_loss_sums
from models.mmoe import MMoE
from models.multitask import MultiTaskModel
from models.shared_bottom import SharedBottom
from models.tasks import Task, output_names, predictions

# Small options for each body and head, so that a test takes milliseconds.
BODY_OPTIONS: dict[str, dict[str, Any]] = {
    "mmoe": {"num_experts": 3, "widths": (16, 8)},
    "shared_bottom": {"widths": (16, 8)},
}
HEAD_OPTIONS: dict[str, dict[str, Any]] = {
    "esmm": {},
    "independent": {},
}

BODY_NAMES = sorted(BODIES.keys() & BODY_OPTIONS.keys())
HEAD_NAMES = sorted(HEADS.keys() & HEAD_OPTIONS.keys())
each_body = pytest.mark.parametrize("body", BODY_NAMES)
each_head = pytest.mark.parametrize("head", HEAD_NAMES)

TASKS = (
    Task("click", "binary"),
    Task("like", "binary", space="click"),
    Task("share", "binary", space="like"),
    Task("watch", "regression", space="click", center=2.0, scale=3.0),
    Task("stay", "regression", center=1.0, scale=0.5),
)
PLACES = range(len(TASKS))
# The tasks whose space depends on each task.
DESCENDANTS = {"click": {"like", "share", "watch"}, "like": {"share"}, "share": set(), "watch": set(), "stay": set()}
# And the tasks that each one's space depends on.
ANCESTORS = {"click": [], "like": ["click"], "share": ["click", "like"], "watch": ["click"], "stay": []}

NUM_USERS, NUM_ITEMS, NUM_DENSE, DIM = 80, 20, 3, 8
NAN = float("nan")


class Row(NamedTuple):
    user: int
    item: int
    history: list[int]
    dense: list[float]
    labels: list[float]
    weight: float = 1.0
    is_padding: bool = False


PADDING = Row(0, 0, [], [0.0] * NUM_DENSE, [NAN] * len(TASKS), weight=0.0, is_padding=True)


def make_rows(num_rows: int = 64, seed: int = 0) -> list[Row]:
    """Rows with a user each; about half are clicked, half of those liked, half of those shared; some labels null."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator)

    rows = []
    for user in range(num_rows):
        labels = [*(draw(3) < 0.6).float().tolist(), *(4 * draw(2)).tolist()]
        labels = [NAN if draw(1).item() < 0.1 else label for label in labels]
        history = (draw(int(4 * draw(1).item())) * NUM_ITEMS).long().tolist()
        item = int(draw(1).item() * NUM_ITEMS)
        rows.append(Row(user, item, history, draw(NUM_DENSE).sub(0.5).mul(4).tolist(), labels))
    return rows


def batch_of(rows: Sequence[Row]) -> Batch:
    bags = [
        [[] if row.is_padding else [row.user] for row in rows],
        [[] if row.is_padding else [row.item] for row in rows],
        [row.history for row in rows],
    ]
    return Batch(
        torch.tensor([row.dense for row in rows]),
        KeyedJaggedTensor(
            keys=["user", "item", "history"],
            values=torch.tensor([value for feature in bags for bag in feature for value in bag], dtype=torch.int64),
            lengths=torch.tensor([len(bag) for feature in bags for bag in feature], dtype=torch.int32),
        ),
        torch.tensor([row.labels for row in rows]),
        torch.tensor([row.weight for row in rows]),
    )


def make_model(body: str, seed: int = 0) -> MultiTaskModel:
    """A small model; `item` and `history` share a table."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tables = [
            EmbeddingBagConfig(
                name=name,
                num_embeddings=rows,
                embedding_dim=DIM,
                feature_names=features,
                pooling=PoolingType.MEAN,
            )
            for name, rows, features in (("user", NUM_USERS, ["user"]), ("item", NUM_ITEMS, ["item", "history"]))
        ]
        front_end = FrontEnd(tables, ["user", "item", "history"], NUM_DENSE, 6, torch.device("cpu"))
        return MultiTaskModel(front_end, make_body(body, front_end.output_width), TASKS, (8,))


def make_body(body: str, input_width: int) -> nn.Module:
    return BODIES[body](input_width, len(TASKS), **BODY_OPTIONS[body])


def make_head(head: str) -> nn.Module:
    return HEADS[head](TASKS, **HEAD_OPTIONS[head])


def run(model: MultiTaskModel, batch: Batch) -> Tensor:
    logit_BT: Tensor = model(batch.dense, batch.sparse)
    return logit_BT


def loss_sums(model: MultiTaskModel, head: nn.Module, batch: Batch) -> Tensor:
    """The loss sum of each task: [T]."""
    logit_BT, target_BT, mask_BT = head(run(model, batch), batch.labels)
    return task_loss_sums(TASKS, logit_BT, target_BT, mask_BT, batch.weights)[0]


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
    [("BODIES", BODIES, BODY_OPTIONS), ("HEADS", HEADS, HEAD_OPTIONS)],
)
def test_every_entry_of_the_catalogue_has_a_row_here(
    what: str, catalogue: dict[str, Any], options: dict[str, Any]
) -> None:
    without = sorted(catalogue.keys() - options.keys())
    assert not without, f"models.catalogue.{what} has {without}: give each a row with small options at the top here"
    gone = sorted(options.keys() - catalogue.keys())
    assert not gone, f"the rows {gone} at the top here are not in models.catalogue.{what}: remove them"


@pytest.mark.parametrize("entry", [*BODIES.values(), *HEADS.values()])
def test_every_option_has_a_type_and_a_default_that_a_configuration_can_show(entry: type[nn.Module]) -> None:
    for parameter in inspect.signature(entry).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        assert parameter.annotation is not inspect.Parameter.empty
        # A text would be an annotation that was not evaluated.
        assert not isinstance(parameter.annotation, str)
        assert parameter.default is not inspect.Parameter.empty


@pytest.mark.parametrize("entry", BODIES.values())
def test_every_body_cites_its_paper(entry: type[nn.Module]) -> None:
    module = inspect.getmodule(entry)
    assert module is not None
    first_line = (module.__doc__ or "").splitlines()[0]
    assert any(str(year) in first_line for year in range(1990, 2100)), f"{module.__name__} begins with {first_line!r}"


# --- shapes


@each_body
@pytest.mark.parametrize("num_rows", [1, 5])
def test_a_body_gives_one_representation_per_task(body: str, num_rows: int) -> None:
    network = make_body(body, 12)
    z_BTH = network(torch.randn(num_rows, 12))
    assert z_BTH.shape == (num_rows, len(TASKS), network.output_width)
    assert z_BTH.dtype == torch.float32


@each_body
@each_head
@pytest.mark.parametrize("num_rows", [1, 5])
def test_model_head_and_predictions_have_their_shapes(body: str, head: str, num_rows: int) -> None:
    batch = batch_of(make_rows(num_rows))
    logit_BT = run(make_model(body), batch)
    trained_BT, target_BT, mask_BT = make_head(head)(logit_BT, batch.labels)
    for part in (logit_BT, trained_BT, target_BT):
        assert part.shape == (num_rows, len(TASKS))
        assert part.dtype == torch.float32
        assert part.isfinite().all()
    assert mask_BT.shape == (num_rows, len(TASKS))
    assert mask_BT.dtype == torch.bool
    said = predictions(TASKS, logit_BT)
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
    for table, ids in used.items():
        gradient = existing(found)[f"front_end.embeddings.embedding_bags.{table}.weight"]
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
    silent = [other for other in PLACES if TASKS[other].name in {name} | DESCENDANTS[name]]
    # With every earlier label 1, a null label leaves the joint label of an entire-space head unknown.
    batch.labels[:, [other for other in PLACES if TASKS[other].name in ANCESTORS[name]]] = 1.0
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
            assert (gradient[silent] == 0).all(), parameter
            assert all((gradient[other] != 0).any() for other in others), parameter


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
    losses = train(make_model(body), make_head(head), batch_of(make_rows()), num_steps=300)
    assert losses[0] > 1.0
    assert losses[-1] < 0.05 * losses[0]


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


# --- fused layers against plain loops

SHAPES = [(5, 4, 1, (3,)), (1, 7, 2, (6, 5)), (9, 8, 4, (16, 8, 4))]
LAYER_SHAPES = pytest.mark.parametrize(("num_rows", "input_width", "num_networks", "widths"), SHAPES)


def assert_same(found: Tensor, expected: Tensor, leaves: Sequence[Tensor]) -> None:
    """Equal to 1e-6, and so are the gradients of a weighted sum with respect to `leaves`."""
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    weight = torch.linspace(-1, 1, found.numel()).reshape(found.shape)
    for a, b in zip(
        torch.autograd.grad((found * weight).sum(), leaves),
        torch.autograd.grad((expected * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def with_random_biases(module: nn.Module) -> nn.Module:
    """Biases begin at zero, where a forgotten one would not show."""
    for name, parameter in module.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)
    return module


def alone(layer: nn.Module, place: int, x_BI: Tensor) -> Tensor:
    """One of the linear layers that lie side by side."""
    assert isinstance(layer, BatchedLinear)
    return x_BI @ layer.weight_NIH[place] + layer.bias_N1H[place, 0]


def experts_one_by_one(bank: ExpertBank, x_BI: Tensor) -> Tensor:
    outputs = []
    width = bank.first_bias_N.numel() // bank.num_experts
    for expert in range(bank.num_experts):
        columns = slice(expert * width, (expert + 1) * width)
        h_BH = silu(x_BI @ bank.first_weight_IN[:, columns] + bank.first_bias_N[columns])
        for layer in bank.later:
            h_BH = silu(alone(layer, expert, h_BH))
        outputs.append(h_BH)
    return torch.stack(outputs, dim=1)


def gates_one_by_one(gates: SoftmaxGates, x_BI: Tensor) -> Tensor:
    weights_EI = gates.linear.weight.chunk(gates.num_tasks)
    return torch.stack([softmax(x_BI @ weight_EI.T, dim=1) for weight_EI in weights_EI], dim=1)


@LAYER_SHAPES
def test_an_expert_bank_equals_its_experts_one_by_one(
    num_rows: int, input_width: int, num_networks: int, widths: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    bank = ExpertBank(input_width, num_networks, widths)
    with_random_biases(bank)
    x_BI = torch.randn(num_rows, input_width, requires_grad=True)
    found = bank(x_BI)
    assert found.shape == (num_rows, num_networks, widths[-1])
    assert_same(found, experts_one_by_one(bank, x_BI), [x_BI, *bank.parameters()])


@LAYER_SHAPES
def test_towers_equal_one_small_network_per_task(
    num_rows: int, input_width: int, num_networks: int, widths: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    towers = Towers(num_networks, input_width, widths)
    with_random_biases(towers)
    z_BTH = torch.randn(num_rows, num_networks, input_width, requires_grad=True)
    columns = []
    for task in range(num_networks):
        h_BH = z_BTH[:, task]
        for layer in towers.hidden:
            h_BH = silu(alone(layer, task, h_BH))
        columns.append(alone(towers.output, task, h_BH).squeeze(1))
    found = towers(z_BTH)
    assert found.shape == (num_rows, num_networks)
    assert_same(found, torch.stack(columns, dim=1), [z_BTH, *towers.parameters()])


def test_towers_without_a_hidden_layer_are_one_linear_layer_per_task() -> None:
    torch.manual_seed(0)
    towers = Towers(3, 4, ())
    with_random_biases(towers)
    z_BTH = torch.randn(6, 3, 4)
    expected = torch.stack([z_BTH[:, t] @ towers.output.weight_NIH[t, :, 0] for t in range(3)], dim=1)
    torch.testing.assert_close(towers(z_BTH), expected + towers.output.bias_N1H[:, 0, 0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("num_rows", "input_width", "num_tasks", "num_experts"), [(5, 4, 1, 1), (3, 8, 4, 6)])
def test_softmax_gates_equal_one_gate_per_task(
    num_rows: int, input_width: int, num_tasks: int, num_experts: int
) -> None:
    torch.manual_seed(0)
    gates = SoftmaxGates(input_width, num_tasks, num_experts)
    x_BI = torch.randn(num_rows, input_width, requires_grad=True)
    found = gates(x_BI)
    assert found.shape == (num_rows, num_tasks, num_experts)
    assert_same(found, gates_one_by_one(gates, x_BI), [x_BI, *gates.parameters()])


def test_mmoe_is_the_sum_over_experts_of_gate_times_expert() -> None:
    torch.manual_seed(0)
    body = MMoE(10, 3, num_experts=4, widths=(8, 6))
    with_random_biases(body)
    x_BI = torch.randn(7, 10, requires_grad=True)
    expert_BEH, gate_BTE = experts_one_by_one(body.experts, x_BI), gates_one_by_one(body.gate, x_BI)
    tasks = [sum(gate_BTE[:, t, e, None] * expert_BEH[:, e] for e in range(4)) for t in range(3)]
    expected = torch.stack([torch.as_tensor(z_BH) for z_BH in tasks], dim=1)
    assert_same(body(x_BI), expected, [x_BI, *body.parameters()])


def test_shared_bottom_gives_every_task_the_same_network() -> None:
    torch.manual_seed(0)
    body = SharedBottom(10, 3, widths=(8, 6))
    with_random_biases(body)
    x_BI = torch.randn(7, 10)
    first, _, second, _ = body.bottom
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    h_BH = silu(x_BI @ first.weight.T + first.bias)
    h_BH = silu(h_BH @ second.weight.T + second.bias)
    torch.testing.assert_close(body(x_BI), torch.stack([h_BH] * 3, dim=1), rtol=1e-6, atol=1e-6)


def test_an_expert_bank_needs_an_expert_and_a_layer() -> None:
    for num_experts, widths in ((0, (4,)), (2, ())):
        with pytest.raises(ValueError, match="at least one expert and one layer"):
            ExpertBank(4, num_experts, widths)


@pytest.mark.parametrize("body", [name for name in BODY_NAMES if hasattr(BODIES[name], "gates")])
def test_the_gates_of_each_task_sum_to_one_over_the_experts(body: str) -> None:
    torch.manual_seed(0)
    network = make_body(body, 12)
    gates = network.gates(torch.randn(9, 12))  # type: ignore[operator]
    assert gates
    for name, weight_BTE in gates.items():
        assert isinstance(name, str)
        assert weight_BTE.shape[:2] == (9, len(TASKS)), name
        assert (weight_BTE >= 0).all(), name
        torch.testing.assert_close(weight_BTE.sum(dim=2), torch.ones(9, len(TASKS)), rtol=0, atol=1e-6)
