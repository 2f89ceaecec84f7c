"""The benchmarks as a page tells of them: what was measured, in which unit, and what was checked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.benchmark.growth import GROWTH
from pipeline.benchmark.preprocess import PREPROCESS
from pipeline.benchmark.score import SCORE


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


@dataclass(frozen=True)
class Kind:
    """How the records of a benchmark are shown. `describe` tells of what was checked; contestants of a contest are
    compared with the first of them."""

    explanation: str
    unit: str = "rows"
    describe: Callable[[dict[str, Any]], str] | None = None
    is_contest: bool = True


KINDS = {
    PREPROCESS: Kind(
        """\
From a Parquet log to files ready for training: 26 text categoricals as ids of vocabularies, 13 numbers as standardised
log1p, 2 labels, split by time. Each engine is a process of its own on the same cores; its start is within the time, and
the log is in the page cache. They take turns. Every output was compared with that of gatehouse: vocabularies, rows,
unseen values and nulls of each feature and split, means, and a sample of rows with the ids turned back into texts.
Gatehouse besides checks and profiles the rows, and flushes and hashes its files; the others only encode.
""",
        describe=_describe_preprocess,
    ),
    GROWTH: Kind(
        """\
`gatehouse preprocess`, with its start, on logs that grow in rows, and on logs of one categorical that grow in distinct
values. The bars reach from the lowest round to the highest.
""",
        is_contest=False,
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
        unit="candidates",
        describe=_describe_score,
    ),
}
