"""Gate weights by slice are the means over the rows of the slice; two equal experts say the same."""

from typing import Any

import pyarrow as pa
import pytest
import torch
from small_model import BODY_OPTIONS, TASKS, batch_of, make_model, make_rows

from models.bodies.mmoe import MMoE
from models.layers import mix
from pipeline.evaluate.diagnostics import experts
from pipeline.evaluate.diagnostics.experts import examine_experts
from pipeline.evaluate.diagnostics.sample import deal

NUM_ROWS = 60


def look(body: str, model: Any = None) -> Any:
    """What is told of three parts of a sample whose rows are in the slice of their place modulo 4, or in none."""
    rows = make_rows(NUM_ROWS)
    places = deal(NUM_ROWS, 3)
    values = [None if row % 4 == 3 else "abc"[row % 4] for row in range(NUM_ROWS)]
    slices = {"letter": pa.array(values).dictionary_encode()}
    return examine_experts(model or make_model(body), [batch_of(rows[place]) for place in places], places, slices)


@pytest.fixture(autouse=True)
def _small_slices_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts, "MIN_SLICE_ROWS", 10)


@pytest.mark.parametrize("body", ["mmoe", "cgc", "ple", "stem"])
def test_the_weights_of_a_slice_are_the_means_over_its_rows(body: str) -> None:
    found = look(body)["experts"]
    model = make_model(body)
    batch = batch_of(make_rows(NUM_ROWS))
    with torch.no_grad():
        mixtures = mix(model.body, model.front_end(batch.dense, batch.sparse))[1]
    assert found.keys() == mixtures.keys()
    for level, told in found.items():
        weight_BTE, seen_TE = mixtures[level].weight_BTE, mixtures[level].seen_TE
        means = [
            (told["mean_weight"], weight_BTE.mean(dim=0)),
            *((one["mean_weight"], weight_BTE["abc".index(one["value"]) :: 4].mean(dim=0)) for one in told["slices"]),
        ]
        for weights, mean_TE in means:
            for place, task in enumerate(TASKS):
                assert [weight is not None for weight in weights[task.name]] == seen_TE[place].tolist()
                told_E = [weight for weight in weights[task.name] if weight is not None]
                assert told_E == pytest.approx(mean_TE[place][seen_TE[place]].tolist(), rel=1e-4)
        assert [(one["dimension"], one["value"], one["rows"]) for one in told["slices"]] == [
            ("letter", value, NUM_ROWS // 4) for value in "abc"
        ]


def test_only_the_largest_slices_of_a_dimension_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts, "MAX_SLICES", 2)
    values = ["few"] * 12 + ["tiny"] * 9 + ["many"] * 21 + ["some"] * 18
    found = examine_experts(
        make_model("mmoe"),
        [batch_of(make_rows(NUM_ROWS))],
        deal(NUM_ROWS, 1),
        {"size": pa.array(values).dictionary_encode(), "small": pa.array(["x"] * 9 + [None] * 51).dictionary_encode()},
    )
    assert [(one["value"], one["rows"]) for one in found["experts"]["experts"]["slices"]] == [
        ("many", 21),
        ("some", 18),
    ]


def test_experts_that_say_the_same_are_similar_and_raise_an_alarm() -> None:
    model = make_model("mmoe")
    assert isinstance(model.body, MMoE)
    with torch.no_grad():
        for layer in model.body.experts.later:
            for parameter in layer.parameters():
                parameter[2] = parameter[0]
        for first in model.body.experts.first.parameters():
            width = first.shape[2] // BODY_OPTIONS["mmoe"]["num_experts"]
            first[..., 2 * width :] = first[..., :width]
    found = look("mmoe", model)
    similarity = found["experts"]["experts"]["similarity"]
    assert similarity[0][2] == pytest.approx(1)
    assert abs(similarity[0][1]) < 0.9
    assert [alarm.split(":")[0] for alarm in found["alarms"]] == ["'expert 0' and 'expert 2' in experts say the same"]


def test_a_model_without_experts_has_none_to_tell_of() -> None:
    assert look("shared_bottom") == {"experts": {}, "alarms": []}
