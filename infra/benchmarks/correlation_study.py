"""Bodies on synthetic tasks of known correlation: the study of the MMoE paper (Ma et al., KDD 2018, section 3.2).

    python infra/benchmarks/correlation_study.py

Two regressions y_k = w_k.x + sum_i sin(a_i w_k.x + b_i) + noise with x ~ N(0, I) in 100 dimensions; w_1 = u_1 and
w_2 = p u_1 + sqrt(1 - p^2) u_2 for orthonormal u_1, u_2, so that p is the correlation of the tasks. As in the PLE
paper (Tang et al., RecSys 2020) a, b ~ N(0, 1) and there are ten sines. Every body has the parameters of the paper's
MMoE (8 experts of 16 units, towers of 8), within 2 percent. All runs of a body are trained at once, each on a stream of
fresh rows; runs of the same seed see the same rows whatever the body. The learning rate of a body is the one of
LEARNING_RATES with the lowest mean loss on seeds that are not used otherwise.

Shapes: R runs, S seeds, P correlations, B rows, I = 100 inputs, M sines; the two tasks come last.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# Before torch is loaded: two bodies train side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from correlation_verdicts import CORRELATIONS, Losses, draw, statements, to_markdown  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.func import functional_call, stack_module_state  # noqa: E402

from models.catalogue import BODIES  # noqa: E402
from models.inputs import Inputs  # noqa: E402
from models.layers import Towers  # noqa: E402
from models.multitask import table_groups  # noqa: E402
from models.tasks import Task  # noqa: E402

INPUT_WIDTH, NUM_SINES, NOISE_VARIANCE = 100, 10, 0.01
TOWER_WIDTHS = (8,)
OPTIONS: dict[str, dict[str, Any]] = {
    "single_task": {"widths": (68,)},
    "shared_bottom": {"widths": (126,)},
    "omoe": {"num_experts": 8, "widths": (17,)},
    "mmoe": {"num_experts": 8, "widths": (16,)},
    "cgc": {"num_shared_experts": 3, "num_task_experts": 2, "widths": (19,)},
    "ple": {"num_shared_experts": 3, "num_task_experts": 2, "levels": ((15,), (18,))},
}
LEARNING_RATES = (0.001, 0.003, 0.01)
FIRST_TUNING_SEED, NUM_TUNING_SEEDS = 1000, 4
NUM_TEST_ROWS, TEST_PARTS = 4096, 4


class Net(nn.Module):
    """A body with its towers on x_BI; a body with an input per task gets the same one for each."""

    def __init__(self, body: str) -> None:
        super().__init__()
        tasks = [Task("first", "regression"), Task("second", "regression")]
        self.num_groups = len(table_groups(BODIES[body], tasks))
        self.body = BODIES[body](Inputs({"x": INPUT_WIDTH}, self.num_groups), tasks, **OPTIONS[body])
        self.towers = Towers([1, 1], int(self.body.output_width), TOWER_WIDTHS)  # type: ignore[arg-type]

    def forward(self, x_BI: Tensor) -> Tensor:
        if self.num_groups > 1:
            x_BI = x_BI.unsqueeze(1).expand(-1, self.num_groups, -1)
        outputs: Tensor = self.towers(self.body(x_BI))
        return outputs


class Problem:
    """The tasks of every seed at every correlation, with a stream of rows per seed; labels have variance 1."""

    def __init__(self, seeds: Sequence[int], correlations: Sequence[float], *, stream: int) -> None:
        directions, slopes, phases = [], [], []
        self.generators = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            directions.append(torch.linalg.qr(torch.randn(INPUT_WIDTH, 2, generator=generator))[0])
            slopes.append(torch.randn(NUM_SINES, generator=generator))
            phases.append(torch.randn(NUM_SINES, generator=generator))
            self.generators.append(torch.Generator().manual_seed((seed + 1) * 1_000_003 + stream))
        self.directions_SI2 = torch.stack(directions)
        self.slopes_SM, self.phases_SM = torch.stack(slopes), torch.stack(phases)
        self.correlation_P = torch.tensor(correlations)
        # w.x is a standard normal number: the moments of the label are integrals over it.
        t = torch.linspace(-8, 8, 4001, dtype=torch.float64)
        density = torch.exp(-t * t / 2)
        density /= density.sum()
        sines = torch.sin(self.slopes_SM.double()[:, :, None] * t + self.phases_SM.double()[:, :, None])
        value = t + sines.sum(dim=1)
        mean_S = (value * density).sum(dim=1)
        deviation_S = ((value - mean_S[:, None]).square() * density).sum(dim=1).sqrt()
        self.mean_S, self.deviation_S = mean_S.float(), deviation_S.float()

    def draw(self, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """x [R, B, I], labels without noise [R, B, 2] and noise [R, B, 2], with R = S * P, seed by seed."""
        x_SBI = torch.stack([torch.randn(num_rows, INPUT_WIDTH, generator=g) for g in self.generators])
        noise_SB2 = torch.stack([torch.randn(num_rows, 2, generator=g) for g in self.generators])
        along_SB2 = torch.bmm(x_SBI, self.directions_SI2)
        p = self.correlation_P[:, None]
        first = along_SB2[:, None, :, 0].expand(-1, len(p), -1)
        second = p * along_SB2[:, None, :, 0] + (1 - p * p).sqrt() * along_SB2[:, None, :, 1]
        along_SPB2 = torch.stack([first, second], dim=-1)
        label = along_SPB2.clone()
        for slope_S, phase_S in zip(self.slopes_SM.unbind(1), self.phases_SM.unbind(1), strict=True):
            label += torch.sin(slope_S[:, None, None, None] * along_SPB2 + phase_S[:, None, None, None])
        deviation = self.deviation_S[:, None, None, None]
        label = (label - self.mean_S[:, None, None, None]) / deviation
        noise = math.sqrt(NOISE_VARIANCE) * noise_SB2[:, None] / deviation
        num_correlations = len(self.correlation_P)
        return (
            x_SBI.repeat_interleave(num_correlations, dim=0),
            label.flatten(0, 1),
            noise.expand(-1, num_correlations, -1, -1).flatten(0, 1),
        )


def train_runs(
    body: str, seeds: Sequence[int], correlations: Sequence[float], rate: float, num_steps: int, batch_rows: int
) -> Losses:
    """The mean squared error on fresh rows without noise, over both tasks, in label variances: [S, P]."""
    nets = []
    for seed in seeds:
        torch.manual_seed(seed)
        nets.append(Net(body))
    stacked, _ = stack_module_state(nets)
    parameters = {
        name: value.detach().repeat_interleave(len(correlations), dim=0).requires_grad_()
        for name, value in stacked.items()
    }
    predict = vectorised(nets[0])
    optimizer = torch.optim.Adam(list(parameters.values()), lr=rate, fused=True)
    problem = Problem(seeds, correlations, stream=0)
    for step in range(num_steps):
        x_RBI, label, noise = problem.draw(batch_rows)
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / num_steps)
        # The runs share no parameter: the sum of their losses trains each by itself.
        loss = (predict(parameters, x_RBI) - label - noise).square().mean(dim=(1, 2)).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    test, errors = Problem(seeds, correlations, stream=1), []
    with torch.no_grad():
        for _ in range(TEST_PARTS):
            x_RBI, label, _ = test.draw(NUM_TEST_ROWS)
            errors.append((predict(parameters, x_RBI) - label).square().mean(dim=(1, 2)))
    return torch.stack(errors).mean(dim=0).view(len(seeds), -1).double().numpy()


def vectorised(net: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    """(stacked parameters, [R, B, I]) -> [R, B, 2]: all runs in one pass."""

    def one(parameters: dict[str, Tensor], x_BI: Tensor) -> Tensor:
        outputs: Tensor = functional_call(net, parameters, (x_BI,))
        return outputs

    return torch.vmap(one)


def study_body(body: str, num_seeds: int, num_steps: int, batch_rows: int) -> dict[str, Any]:
    """Chooses the learning rate of a body and trains all its runs."""
    started = time.monotonic()
    tuning_seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + NUM_TUNING_SEEDS)
    tuned = {
        rate: float(train_runs(body, tuning_seeds, CORRELATIONS, rate, num_steps, batch_rows).mean())
        for rate in LEARNING_RATES
    }
    rate = min(tuned, key=lambda rate: tuned[rate])
    losses = train_runs(body, range(num_seeds), CORRELATIONS, rate, num_steps, batch_rows)
    return {
        "body": body,
        "learning_rate": rate,
        "tuning": tuned,
        "num_parameters": sum(p.numel() for p in Net(body).parameters()),
        "losses": losses.round(8).tolist(),
        "seconds": round(time.monotonic() - started),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rows", type=int, default=128, help="rows of a step")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    settings = {"num_seeds": given.seeds, "num_steps": given.steps, "batch_rows": given.rows}
    path = given.out / "correlation_study.json"
    # Bodies that were trained with these settings are not trained again.
    earlier = json.loads(path.read_text()) if path.is_file() else []
    results = [result for result in earlier if result["settings"] == settings]
    done = {result["body"] for result in results}
    # The largest first, so that the processes end together.
    missing = [body for body in reversed(OPTIONS) if body not in done]
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for result in pool.imap_unordered(partial(study_body, **settings), missing):
            results.append({**result, "settings": settings})
            path.write_text(json.dumps(results) + "\n")
            mean = 1000 * np.mean(result["losses"])
            print(f"{result['body']}: {mean:.2f} at learning rate {result['learning_rate']}, {result['seconds']} s")
    results.sort(key=lambda result: list(OPTIONS).index(result["body"]))
    found = statements({result["body"]: np.array(result["losses"]) for result in results})
    draw(results, given.out / "correlation_study.svg")
    text = to_markdown(results, found, given)
    (given.out / "correlation_study.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
