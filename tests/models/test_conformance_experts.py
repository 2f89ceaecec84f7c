"""The experts and gates of every body that mixes, and what belongs to one task alone.

Shapes: B rows, I input width, T tasks, E experts, H hidden width, N networks.
"""

import pytest
import torch
from each_model import BODY_NAMES, PLACES, existing, gradients, loss_sums, make_inputs
from small_model import TASKS, batch_of, make_head, make_model, make_rows

from models.catalogue import BODIES
from models.layers import mix


@pytest.mark.parametrize("body", [name for name in BODY_NAMES if hasattr(BODIES[name], "mix")])
def test_the_gates_of_each_task_share_out_one_over_the_experts_they_see(body: str) -> None:
    torch.manual_seed(0)
    network, x_BI = make_inputs(body, 9)
    found = mix(network, x_BI)[1]
    assert found
    for level, mixture in found.items():
        num_experts = len(mixture.names)
        assert len(set(mixture.names)) == num_experts, level
        assert mixture.expert_BEH.shape[:2] == (9, num_experts), level
        assert mixture.weight_BTE.shape == (9, len(TASKS), num_experts), level
        assert mixture.seen_TE.shape == (len(TASKS), num_experts), level
        assert (mixture.weight_BTE[:, mixture.seen_TE] > 0).all(), level
        assert (mixture.weight_BTE[:, ~mixture.seen_TE] == 0).all(), level
        torch.testing.assert_close(mixture.weight_BTE.sum(dim=2), torch.ones(9, len(TASKS)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("body", ["cgc", "mmoe", "omoe", "stem"])
def test_what_a_body_gives_a_task_is_its_mixture_of_the_experts(body: str) -> None:
    torch.manual_seed(0)
    network, x_BI = make_inputs(body, 9)
    (mixture,) = mix(network, x_BI)[1].values()
    expected = torch.einsum("bte,beh->bth", mixture.weight_BTE, mixture.expert_BEH)
    torch.testing.assert_close(network(x_BI), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("body", ["single_task", "cgc", "stem"])
@pytest.mark.parametrize("place", PLACES, ids=[task.name for task in TASKS])
def test_what_belongs_to_one_task_gets_no_gradient_from_another(body: str, place: int) -> None:
    """Its experts and tables. From PLE's second level on, all tasks read them through the shared part."""
    model, batch = make_model(body), batch_of(make_rows())
    found = existing(gradients(model, loss_sums(model, make_head("independent"), batch)[place]))
    own = {f"@{task.name}": task.name == TASKS[place].name for task in TASKS}
    for name, gradient in found.items():
        for mark, is_own in own.items():
            if mark + "." in name:
                assert gradient.any() == is_own, name
    bank = {
        "single_task": "body.networks",
        "cgc": "body.level.experts",
        "stem": "body.own_experts",
    }[body]
    # Each of these has one expert per task, its networks in the order of the tasks.
    of_network_N = found[f"{bank}.later.0.weight_NIH"].flatten(1).any(dim=1)
    assert [bool(of_network_N[task]) for task in PLACES] == [task == place for task in PLACES]
