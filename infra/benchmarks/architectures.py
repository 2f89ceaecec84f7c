"""Every body on Census-Income and KuaiRand at equal budgets: quality, gain over single-task, seesaw.

    python infra/benchmarks/architectures.py census_income FOLDER
    python infra/benchmarks/architectures.py kuairand FOLDER

FOLDER holds the raw files that jobs/configs/<name>.yaml asks for. Each run is the shipped configuration with another
body, learning rate of the dense layers, and seed. The learning rate of a body is the one of LEARNING_RATES with the
lowest mean validation loss for the tuning seeds; the figures are of seeds 1, 2, ..., on the test split, from the
checkpoint with the lowest validation loss. Runs that are already in the results file are not done again.
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import statistics
import sys
from collections.abc import Sequence
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

# Before torch is loaded, here and in the workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.run_config import RunConfig, load_run_config  # noqa: E402

NAMES = ("census_income", "kuairand")
BASELINE = "single_task"
# The budget: parameters of body and towers of MMoE with 4 experts of twice this width and then this width.
BUDGET_WIDTH = 32
MAX_WIDTH = 2048
LEARNING_RATES = (0.0005, 0.001, 0.002, 0.004, 0.008)
TUNING_SEEDS = (0, 100)
# What tells people apart and where they are, for PEPNet's gates.
PEPNET_FEATURES: dict[str, dict[str, list[str]]] = {
    "census_income": {"person_features": ["age_value", "sex", "race"], "domain_features": ["year"]},
    "kuairand": {"person_features": ["user_id", "author_id"], "domain_features": ["tab"]},
}


def body_options(body: str, name: str, width: int) -> dict[str, Any]:
    """The body with `width` units at its end and, where it has two layers, twice as many before."""
    deep = [2 * width, width]
    mixture = {"num_shared_experts": 2, "num_task_experts": 1}
    options: dict[str, dict[str, Any]] = {
        "aitm": {"widths": deep},
        "cgc": {**mixture, "widths": deep},
        "cross_stitch": {"widths": deep},
        "dbmtl": {"widths": [2 * width], "task_widths": [width], "relation_widths": [width]},
        "mmoe": {"num_experts": 4, "widths": deep},
        "omoe": {"num_experts": 4, "widths": deep},
        "pepnet": {**PEPNET_FEATURES[name], "widths": deep, "gate_width": 16},
        "ple": {**mixture, "levels": [[2 * width], [width]]},
        "shared_bottom": {"widths": deep},
        "single_task": {"widths": deep},
        "stem": {"num_shared_experts": 1, "num_task_experts": 1, "widths": deep},
    }
    return {"kind": body, **options[body]}


def make_config(
    name: str, inputs: str, workspace: Path, body: dict[str, Any] | None, seed: int = 0, learning_rate: float = 0.001
) -> RunConfig:
    """The shipped configuration with another body, seed and learning rate of the dense layers."""
    overrides = [f"inputs={json.dumps(inputs)}", f"workspace={json.dumps(str(workspace))}", f"seed={seed}"]
    overrides += ["train.inspect_every_steps=null", "train.keep_checkpoints=1"]
    overrides.append(f"train.dense_optimizer.learning_rate={learning_rate}")
    if body is not None:
        overrides.append(f"model.body={json.dumps(body)}")
    return load_run_config(ROOT / "jobs" / "configs" / f"{name}.yaml", tuple(overrides))


def count_parameters(config: RunConfig, dataset: Path) -> tuple[int, int]:
    """Parameters of body and towers, and of everything before the body."""
    import torch

    from pipeline.assemble import build_model
    from pipeline.shards.manifest import read_index

    model = build_model(read_index(dataset), config.model, 0, torch.device("meta"))
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model.body, model.towers, model.front_end)]
    return sizes[0] + sizes[1], sizes[2]


def fit_width(name: str, inputs: str, dataset: Path, body: str, budget: int) -> int:
    """The width whose number of parameters comes nearest to the budget."""

    def size(width: int) -> int:
        config = make_config(name, inputs, Path("unused"), body_options(body, name, width))
        return count_parameters(config, dataset)[0]

    low, high = 1, MAX_WIDTH
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= budget else (low, middle)
    return min((low, high), key=lambda width: abs(size(width) - budget))


def run_one(job: dict[str, Any]) -> dict[str, Any]:
    """Trains and evaluates one body with one seed, and returns its figures."""
    from pipeline.evaluate.run import evaluate
    from pipeline.train.run import train
    from pipeline.train.telemetry import read_history

    workspace = Path(job["workspace"])
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir(parents=True)
    (workspace / "dataset").symlink_to(Path(job["dataset"]).resolve(), target_is_directory=True)
    config = make_config(job["name"], job["inputs"], workspace, job["options"], job["seed"], job["learning_rate"])
    num_parameters, num_before = count_parameters(config, config.dataset_dir)
    train(config)
    report = evaluate(config)
    metrics = ("auc", "log_loss", "calibration")
    figures = {task["name"]: {m: round(task["metrics"][m]["value"], 6) for m in metrics} for task in report["tasks"]}
    history = read_history(workspace)
    shutil.rmtree(workspace)
    return {
        "name": job["name"],
        "body": job["body"],
        "seed": job["seed"],
        "learning_rate": job["learning_rate"],
        "options": job["options"],
        "num_parameters": num_parameters,
        "num_parameters_before_body": num_before,
        "num_steps": history[-1]["step"],
        "seconds": history[-1]["seconds"],
        "validation_loss": min(record["total"] for record in history if record["kind"] == "validation"),
        "tasks": figures,
    }


def read_results(path: Path) -> list[dict[str, Any]]:
    """The results so far, one JSON text a line."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def spread(values: Sequence[float]) -> float:
    """The sample standard deviation; 0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def summarise(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per body, the largest mean gain first: AUC and gain over single-task of the same seed, per task."""
    by_body: dict[str, dict[int, dict[str, Any]]] = {}
    best = choose_rates(results)
    for result in results:
        if result["seed"] in TUNING_SEEDS or result["learning_rate"] != best[result["body"]]:
            continue
        by_body.setdefault(result["body"], {})[result["seed"]] = result
    rows = []
    for body, runs in by_body.items():
        any_run = next(iter(runs.values()))
        tasks = {}
        for task in any_run["tasks"]:
            aucs = {seed: run["tasks"][task]["auc"] for seed, run in runs.items()}
            gains = [
                auc - by_body[BASELINE][seed]["tasks"][task]["auc"]
                for seed, auc in aucs.items()
                if seed in by_body.get(BASELINE, {})
            ]
            tasks[task] = {
                "auc": statistics.mean(aucs.values()),
                "spread": spread(list(aucs.values())),
                "gain": statistics.mean(gains) if gains else math.nan,
                "gain_error": spread(gains) / math.sqrt(max(1, len(gains))),
                "log_loss": statistics.mean(run["tasks"][task]["log_loss"] for run in runs.values()),
            }
        rows.append(
            {
                "body": body,
                "seeds": len(runs),
                "learning_rate": any_run["learning_rate"],
                "num_parameters": any_run["num_parameters"],
                "num_parameters_before_body": any_run["num_parameters_before_body"],
                "tasks": tasks,
                "gain": statistics.mean(task["gain"] for task in tasks.values()),
                "is_seesaw": is_seesaw(tasks),
            }
        )
    return sorted(rows, key=lambda row: -row["gain"])


def is_seesaw(tasks: dict[str, dict[str, float]]) -> bool:
    """True when one task gains and another loses, both by more than two standard errors."""
    clear = [task["gain"] for task in tasks.values() if abs(task["gain"]) > 2 * task["gain_error"]]
    return any(gain > 0 for gain in clear) and any(gain < 0 for gain in clear)


def to_page(results: list[dict[str, Any]]) -> str:
    """The tables of all data sets that have results."""
    parts = [
        "# All bodies at equal budgets",
        "",
        "Made by `architectures.py`, which says how. Test AUC: mean and standard deviation over seeds. Gain: AUC minus",
        "that of `single_task` with the same seed, mean and standard error. A seesaw is a gain of one task beside a",
        "loss of another, both of more than two standard errors. Budgets count the parameters of body and towers;",
        "`front end` counts tables and the projection of the numeric inputs: `single_task` and `stem` have several.",
        "",
    ]
    for name in NAMES:
        own = [result for result in results if result["name"] == name]
        if own:
            parts.append(to_markdown(name, summarise(own)))
    return "\n".join(parts)


def to_markdown(name: str, rows: list[dict[str, Any]]) -> str:
    """The table of one data set."""
    tasks = list(rows[0]["tasks"])
    headers = ["body", "seeds", "learning rate", "body + towers", "front end", *(f"{task} AUC" for task in tasks)]
    headers += [*(f"{task} gain" for task in tasks), "mean gain", "seesaw"]
    lines = [f"## {name}", "", "| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    for row in rows:
        cells = [row["body"], str(row["seeds"]), str(row["learning_rate"])]
        cells += [f"{row['num_parameters']:,}", f"{row['num_parameters_before_body']:,}"]
        cells += [f"{row['tasks'][task]['auc']:.4f} ± {row['tasks'][task]['spread']:.4f}" for task in tasks]
        if row["body"] == BASELINE:
            cells += [""] * (len(tasks) + 2)
        else:
            gains = [row["tasks"][task] for task in tasks]
            cells += [f"{gain['gain']:+.4f} ± {gain['gain_error']:.4f}" for gain in gains]
            cells += [f"{row['gain']:+.4f}", "yes" if row["is_seesaw"] else "no"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("inputs", help="the folder of raw files")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--bodies", nargs="*", help="default: all")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--workspace", type=Path, default=ROOT / "runs" / "architectures")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "architectures.jsonl")
    given = parser.parse_args()
    from models.catalogue import BODIES
    from pipeline.executor import InProcessExecutor
    from pipeline.preprocess.run import preprocess

    shared = make_config(given.name, given.inputs, given.workspace / given.name, None)
    if not shared.dataset_dir.is_dir():
        preprocess(shared, InProcessExecutor())
    dataset = shared.dataset_dir
    budgeted = body_options("mmoe", given.name, BUDGET_WIDTH)
    budget, _ = count_parameters(make_config(given.name, given.inputs, given.workspace, budgeted), dataset)
    bodies = given.bodies or sorted(BODIES)
    widths = {body: fit_width(given.name, given.inputs, dataset, body, budget) for body in bodies}

    def make_job(body: str, seed: int, learning_rate: float) -> dict[str, Any]:
        return {
            "name": given.name,
            "inputs": given.inputs,
            "dataset": str(dataset),
            "workspace": str(given.workspace / f"{given.name}-{body}-{seed}-{learning_rate}"),
            "body": body,
            "seed": seed,
            "learning_rate": learning_rate,
            "options": body_options(body, given.name, widths[body]),
        }

    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        tuning = [make_job(body, seed, rate) for seed in TUNING_SEEDS for body in bodies for rate in LEARNING_RATES]
        run_all(pool, tuning, given.results)
        best = choose_rates([r for r in read_results(given.results) if r["name"] == given.name])
        # Seed by seed, so that an interrupted study compares all bodies.
        seeds = range(1, 1 + given.seeds)
        run_all(pool, [make_job(body, seed, best[body]) for seed in seeds for body in bodies], given.results)
    page = to_page(read_results(given.results))
    given.results.with_suffix(".md").write_text(page)
    print(page)


def run_all(pool: Pool, jobs: list[dict[str, Any]], results: Path) -> None:
    """Does the jobs that are not yet in the results file, and adds them to it."""

    def key(run: dict[str, Any]) -> tuple[Any, ...]:
        return run["name"], run["body"], run["seed"], run["learning_rate"]

    done = {key(result) for result in read_results(results)}
    missing = [job for job in jobs if key(job) not in done]
    for number, result in enumerate(pool.imap_unordered(run_one, missing), start=1):
        with open(results, "a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        aucs = ", ".join(f"{task} {figures['auc']:.4f}" for task, figures in result["tasks"].items())
        what = f"{result['body']} seed {result['seed']} learning rate {result['learning_rate']}"
        print(f"{number}/{len(missing)} {what}: validation {result['validation_loss']:.4f}, {aucs}", flush=True)


def choose_rates(results: list[dict[str, Any]]) -> dict[str, float]:
    """The learning rate of each body with the lowest mean validation loss over the tuning seeds."""
    losses: dict[str, dict[float, list[float]]] = {}
    for result in results:
        if result["seed"] in TUNING_SEEDS:
            of_rate = losses.setdefault(result["body"], {}).setdefault(result["learning_rate"], [])
            of_rate.append(result["validation_loss"])
    return {body: min(rates, key=lambda rate: statistics.mean(rates[rate])) for body, rates in losses.items()}


if __name__ == "__main__":
    main()
