"""Planted rows of a table are found: untrained, zero and repeated ones, and dimensions that carry nothing."""

import numpy as np
import pytest
import torch

from pipeline.evaluate.diagnostics import tables
from pipeline.evaluate.diagnostics.tables import describe_table

NUM_ROWS, DIM = 500, 8


@pytest.fixture(params=[7, 1 << 18], ids=["in chunks", "at once"], autouse=True)
def chunk_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CHUNK_ROWS", request.param)


def make_table() -> torch.Tensor:
    return torch.randn(NUM_ROWS, DIM, generator=torch.Generator().manual_seed(2))


def test_a_healthy_table_has_nothing_to_tell_but_its_norms() -> None:
    weight = make_table()
    told = describe_table(weight, NUM_ROWS, np.ones(NUM_ROWS, bool))
    norms = weight[2:].norm(dim=1).numpy()
    assert [told[name] for name in ("rows", "dim", "used_rows")] == [NUM_ROWS, DIM, NUM_ROWS - 2]
    assert [told[name] for name in ("untrained_rows", "not_finite_rows", "zero_rows", "repeated_rows")] == [0] * 4
    assert told["norms"] == pytest.approx({str(level): np.percentile(norms, level) for level in (0, 5, 50, 95, 100)})
    assert [told["unseen_norm"], told["null_norm"]] == pytest.approx(weight[:2].norm(dim=1).tolist())
    singular = torch.linalg.svdvals(weight[2:]).numpy()
    assert told["abundance"] == pytest.approx(singular.sum() / singular.max(), rel=1e-4)


def test_planted_rows_are_counted_where_they_are_used_and_trained() -> None:
    weight, is_trained = make_table(), np.ones(NUM_ROWS, bool)
    weight[10:14] = 0
    weight[20:23] = weight[400]
    weight[490:] = 0  # not used
    is_trained[[0, 1, 12, 30, 31, 495]] = False
    weight[30] = weight[31]
    told = describe_table(weight, 480, is_trained)
    assert told["used_rows"] == 478
    assert told["untrained_rows"] == 3
    assert told["zero_rows"] == 3
    assert told["repeated_rows"] == 3
    assert told["norms"]["0"] == 0


def test_rows_that_differ_in_one_bit_are_not_repeated() -> None:
    weight = make_table()
    weight[7] = weight[8]
    weight[7, 3] = torch.nextafter(weight[8, 3], torch.tensor(9.0))
    assert describe_table(weight, NUM_ROWS, np.ones(NUM_ROWS, bool))["repeated_rows"] == 0


def test_rows_that_are_no_numbers_are_counted_and_left_out_of_all_else() -> None:
    weight = make_table()
    weight[9, 2], weight[11] = torch.nan, torch.inf
    told = describe_table(weight, NUM_ROWS, np.ones(NUM_ROWS, bool))
    finite = torch.cat([weight[:9], weight[10:11], weight[12:]])
    expected = describe_table(finite, NUM_ROWS - 2, np.ones(NUM_ROWS - 2, bool))
    assert told["not_finite_rows"] == 2
    assert told["norms"] == expected["norms"]
    assert told["abundance"] == pytest.approx(expected["abundance"], rel=1e-5)


def test_without_knowing_what_was_trained_all_used_rows_are_examined() -> None:
    weight = make_table()
    weight[10:14] = 0
    told = describe_table(weight, NUM_ROWS, None)
    assert told["untrained_rows"] is None
    assert told["zero_rows"] == 4


def test_abundance_is_the_number_of_dimensions_that_carry_as_much() -> None:
    rng = np.random.default_rng(0)
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], (20_000, DIM)).astype(np.float32))
    trained = np.ones(20_000, bool)
    assert describe_table(signs, 20_000, trained)["abundance"] == pytest.approx(DIM, rel=0.05)
    signs[:, 3:] = 0
    assert describe_table(signs, 20_000, trained)["abundance"] == pytest.approx(3, rel=0.05)
    assert describe_table(signs[:, :1].expand(-1, DIM), 20_000, trained)["abundance"] == pytest.approx(1, abs=0.02)


def test_a_table_that_was_never_trained_has_no_norms() -> None:
    told = describe_table(make_table(), NUM_ROWS, np.zeros(NUM_ROWS, bool))
    assert told["untrained_rows"] == NUM_ROWS - 2
    assert set(told["norms"].values()) == {None}
    assert told["abundance"] is None
