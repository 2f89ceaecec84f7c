"""A month of daily retraining on a log that drifts and has three bad days: what the gate does, and what it is worth.

    python infra/benchmarks/simulated_month.py

A feed is simulated with its truth. On three days the log is wrong, as logs are: clicks and likes belong to other rows
(a join that went wrong), the country is gone, the price repeats the click (a column that is filled in after the event).
Every day `retrain` trains a challenger on the newest rows and the gate judges it on the rows after those. Beside it the
same is done without a gate, every challenger being used, and the first model stays in use for ever. Whichever model is
in use at the start of a day is measured on that day, as the day would have been without its fault: by the expected AUC
under the true probabilities, which no luck of labels is in, and beside the AUC of the truth itself, the best possible.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

# Before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from faulty_log import FRESH_DAYS, TRAIN_DAYS, make_log, name_of_day, slot_of_day  # noqa: E402
from simulated_month_page import POLICIES, TASKS, Floats, draw, to_markdown  # noqa: E402

from pipeline.config import build, read_config  # noqa: E402
from pipeline.executor import InProcessExecutor  # noqa: E402
from pipeline.preprocess.run import preprocess  # noqa: E402
from pipeline.preprocess.transform import FittedTransform  # noqa: E402
from pipeline.registry.registry import Registry  # noqa: E402
from pipeline.retrain.champion import CHECKPOINT_FOLDER, Champion, ChampionFiles  # noqa: E402
from pipeline.retrain.plan import configure, plan_slot  # noqa: E402
from pipeline.retrain.run import SlotResult, retrain  # noqa: E402
from pipeline.run_config import RunConfig  # noqa: E402
from pipeline.shards.manifest import read_index  # noqa: E402
from pipeline.train.checkpoints.checkpoint import best_checkpoint  # noqa: E402
from pipeline.train.predictor import Predictor  # noqa: E402
from pipeline.train.run import train  # noqa: E402


def configuration(folder: Path) -> RunConfig:
    """The demo made smaller: its features with one value, two of its tasks."""
    demo = read_config(ROOT / "jobs" / "configs" / "demo.yaml")
    schema = dict(demo["schema"])
    schema["features"] = [one for one in schema["features"] if one["kind"] in ("categorical", "numeric")]
    schema["tasks"] = [one for one in schema["tasks"] if one["name"] in TASKS]
    settings = {
        "workspace": str(folder / "gate"),
        "inputs": str(folder),
        "seed": 1,
        "schema": schema,
        "preprocess": {"log": {"path": "log"}, "split": demo["preprocess"]["split"]},
        "model": {
            "front_end": {"embedding_dim": 8, "dense_width": 16},
            "body": {"kind": "mmoe", "num_experts": 4, "widths": [32, 16]},
            "head": {"kind": "esmm"},
            "tower_widths": [16],
        },
        "train": {
            "device": "cpu",
            "max_epochs": 2,
            "global_batch_size": 256,
            "inspect_every_steps": None,
            "log_every_steps": 100,
            "sparse_optimizer": {"kind": "rowwise_adagrad", "learning_rate": 0.05},
            "dense_optimizer": {"kind": "adam", "learning_rate": 0.002},
        },
        "evaluate": {"slices": ["device"], "num_replicates": 100, "importance_rows": 0},
        "registry": {"location": str(folder / "registry"), "keep": 100},
        "retrain": {
            "first_slot": slot_of_day(TRAIN_DAYS + FRESH_DAYS),
            "train_slots": TRAIN_DAYS,
            "fresh_slots": FRESH_DAYS,
            # Days are small: a share of what a few hundred users see is another one each day.
            "gate": {"default": {"max_loss": "2%"}, "slices": {"max_loss": "5%"}, "drift": {"max_psi": 0.5}},
        },
    }
    return build(RunConfig, settings, "simulated_month.py")


def expected_auc(score: Floats, probability: Floats, weight: Floats) -> float:
    """P(score of a positive above that of a negative) for labels drawn with `probability`; rows count by `weight`."""
    order = np.argsort(score)
    positive, negative = (weight * probability)[order], (weight * (1 - probability))[order]
    _, start, count = np.unique(score[order], return_index=True, return_counts=True)
    negatives = np.add.reduceat(negative, start)
    below = np.repeat(np.cumsum(negatives) - negatives / 2, count)
    # No row is compared with itself.
    own = positive * negative
    return float(((positive * below).sum() - own.sum() / 2) / (positive.sum() * negative.sum() - own.sum()))


class Day:
    """A day as it was, to measure models on."""

    def __init__(self, folder: Path, day: int) -> None:
        self.rows = pq.read_table(folder / "clean" / name_of_day(day))
        truth = pq.read_table(folder / "simulated" / "truth" / name_of_day(day))
        assert truth["impression_id"].equals(self.rows["impression_id"])
        self.truth = {task: truth[task].to_numpy() for task in TASKS}
        self.weights = {"click": np.ones(len(self.rows)), "like": self.truth["click"]}

    def measure(self, scores: dict[str, Floats]) -> dict[str, float]:
        return {task: expected_auc(scores[task], self.truth[task], self.weights[task]) for task in TASKS}

    def measure_model(self, config: RunConfig, folder: Path, checkpoint: Path) -> dict[str, float]:
        """A checkpoint whose dataset lies in a folder."""
        config = config.model_copy(update={"workspace": str(folder)})
        index = read_index(config.dataset_dir)
        fitted = FittedTransform.load(config.dataset_dir, config.data_schema, index.vocabulary_version)
        encoded = fitted.encode_features(self.rows, "a clean day")
        return self.measure(Predictor(config, index, checkpoint, 8192).predict(encoded))


def run_month(folder: Path, num_slots: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A record per slot: what the gate said, and how good the model in use is on the day that begins."""
    config = configuration(folder)
    assert config.registry is not None
    registry = Registry.open(config.registry.location)
    records: list[dict[str, Any]] = []
    ungated: ChampionFiles | None = None
    for number in range(num_slots):
        day = TRAIN_DAYS + FRESH_DAYS + number
        slot = slot_of_day(day)
        started = time.monotonic()
        (result,) = retrain(config, InProcessExecutor(2), lambda _: None, until=slot, say=lambda _: None)
        seconds = time.monotonic() - started
        ungated = retrain_without_gate(config, folder / "no gate", slot, ungated)
        champion = registry.champion()
        clean = Day(folder, day)
        record: dict[str, Any] = {"slot": f"{slot:%Y-%m-%d}", "day": day, "seconds": round(seconds, 1)}
        record |= {"promoted": result.is_promoted, "refusals": refusals_of(result)}
        record["best"] = clean.measure(clean.truth)
        record["no gate"] = clean.measure_model(config, ungated.folder, ungated.checkpoint)
        for policy, version in (("gate", champion.version if champion else None), ("never", 1)):
            if version is not None:
                files = registry.fetch(version, folder)
                (checkpoint,) = (files / CHECKPOINT_FOLDER).iterdir()
                record[policy] = clean.measure_model(config, files, checkpoint)
        records.append(record)
        verdict = "promoted" if result.is_promoted else f"refused: {record['refusals'][0]['reason']}"
        aucs = ", ".join(f"{name} {record[name]['click']:.4f}" for name in ("best", *POLICIES) if name in record)
        say(f"{record['slot']} {verdict} ({aucs}; {seconds:.0f} s)")
    return records


def refusals_of(result: SlotResult) -> list[dict[str, Any]]:
    fields = {"rule", "task", "metric", "feature", "reason"}
    return [rule.model_dump(include=fields) for rule in result.decision.rules if not rule.passed]


def retrain_without_gate(
    config: RunConfig, workspace: Path, slot: datetime, before: ChampionFiles | None
) -> ChampionFiles:
    """The same training, from the model of the slot before, whatever that one is worth."""
    assert config.retrain is not None
    trained_until = slot - timedelta(days=1 + FRESH_DAYS)
    plan = plan_slot(config.retrain, slot, Champion(1, trained_until, has_same_schema=True) if before else None, None)
    own = configure(config.model_copy(update={"workspace": str(workspace)}), config.retrain, plan, before)
    preprocess(own, InProcessExecutor(2))
    train(own)
    return ChampionFiles(own.workspace_dir, best_checkpoint(own.checkpoints_dir))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=30)
    parser.add_argument("--rows", type=int, default=8000, help="of a day")
    parser.add_argument("--drift", type=float, default=0.015, help="radians a day, beside 0.02")
    parser.add_argument("--beside", default="", help="said of what else the machine did")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    given.beside = f", {given.beside}" if given.beside else ""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        make_log(Path(folder), given.slots, given.rows, given.drift)
        records = run_month(Path(folder), given.slots, lambda line: print(line, flush=True))
    settings = {"slots": given.slots, "rows": given.rows, "drift": given.drift}
    (given.out / "simulated_month.json").write_text(
        json.dumps({"settings": settings, "slots": records}, indent=1) + "\n"
    )
    draw(records, given.out / "simulated_month.svg")
    text = to_markdown(records, given, time.monotonic() - started)
    (given.out / "simulated_month.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
