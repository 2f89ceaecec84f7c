"""The benchmarks as a page tells of them: what was measured, in which unit, and what was checked."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from pipeline.benchmark.evaluate.contest import EVALUATE
from pipeline.benchmark.growth import GROWTH
from pipeline.benchmark.preprocess import PREPROCESS
from pipeline.benchmark.read.contest import READ
from pipeline.benchmark.score import SCORE
from pipeline.benchmark.tables import (
    GB,
    Table,
    table_of_prediction,
    table_of_runs,
    table_of_training,
    table_of_training_growth,
)
from pipeline.benchmark.train.contest import TRAIN, TRAIN_PLE
from pipeline.benchmark.train.growth import TRAIN_GROWTH


def _describe_preprocess(found: dict[str, Any]) -> str:
    checked = found["checked"]
    splits = ", ".join(f"{count:,} {split}" for split, count in checked["rows"].items())
    return (
        f"Rows: {splits}; values in the vocabularies: {checked['vocabulary_values']:,}; "
        f"rows in the sample: {checked['sampled_rows']:,}.\n"
        f"Found equal to gatehouse: {', '.join(checked['same_output']) or 'none asked'}."
    )


def _describe_score(found: dict[str, Any]) -> str:
    requests, candidates, peer_rows = (found["settings"][name] for name in ("requests", "candidates", "peer_rows"))
    lines = [f"{requests:,} requests with {candidates:,} candidates each; peers predict {peer_rows:,}."]
    for what, agreement in found["checked"].items():
        lines.append(
            f"gatehouse and row by row, {what} of {agreement['num_requests']:,} requests: largest difference "
            f"{agreement['largest_difference']:.1e} over {agreement['num_rows']:,} rows, {agreement['num_swapped']} of "
            "them in another order."
        )
    return "\n".join(lines)


def _describe_train(found: dict[str, Any]) -> str:
    settings, floor = found["settings"], found["checked"]["floor"]
    rates, seconds = floor["flops_per_second"], floor["seconds"]
    each = "; ".join(
        f"{precision}: products at {rates[precision] / 1e12:.2f} TFLOP/s, {1000 * seconds[precision]:.0f} ms a step, "
        f"{settings['batch_size'] / seconds[precision]:,.0f} samples/s"
        for precision in seconds
    )
    return (
        f"The log has {settings['rows']:,} rows to train on, the rounds {settings['short_rows']:,} of them, the epoch "
        f"before the test {settings['long_rows']:,}; the test has {settings['test_rows']:,} others.\n"
        f"The floor: {floor['flops'] / 1e9:.1f} GFLOP and {floor['activation_bytes'] / 1e6:.0f} MB of activations a "
        f"batch of {settings['batch_size']:,}; {each}.\nA copy reads and writes "
        f"{floor['copy_bytes_per_second'] / 1e9:.0f} GB/s; the batch's rows of the tables are gathered in "
        f"{1000 * floor['gather_seconds']:.1f} ms and scattered in {1000 * floor['scatter_seconds']:.1f} ms."
    )


def _describe_evaluate(found: dict[str, Any]) -> str:
    settings, checked = found["settings"], found["checked"]
    commands = "; ".join(
        f"in {precision} {command['seconds']:.0f} s, "
        + ", ".join(f"AUC {value:.4f} of {task}" for task, value in command["auc"].items())
        for precision, command in checked["commands"].items()
    )
    return (
        f"The model was trained on {settings['short_rows']:,} rows; {settings['test_rows']:,} others are predicted, by "
        f"gatehouse in batches of {settings['batch_size']:,}.\nThe largest difference of a probability between float32 "
        f"and bfloat16: {checked['largest_difference']:.1e}.\nThe whole command `gatehouse evaluate`, once: {commands}."
    )


def _describe_train_growth(found: dict[str, Any]) -> str:
    settings = found["settings"]
    sizes = ", ".join(f"{size:,} {name}" for name, size in settings["reference"].items())
    limit = settings["memory_limit_bytes"] / GB
    left_out = "; ".join(
        f"{one['who']}, {one['point']}: {one['needed_bytes'] / GB:.1f} GB ({one['needed_bytes']:,} bytes)"
        for one in settings["left_out"]
    )
    return (
        f"The reference: {sizes}; {settings['rows']:,} rows to train on.\n"
        f"Not run, because it needs more than 80 % of this machine's memory, {limit:.1f} GB: {left_out or 'none'}."
    )


def _describe_read(found: dict[str, Any]) -> str:
    settings, runs = found["settings"], found["contestants"][0]["runs"]
    batch_size = settings["batch_size"]
    num_rows = found["contestants"][0]["num_rows"]
    seconds = median(run["seconds"] - run["start_seconds"] for run in runs) * batch_size / num_rows
    steps = "; ".join(
        f"{seconds * speed / batch_size:.1%} of a training step in {precision}, which takes "
        f"{1000 * batch_size / speed:.0f} ms"
        for precision, speed in found["checked"]["training_samples_per_second"].items()
    )
    return f"A batch of {batch_size:,} takes gatehouse {1000 * seconds:.1f} ms: {steps}."


@dataclass(frozen=True)
class Kind:
    """How the records of a benchmark are shown. `describe` tells of what was checked."""

    explanation: str
    table: Callable[[dict[str, Any]], Table]
    describe: Callable[[dict[str, Any]], str] | None = None


TRAIN_KIND = Kind(
    """\
Steps of training with batches of 4,096: 26 categoricals with one value each and tables of 2.7 million rows in all, 16
wide, 13 numbers, 2 binary labels that depend on the features. MMoE has 8 experts of 256 and 128 units, PLE 2 levels of
such experts, 4 shared and 4 of each task; towers have 64 units. gatehouse is the whole command `gatehouse train`, with
its reader; a peer has the rows as encoded arrays in memory, its own loop and loader, and layers that lack or add what
its script says. All have the same rows, tables, batch size and torch, are processes of their own on the same cores, and
take turns.

samples/s is the median over windows of 10 steps without the first window, and then over the rounds; start is the time
to the first step; CPU and memory are those of the whole run, which for gatehouse ends with a validation of one batch
and a checkpoint. "as shipped": with the optimizer of the peer's own examples, for deepctr-torch Adagrad, for
torch-rechub Adam. "fused Adam": with `torch.optim.Adam(..., fused=True)`, and numbers too small for the normal range
of a float flushed to 0, without which state of optimizers can slow every step. AUC is of the test, after one epoch of
more rows, once for each: learning rates are those that each comes with, nobody's were searched.

The floor is the least that a step of gatehouse's model could take here, from speeds that are measured in every round,
of which the best count: FLOPs of its products / the speed of the largest of them alone + 5 times their outputs / the
speed of a copy (written, read, read again backwards, and a gradient that is written and read; in bfloat16 half as many
bytes) + twice a gather of the batch's rows of the tables + a scatter of them.
""",
    table_of_training,
    _describe_train,
)
KINDS = {
    PREPROCESS: Kind(
        """\
From a Parquet log to files ready for training: 26 text categoricals as ids of vocabularies, 13 numbers as standardised
log1p, 2 labels, split by time. Each engine is a process of its own on the same cores; its start is within the time, and
the log is in the page cache. They take turns. Every output was compared with that of gatehouse: vocabularies, rows,
unseen values and nulls of each feature and split, means, and a sample of rows with the ids turned back into texts.
Gatehouse besides checks and profiles the rows, and flushes and hashes its files; the others only encode.
""",
        partial(table_of_runs, unit="rows", is_contest=True),
        _describe_preprocess,
    ),
    GROWTH: Kind(
        """\
`gatehouse preprocess`, with its start, on logs that grow in rows, and on logs of one categorical that grow in distinct
values. The bars reach from the lowest round to the highest.
""",
        partial(table_of_runs, unit="rows", is_contest=False),
    ),
    SCORE: Kind(
        """\
From lists of candidates to the 10 best of each request, by the demo's MMoE of 4 tasks. gatehouse is the whole command
`gatehouse score`: it starts, loads, joins users and items, encodes, predicts, fuses, ranks and writes. "row by row"
joins, encodes and predicts every candidate as a row of its own with the same model, and writes all its outputs. All are
processes of their own on the same cores, and take turns. The largest difference of an output is a fraction of its
largest value if that is above 1.

A peer only predicts: it has the rows as arrays of ids and numbers in memory, and its start, with reading them and
building the model, does not count (in "time", that of gatehouse does). It has the sizes of the demo's MMoE and random
parameters, so that its speed is compared and not what it predicts; its script says what its layers lack or add.
"as shipped": its own predict, with the batch size of that or of its examples. "large batches": the same with the
fastest of four batch sizes, tried before the time begins. "ready batches": the same without its loader, which puts
batches together row by row: slices of tensors for torch-rechub's predict, and for deepctr-torch, whose predict takes no
batches, the forward of the model alone. All have the same torch.
""",
        partial(table_of_runs, unit="candidates", is_contest=True),
        _describe_score,
    ),
    TRAIN: TRAIN_KIND,
    TRAIN_PLE: TRAIN_KIND,
    TRAIN_GROWTH: Kind(
        """\
Steps of training the MMoE of the train benchmark, the reference, and the same with one size changed: rows of a batch,
categoricals with a table each, experts, units of the first of an expert's two layers (the second has half as many),
tasks, and rows of all tables. gatehouse is the whole command `gatehouse train`, with its reader; peers and their ways
are those of the train benchmark. All are processes of their own on the same cores, and take turns. Every dataset is of
the same log: a model reads some of its categoricals, and more tasks than two learn its two labels in turns. Tables that
grow have rows that no row of the log names: they cost memory, and time where every row has a gradient.

samples/s is the median over windows of 16,384 rows without the first, and then over the rounds; the range is of the
rounds, and so are the bars of the plot. CPU and memory are those of the whole run, which for gatehouse ends with a
validation and a checkpoint, from a copy of the tables and the state of their optimizer. The floor is that of the train
benchmark, measured for each size as often as there are rounds; the best counts.

What a contestant needs is computed beforehand, from bytes of tables, rows x width x 4: gatehouse has them and their
optimizer's row-wise state twice, once in the checkpoint's copy; a peer has them, a gradient of all rows and the
optimizer's state (of Adagrad once their bytes, of Adam twice), torch-rechub a copy of its best weights, and each twice
the bytes of the largest table for what comes and goes within a step.
""",
        table_of_training_growth,
        _describe_train_growth,
    ),
    EVALUATE: Kind(
        """\
From the shards of a test to the predictions of every row, by the MMoE of the train benchmark. gatehouse is what
`gatehouse evaluate` does before it measures: it reads, puts batches together, looks rows of tables up, predicts every
output and counts how the gates mix the experts; it goes through the rows several times. Tables and outputs are float32
in both precisions, which are those of the products of experts, gates and towers.

A peer has the rows as arrays of ids and numbers in memory. It has the sizes of the same model and random parameters, so
that its speed is compared and not what it predicts. "as shipped", "large batches" and "ready batches" are as in the
score benchmark. Nobody's start counts, with the building and loading of a model, the reading of arrays and the choice
of a batch size; CPU and memory are those of the whole run. All are processes of their own on the same cores, with the
same torch, and take turns.
""",
        table_of_prediction,
        _describe_evaluate,
    ),
    READ: Kind(
        """\
From a dataset's shards, which are in the page cache, to batches of 4,096 rows as tensors: 26 ids, 13 numbers and 2
labels a row. gatehouse is the reader of `gatehouse train`: rows shuffled within windows of
blocks from the whole dataset, every id checked, as a KeyedJaggedTensor. pyarrow.dataset reads the same shards in their
order, and Ray Data with a shuffle in a buffer of 65,536 rows; DataLoader has all rows as tensors in memory and shuffles
them. All are processes of their own on the same cores, take turns, and were found to give the same rows; the faster
ones go through all rows several times. The start ends with the first batch. The time is what went by between asking for
a batch and having it: the sums of each batch, by which they are compared, are not in it.
""",
        partial(table_of_runs, unit="rows", is_contest=True),
        _describe_read,
    ),
}
