"""ESMM on the simulator: is P(purchase | click) right on all impressions, and better than from clicked rows only?

    python infra/benchmarks/entire_space.py

Three models on the log of `make demo`, which the script simulates where it is not there: the demo's body with head
esmm, the same body with head independent, whose purchase task is trained on clicked rows only, and a model per task
(body single_task, head independent), whose purchase model never saw another row. The simulator knows the true
probability of every impression, also of those that were not clicked.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

# Before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pyarrow.compute as pc  # noqa: E402
import pyarrow.dataset as ds  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from pipeline.evaluate.metrics import Predictions, auc  # noqa: E402
from pipeline.evaluate.run import Scored, score_split  # noqa: E402
from pipeline.executor import InProcessExecutor  # noqa: E402
from pipeline.preprocess.run import preprocess  # noqa: E402
from pipeline.run_config import RunConfig, load_run_config  # noqa: E402
from pipeline.shards.assignment import SampleOrder  # noqa: E402
from pipeline.shards.manifest import KEY_PREFIX, read_index  # noqa: E402
from pipeline.shards.reader import ShardReader  # noqa: E402
from pipeline.simulate.run import simulate  # noqa: E402
from pipeline.train.predictor import Predictor  # noqa: E402
from pipeline.train.run import train  # noqa: E402

NUM_ROWS = 700_000
MODELS = {
    "esmm": ["model.head.kind=esmm"],
    "independent head": ["model.head.kind=independent"],
    "purchase alone": ["model.head.kind=independent", "model.body={kind: single_task, widths: [128, 64]}"],
}
SPACES = ("all impressions", "clicked", "not clicked")


def make_config(workspace: Path, inputs: Path, seed: int, overrides: list[str]) -> RunConfig:
    given = [f"workspace={json.dumps(str(workspace))}", f"inputs={json.dumps(str(inputs))}", f"seed={seed}"]
    return load_run_config(ROOT / "jobs" / "configs" / "demo.yaml", (*given, *overrides))


def score_test_split(config: RunConfig) -> Scored:
    """Every row of the test split with the predictions of a model that is trained for it."""
    checkpoint = train(config)
    index = read_index(config.dataset_dir)
    shards = index.of_split("test")
    size = config.evaluate.batch_size
    order = SampleOrder(tuple(shard.rows for shard in shards), 1, size, 1 << 16, 1, 0, shuffle=False)
    return score_split(ShardReader(config.dataset_dir, shards, order), Predictor(config, index, checkpoint, size))


def true_probability(scored: Scored, inputs: Path, task: str) -> NDArray[np.float64]:
    """P(task | click) of each scored row, as the simulator drew it."""
    table = ds.dataset(inputs / "truth").to_table(columns=["impression_id", task])
    places = pc.index_in(scored.keys[KEY_PREFIX + "row"], table["impression_id"].combine_chunks())
    return np.asarray(table[task].take(places), np.float64)


def measure(scored: Scored, truth: NDArray[np.float64], task: str = "purchase") -> dict[str, float]:
    """How near P(task | click) comes to the truth on each space, and both AUCs against what happened."""
    predicted, click, label = scored.outputs[task], scored.label_NT[:, 0] == 1, scored.label_NT[:, 2]
    figures = {}
    for space, rows in zip(SPACES, (np.ones(len(click), bool), click, ~click), strict=True):
        p, q = truth[rows], predicted[rows]
        figures[f"calibration, {space}"] = float(q.sum() / p.sum())
        divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        figures[f"divergence, {space}"] = float(divergence.mean())
        # Ten buckets of equal size by prediction: the worst ratio of what is said to what is true.
        order = np.array_split(np.argsort(q, kind="stable"), 10)
        figures[f"worst bucket, {space}"] = max(
            (q[b].mean() / p[b].mean() for b in order), key=lambda r: abs(np.log(r))
        )
    figures["AUC, clicked"] = auc(Predictions(predicted[click], label[click]))
    figures["AUC of the joint, all impressions"] = auc(
        Predictions(scored.outputs[f"joint_{task}"], np.where(click, label, 0.0))
    )
    return figures


def to_markdown(results: dict[str, list[dict[str, float]]]) -> str:
    names = list(results)
    lines = ["| | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 1)]
    for figure in next(iter(results.values()))[0]:
        digits = 5 if "divergence" in figure else 4
        cells = []
        for name in names:
            values = [run[figure] for run in results[name]]
            error = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.{digits}f} ± {error:.{digits}f}")
        lines.append(f"| {figure} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    parser.add_argument("--workspace", type=Path, default=ROOT / "runs" / "entire_space")
    given = parser.parse_args()
    inputs, shared = given.workspace / "log", given.workspace / "shared"
    if not inputs.is_dir():
        simulate(inputs, given.rows, seed=1)
    base = make_config(shared, inputs, 1, [])
    if not base.dataset_dir.is_dir():
        preprocess(base, InProcessExecutor())
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in MODELS}
    for seed in range(1, given.seeds + 1):
        for name, overrides in MODELS.items():
            workspace = given.workspace / "run"
            shutil.rmtree(workspace, ignore_errors=True)
            workspace.mkdir()
            (workspace / "dataset").symlink_to(base.dataset_dir.resolve(), target_is_directory=True)
            scored = score_test_split(make_config(workspace, inputs, seed, overrides))
            figures = measure(scored, true_probability(scored, inputs, "purchase"))
            results[name].append(figures)
            print(f"{name}, seed {seed}: " + ", ".join(f"{k} {v:.4f}" for k, v in figures.items()), flush=True)
    print(to_markdown(results))


if __name__ == "__main__":
    main()
