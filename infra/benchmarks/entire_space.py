"""ESMM on the simulator: is P(purchase | click) right on all impressions, and better than from clicked rows only?

    python infra/benchmarks/entire_space.py

Three models on the log of `make demo`, which the script simulates where it is not there: the demo's body with head
esmm, the same body with head independent, whose purchase task is trained on clicked rows only, and a model per task
(body single_task, head independent), whose purchase model never saw another row. The simulator knows the true
probability of every impression, also of those that were not clicked. With --keep-clicks 0.1 nine of ten clicked rows
are left out of the log at random: clicks are rare then, and P(purchase | click) is what it was.
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
import pyarrow as pa  # noqa: E402
import pyarrow.dataset as ds  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from sklearn.metrics import roc_auc_score  # noqa: E402

from pipeline.evaluate.prediction_table import map_part  # noqa: E402
from pipeline.evaluate.scoring import score_split  # noqa: E402
from pipeline.executor import InProcessExecutor  # noqa: E402
from pipeline.preprocess.run import preprocess  # noqa: E402
from pipeline.run_config import RunConfig, load_run_config  # noqa: E402
from pipeline.shards.manifest import read_index  # noqa: E402
from pipeline.simulate.run import simulate  # noqa: E402
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


def thin_clicks(inputs: Path, out: Path, keep: float) -> None:
    """The same log with only this share of its clicked rows."""
    (out / "log").mkdir(parents=True)
    for name in ("users.parquet", "items.parquet", "truth"):
        (out / name).symlink_to((inputs / name).resolve())
    random = np.random.default_rng(0)
    for path in sorted((inputs / "log").glob("*.parquet")):
        table = pq.read_table(path)
        is_kept = (np.asarray(table["click"]) == 0) | (random.random(table.num_rows) < keep)
        pq.write_table(table.filter(pa.array(is_kept)), out / "log" / path.name)


def kept_information(inputs: Path, keep: float) -> float:
    """How much of what clicked rows tell about the logit of P(purchase | click) the joint label alone tells.

    With p the probability of a click and q that of a purchase given one, an impression's Fisher information on the
    logit of q is p q (1 - q) from the conditional likelihood, and (1 - q) / (1 - p q) times that from the joint one.
    """
    table = ds.dataset(inputs / "truth").to_table(columns=["click", "purchase"])
    p, q = (np.asarray(table[name]) for name in ("click", "purchase"))
    p = keep * p / (1 - p + keep * p)
    conditional = p * q * (1 - q)
    return float((conditional * (1 - q) / (1 - p * q)).sum() / conditional.sum())


def score_test_split(config: RunConfig) -> pa.Table:
    """Every row of the test split with the predictions of a model that is trained for it, and the true values."""
    checkpoint = train(config)
    table, _ = score_split(config, read_index(config.dataset_dir), checkpoint, InProcessExecutor(), None)
    return pa.Table.from_batches(map(map_part, table.parts))


def measure(rows: pa.Table, task: str = "purchase") -> dict[str, float]:
    """How near P(task | click) comes to the truth on each space, and both AUCs against what happened."""
    names = (f"truth_{task}", f"prediction_{task}", f"prediction_joint_{task}", "label_click", f"label_{task}")
    truth, predicted, joint, click, label = (rows[name].to_numpy() for name in names)
    click = click == 1
    figures = {}
    for space, chosen in zip(SPACES, (np.ones(len(click), bool), click, ~click), strict=True):
        p, q = truth[chosen], predicted[chosen]
        figures[f"calibration, {space}"] = float(q.sum() / p.sum())
        divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        figures[f"divergence, {space}"] = float(divergence.mean())
        # Ten buckets of equal size by prediction: the worst ratio of what is said to what is true.
        order = np.array_split(np.argsort(q, kind="stable"), 10)
        figures[f"worst bucket, {space}"] = max(
            (q[b].mean() / p[b].mean() for b in order), key=lambda r: abs(np.log(r))
        )
    figures["AUC, clicked"] = roc_auc_score(label[click], predicted[click])
    figures["AUC of the joint, all impressions"] = roc_auc_score(np.where(click, label, 0.0), joint)
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
    parser.add_argument("--keep-clicks", type=float, default=1.0, help="the share of clicked rows that stay in the log")
    given = parser.parse_args()
    inputs, shared = given.workspace / "log", given.workspace / "shared"
    if not inputs.is_dir():
        simulate(inputs, given.rows, seed=1)
    if given.keep_clicks < 1:
        thinned = given.workspace / f"log-{given.keep_clicks}"
        shared = given.workspace / f"shared-{given.keep_clicks}"
        if not thinned.is_dir():
            thin_clicks(inputs, thinned, given.keep_clicks)
        inputs = thinned
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
            figures = measure(score_test_split(make_config(workspace, inputs, seed, overrides)))
            results[name].append(figures)
            print(f"{name}, seed {seed}: " + ", ".join(f"{k} {v:.4f}" for k, v in figures.items()), flush=True)
    print(f"information in the joint label: {kept_information(inputs, given.keep_clicks):.3f} of that in clicked rows")
    print(to_markdown(results))


if __name__ == "__main__":
    main()
