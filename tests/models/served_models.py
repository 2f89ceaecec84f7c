"""Small models as they are trained and as they serve, and rows for both: a feature of each kind, numbers, any body.

Shapes: B rows or pairs, U requests, M items.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from small_model import BODY_OPTIONS, INTERACTION_OPTIONS, TASKS
from torch import Tensor
from torchrec import EmbeddingBagConfig, KeyedJaggedTensor, PoolingType

from models.catalogue import BODIES, INTERACTIONS
from models.front_end import Attended, FrontEnd
from models.inputs import Inputs
from models.multitask import MultiTaskModel, table_groups
from models.pairs import Side
from models.serving import ServingFrontEnd, ServingModel, TableConfig
from models.tables import TableType
from models.tasks import predictions

TABLES = {"user": ["user"], "item": ["item", "history"], "tag": ["tags", "interests"]}
REQUEST_FEATURES, ITEM_FEATURES = ("user", "history", "interests"), ("item", "tags")
FEATURES = ("user", "item", "history", "tags", "interests")
LISTS = ("history", "tags", "interests")
NUM_EMBEDDINGS, DIM, NUM_DENSE = 30, 8, 4


class Kind(NamedTuple):
    """What a model is made of."""

    body: str
    interaction: str | None = None
    attention: bool = False
    weighted: bool = False


KINDS = [
    Kind(body, interaction, attention, weighted)
    for body in sorted(BODIES.keys() & BODY_OPTIONS.keys())
    for interaction in (None, *sorted(INTERACTIONS.keys() & INTERACTION_OPTIONS.keys()))
    for attention in (False, True)
    for weighted in (False, True)
]


@functools.cache
def make_models(kind: Kind, tables: TableType = "float32") -> tuple[MultiTaskModel, ServingModel]:
    """A model with random values in all tables and layers, and the same as it serves."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        configs = [
            EmbeddingBagConfig(
                name=name,
                num_embeddings=NUM_EMBEDDINGS,
                embedding_dim=DIM,
                feature_names=features,
                pooling=PoolingType.SUM,
            )
            for name, features in TABLES.items()
        ]
        shared: dict[str, Any] = {
            "groups": table_groups(BODIES[kind.body], TASKS),
            "attention": {"history": Attended("item", (6,))} if kind.attention else None,
            "interaction": _interaction(kind.interaction),
        }
        weighted = ["tags", "interests"] if kind.weighted else []
        front_end = FrontEnd(configs, FEATURES, NUM_DENSE, 6, torch.device("cpu"), weighted=weighted, **shared)
        body = BODIES[kind.body](front_end.inputs, TASKS, **BODY_OPTIONS[kind.body])
        trained = MultiTaskModel(front_end, body, TASKS, (8,)).eval()
        own = [TableConfig(name, NUM_EMBEDDINGS, DIM, features) for name, features in TABLES.items()]
        serving_front_end = ServingFrontEnd(own, FEATURES, NUM_DENSE, 6, table_type=tables, **shared)
        body = BODIES[kind.body](serving_front_end.inputs, TASKS, **BODY_OPTIONS[kind.body])
        served = ServingModel(serving_front_end, body, TASKS, (8,)).eval()
    served.load_trained(trained.state_dict())
    return trained, served


def _interaction(name: str | None) -> Any:
    def make(inputs: Inputs) -> Any:
        return INTERACTIONS[name or ""](inputs, **INTERACTION_OPTIONS[name or ""])

    return make if name else None


class Row(NamedTuple):
    """The ids of each feature, their weights, and the numbers."""

    ids: dict[str, list[int]]
    weights: dict[str, list[float]]
    dense: list[float]


def make_rows(num_rows: int, seed: int = 0) -> list[Row]:
    """One value of `user` and `item`; none to three of the others; some of them with a weight of 0."""
    generator = torch.Generator().manual_seed(seed)

    def draw(limit: int, size: int) -> list[int]:
        drawn: list[int] = torch.randint(0, limit, (size,), generator=generator).tolist()
        return drawn

    rows = []
    for _ in range(num_rows):
        ids = {name: draw(NUM_EMBEDDINGS, draw(4, 1)[0] if name in LISTS else 1) for name in FEATURES}
        weights = {name: [number / 2 for number in draw(4, len(own))] for name, own in ids.items()}
        rows.append(Row(ids, weights, (torch.rand(NUM_DENSE, generator=generator) * 4 - 2).tolist()))
    return rows


def predict_trained(model: MultiTaskModel, rows: Sequence[Row], is_weighted: bool) -> dict[str, Tensor]:
    """What the model that was trained says."""
    bags = [(row.ids[name], row.weights[name]) for name in FEATURES for row in rows]
    is_single = [name not in LISTS or name == "history" for name in FEATURES for _ in rows]
    weights = [
        weight
        for (ids, own), single in zip(bags, is_single, strict=True)
        for weight in ([1.0] * len(ids) if single else own)
    ]
    sparse = KeyedJaggedTensor(
        keys=list(FEATURES),
        values=torch.tensor([value for ids, _ in bags for value in ids], dtype=torch.int64),
        lengths=torch.tensor([len(ids) for ids, _ in bags], dtype=torch.int32),
        weights=torch.tensor(weights) if is_weighted else None,
    )
    with torch.no_grad():
        return predictions(TASKS, model(torch.tensor([row.dense for row in rows]), sparse))


def inputs_of(
    rows: Sequence[Row],
    is_weighted: bool,
    features: Sequence[str] = FEATURES,
    columns: Sequence[int] = range(NUM_DENSE),
) -> dict[str, Tensor]:
    """Some features and numbers of rows, as a model that serves takes them."""
    inputs = {"dense": torch.tensor([[row.dense[column] for column in columns] for row in rows])}
    for name in features:
        inputs[f"ids.{name}"] = torch.tensor([value for row in rows for value in row.ids[name]], dtype=torch.int64)
        if name in LISTS:
            inputs[f"lengths.{name}"] = torch.tensor([len(row.ids[name]) for row in rows])
        if is_weighted and name in ("tags", "interests"):
            inputs[f"weights.{name}"] = torch.tensor([weight for row in rows for weight in row.weights[name]])
    return inputs


class Pairs(NamedTuple):
    """Requests and items, which two of them each pair is, and the rows that the pairs stand for."""

    request: Side
    item: Side
    rows: list[Row]


def make_pairs(
    num_requests: int, num_items: int, num_pairs: int, is_weighted: bool, request_columns: Sequence[int] = (0, 2)
) -> Pairs:
    """Pairs of random requests and items; the numbers of `request_columns` belong to the request."""
    requests, items = make_rows(num_requests, seed=1), make_rows(num_items, seed=2)
    generator = torch.Generator().manual_seed(3)
    request_B = torch.randint(0, num_requests, (num_pairs,), generator=generator)
    item_B = torch.randint(0, num_items, (num_pairs,), generator=generator)
    item_columns = [column for column in range(NUM_DENSE) if column not in request_columns]
    rows = [
        Row(
            {name: (request if name in REQUEST_FEATURES else item).ids[name] for name in FEATURES},
            {name: (request if name in REQUEST_FEATURES else item).weights[name] for name in FEATURES},
            [(request if column in request_columns else item).dense[column] for column in range(NUM_DENSE)],
        )
        for request, item in ((requests[u], items[m]) for u, m in zip(request_B.tolist(), item_B.tolist(), strict=True))
    ]
    return Pairs(
        Side(
            inputs_of(requests, is_weighted, REQUEST_FEATURES, request_columns),
            request_columns,
            request_B,
            num_requests,
        ),
        Side(inputs_of(items, is_weighted, ITEM_FEATURES, item_columns), item_columns, item_B, num_items),
        rows,
    )
