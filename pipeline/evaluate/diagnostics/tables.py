"""The health of embedding tables: rows never trained, zero or repeated, norms, dimensions in use; untrained values.

Shapes: N rows of a table, D its width.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.batch import Batch
from pipeline.feature_kinds import NULL_ROW, NUM_RESERVED_ROWS, UNSEEN_ROW
from pipeline.train.checkpoints.reader import load_tensors, saved_sizes
from pipeline.train.predictor import STATE_PREFIX, Predictor
from pipeline.train.tables.initial_weights import table_of

CHUNK_ROWS = 1 << 18
# Rows start with norms of about 0.03 times the root of their width, so none is that short by chance.
ZERO_NORM = 1e-6
QUANTILES = (0, 5, 50, 95, 100)


@torch.no_grad()
def examine_tables(predictor: Predictor, parts: Sequence[Batch]) -> dict[str, list[dict[str, Any]]]:
    """What `describe_table` gives for every table, and what rows the values of the sample take, by feature.

    {"tables": [...], "features": [{"name", "table", "values", "unseen", "untrained"}]}. `unseen` are the values that
    took the unseen row; `untrained` those whose row, any other, no training step has moved in any group of tables, None
    where the checkpoint does not tell. One table and what its optimizer knows of it are in memory beside the model.
    """
    front_end = predictor.model.front_end
    features_of = _features_of(predictor)
    used_rows = _used_rows(predictor)
    saved = saved_sizes(predictor.checkpoint)
    tables, trained_of = [], dict[str, NDArray[np.bool_] | None]()
    for parameter, weight in predictor.model.named_parameters():
        own = table_of(parameter)
        if own is None:
            continue
        table = front_end.table_of[own]
        is_trained = _is_trained(predictor, parameter, saved, len(weight))
        told = describe_table(weight.detach(), used_rows[table], is_trained)
        tables.append({"name": own, "features": features_of[table], **told})
        earlier = trained_of.get(table)
        trained_of[table] = is_trained if is_trained is None or earlier is None else earlier | is_trained
    features = [
        _describe_values(name, table, trained_of[table], parts)
        for table, names in features_of.items()
        for name in names
    ]
    return {"tables": tables, "features": features}


def describe_table(weight_ND: Tensor, used_rows: int, is_trained_N: NDArray[np.bool_] | None) -> dict[str, Any]:
    """What a person would act on, of one table.

    {"rows", "dim", "used_rows": that values can have, without the two reserved ones, "untrained_rows": those of them
    that no step has moved, None where it is not known, "not_finite_rows", "zero_rows": of norm 0, "repeated_rows": with
    the values of another one before them, "norms": {percent: quantile}, "abundance", "unseen_norm", "null_norm": of the
    reserved rows}. What comes after the untrained rows is of the used ones that are not known to be untrained, and the
    norms and the abundance of the finite ones of these, None if there are none.

    `abundance` is the information abundance of Guo et al. 2024, "On the embedding collapse when scaling up
    recommendation models": the sum of the singular values over the largest, D where all dimensions carry as much and 1
    where one carries all.
    """
    num_rows, dim = weight_ND.shape
    is_examined = np.zeros(num_rows, bool)
    is_examined[NUM_RESERVED_ROWS:used_rows] = True
    num_used, untrained_rows = int(np.count_nonzero(is_examined)), None
    if is_trained_N is not None:
        is_examined &= is_trained_N
        untrained_rows = num_used - int(np.count_nonzero(is_examined))
    norms, digests, gram_DD = [], [], np.zeros((dim, dim))
    for chunk_ND in _chunks(weight_ND, is_examined):
        finite_ND = chunk_ND[chunk_ND.isfinite().all(dim=1)]
        norm_N = torch.linalg.vector_norm(finite_ND, dim=1)
        norms.append(norm_N.cpu().numpy())
        digests.append(_digest(finite_ND[norm_N > ZERO_NORM]))
        gram_DD += (finite_ND.T @ finite_ND).cpu().numpy()
    norm_N, digest_N = np.concatenate(norms), np.concatenate(digests)
    singular_D = np.sqrt(np.linalg.eigvalsh(gram_DD).clip(min=0))
    quantiles = np.percentile(norm_N, QUANTILES).tolist() if len(norm_N) else [None] * len(QUANTILES)
    reserved = torch.linalg.vector_norm(weight_ND[:NUM_RESERVED_ROWS], dim=1).tolist()
    return {
        "rows": num_rows,
        "dim": dim,
        "used_rows": num_used,
        "untrained_rows": untrained_rows,
        "not_finite_rows": int(np.count_nonzero(is_examined)) - len(norm_N),
        "zero_rows": int(np.count_nonzero(norm_N <= ZERO_NORM)),
        "repeated_rows": len(digest_N) - len(np.unique(digest_N)),
        "norms": dict(zip(map(str, QUANTILES), quantiles, strict=True)),
        "abundance": float(singular_D.sum() / singular_D.max()) if singular_D.max() > 0 else None,
        "unseen_norm": reserved[UNSEEN_ROW],
        "null_norm": reserved[NULL_ROW],
    }


def _describe_values(
    name: str, table: str, is_trained: NDArray[np.bool_] | None, parts: Sequence[Batch]
) -> dict[str, Any]:
    ids = np.concatenate([part.sparse[name].values().cpu().numpy() for part in parts])
    is_unseen = ids == UNSEEN_ROW
    untrained = None if is_trained is None else int(np.count_nonzero(~is_trained[ids] & ~is_unseen))
    unseen = int(np.count_nonzero(is_unseen))
    return {"name": name, "table": table, "values": len(ids), "unseen": unseen, "untrained": untrained}


def _features_of(predictor: Predictor) -> dict[str, list[str]]:
    """The features that read each configured table, in the order of the schema."""
    features_of = defaultdict(list)
    for feature in predictor.manifest.data_schema.sparse_features:
        features_of[feature.table_name].append(feature.name)
    return features_of


def _used_rows(predictor: Predictor) -> dict[str, int]:
    """The rows of each configured table, the reserved ones among them, that the dataset has and the model knows."""
    layout, known_rows = predictor.layout, predictor.newer_values.known_rows
    tables = {feature.name: feature.table_name for feature in predictor.manifest.data_schema.sparse_features}
    return {
        tables[name]: known_rows.get(name, rows)
        for name, rows in zip(layout.features, layout.num_embeddings, strict=True)
    }


def _is_trained(
    predictor: Predictor, parameter: str, saved: Mapping[str, torch.Size], num_rows: int
) -> NDArray[np.bool_] | None:
    """Whether a step has moved each row of a table: whether what its optimizer sums up over its gradients is not 0.

    None where there are no such sums, as with sgd.
    """
    prefix = f"optimizer.{STATE_PREFIX}{parameter}."
    own = {name: size for name, size in saved.items() if name.startswith(prefix) and size[:1] == (num_rows,)}
    sums = {name: torch.zeros(size) for name, size in own.items()}
    if not sums:
        return None
    load_tensors(predictor.checkpoint, sums, is_distributed=False)
    moved = [(value.view(num_rows, -1) != 0).any(dim=1) for value in sums.values()]
    return torch.stack(moved).any(dim=0).numpy()


def _chunks(weight_ND: Tensor, is_examined: NDArray[np.bool_]) -> Iterator[Tensor]:
    for first in range(0, len(weight_ND), CHUNK_ROWS):
        kept = torch.from_numpy(is_examined[first : first + CHUNK_ROWS])
        yield weight_ND[first : first + CHUNK_ROWS][kept.to(weight_ND.device)]


def _digest(rows_ND: Tensor) -> NDArray[np.int64]:
    """A 64-bit number for the values of each row: two rows of a table that differ have one by chance alone."""
    factors = np.random.Generator(np.random.PCG64(0)).integers(0, 1 << 62, rows_ND.shape[1]) * 2 + 1
    bits = rows_ND.float().contiguous().cpu().numpy().view(np.int32)
    digest: NDArray[np.int64] = np.einsum("nd,d->n", bits, factors)
    return digest
