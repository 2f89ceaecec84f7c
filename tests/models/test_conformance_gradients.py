"""What the gradients of every body with every head reach, and what leaves no trace in them."""

import pytest
import torch
from each_model import PLACES, each_body, each_head, existing, gradients, loss_sums, run
from small_model import NAN, PADDING, TASKS, batch_of, make_head, make_model, make_rows

from models.tasks import output_columns

# The tasks whose space depends on each task, and the tasks that each one's space depends on.
DESCENDANTS = {"click": {"like", "share", "watch"}, "like": {"share"}}
ANCESTORS = {"like": ["click"], "share": ["click", "like"], "watch": ["click"]}


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
