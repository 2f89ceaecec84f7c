"""Dense parts by `torch.compile`: the same losses, and one message where there is no compiler."""

from itertools import product
from pathlib import Path

import pytest
import torch
from combination_ranks import losses_compiled, losses_of, on_ranks
from small_model import make_model

from models.catalogue import BALANCERS, BODIES
from pipeline.errors import SetupError
from pipeline.train.compiled import compile_dense

NUM_STEPS = 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("combinations", "interaction"),
    [
        # The balancer goes backwards for each task.
        ([("mmoe", "esmm", "pcgrad")], "low_rank_cross"),
        pytest.param(
            [*product(BODIES, ["independent"], ["fixed"]), *product(["mmoe"], ["esmm"], BALANCERS)],
            "factorization_machine",
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_a_compiled_model_has_the_losses_of_another(
    combinations: list[tuple[str, str, str]], interaction: str, tmp_path: Path
) -> None:
    plain = on_ranks(losses_of, 1, tmp_path, combinations, NUM_STEPS, "table_wise", False, interaction)
    compiled = on_ranks(losses_compiled, 1, tmp_path, combinations, NUM_STEPS, interaction)
    for name, losses in plain.items():
        assert losses[-1].sum() < losses[0].sum(), name
        torch.testing.assert_close(compiled[name], losses, rtol=0, atol=1e-5, msg=name)


def test_without_a_compiler_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SetupError, match="there is no no-such-compiler on this machine") as raised:
        compile_dense(make_model("mmoe"))
    assert "CXX" in raised.value.fix
