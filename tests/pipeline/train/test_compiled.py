"""Dense parts by `torch.compile`: the same losses, and one message where there is no compiler."""

from itertools import product
from pathlib import Path

import pytest
import torch
from combination_ranks import losses_compiled, losses_of, losses_with, on_ranks
from small_model import make_model

from models.catalogue import BALANCERS, BODIES, INTERACTIONS
from pipeline.errors import SetupError
from pipeline.train.compiled import compile_dense

NUM_STEPS = 20


@pytest.mark.parametrize("interaction", INTERACTIONS)
@pytest.mark.parametrize("body", BODIES)
def test_each_part_is_one_graph(body: str, interaction: str) -> None:
    torch.compiler.reset()
    model = make_model(body, interaction=interaction)
    groups = (model.front_end.num_groups,) if model.front_end.num_groups > 1 else ()
    x = torch.rand(3, *groups, model.front_end.parts.width)
    assert model.front_end.interaction is not None
    for part in (model.front_end.interaction, model.body, model.towers):
        whole = torch.compile(part, backend="eager", dynamic=False, fullgraph=True)
        expected, x = part(x), whole(x)
        torch.testing.assert_close(x, expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("combinations", "interaction"),
    [
        ([*product(BODIES, ["independent"], ["fixed"])], "factorization_machine"),
        ([*product(["mmoe"], ["esmm"], BALANCERS)], "low_rank_cross"),
    ],
    ids=["bodies", "balancers"],
)
def test_a_compiled_model_has_the_losses_of_another(
    combinations: list[tuple[str, str, str]], interaction: str, tmp_path: Path
) -> None:
    plain = on_ranks(losses_of, 1, tmp_path, combinations, NUM_STEPS, "table_wise", False, interaction)
    compiled = on_ranks(losses_compiled, 1, tmp_path, combinations, NUM_STEPS, interaction)
    for name, losses in plain.items():
        assert losses[-1].sum() < losses[0].sum(), name
        torch.testing.assert_close(compiled[name], losses, rtol=0, atol=1e-5, msg=name)


@pytest.mark.exhaustive
def test_a_compiled_model_has_them_too_when_ids_are_sent_ahead(tmp_path: Path) -> None:
    settings = {"plain": {}, "compiled": {"compile": True, "pipeline": "sparse_dist"}}
    found = on_ranks(losses_with, 1, tmp_path, settings, NUM_STEPS)
    torch.testing.assert_close(found["compiled"], found["plain"], rtol=0, atol=1e-5, equal_nan=True)


def test_without_a_compiler_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SetupError, match="there is no no-such-compiler on this machine") as raised:
        compile_dense(make_model("mmoe"))
    assert "CXX" in raised.value.fix
