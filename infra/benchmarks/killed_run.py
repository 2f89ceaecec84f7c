"""Trains a configuration undisturbed and again with SIGKILLs at random moments, and compares what is left.

    .venv/bin/gatehouse simulate --out runs/demo-data --rows 700000 --seed 1
    .venv/bin/python infra/benchmarks/killed_run.py --config jobs/configs/demo.yaml --folder runs/killed --kills 10

Prints the sha256 of all tensors of the last checkpoint and of the row keys of all steps, for both runs.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

EVERY_STEPS = 20


def main() -> None:
    options = _options()
    _run(options, "clean", "preprocess")
    (options.folder / "killed").mkdir(parents=True, exist_ok=True)
    if not (options.folder / "killed" / "dataset").exists():
        (options.folder / "killed" / "dataset").symlink_to((options.folder / "clean" / "dataset").resolve())
    _run(options, "clean", "train", "--overwrite")
    clean = options.folder / "clean"
    last_step = _last_step(clean)
    choose, folder, arguments = random.Random(options.seed), options.folder / "killed", ["--overwrite"]
    for kill in range(options.kills):
        at = max(1, round(last_step * (kill + choose.random()) / options.kills))
        process = subprocess.Popen(
            _command(options, "killed", "train", *arguments), cwd=ROOT, stdout=subprocess.DEVNULL
        )
        while _last_step(folder) < at and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        saved = max((int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*")), default=0)
        print(f"kill {kill + 1}: after step {_last_step(folder)}, newest checkpoint {saved}", flush=True)
        arguments = ["--resume"] if saved else ["--overwrite"]
    _run(options, "killed", "train", *arguments)
    for name in ("clean", "killed"):
        tensors, rows = _digests(options.folder / name)
        print(f"{name:7} step {_last_step(options.folder / name)}  tensors {tensors}  rows {rows}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="receives both runs")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    return parser.parse_args()


def _command(options: argparse.Namespace, name: str, verb: str, *arguments: str) -> list[str]:
    settings = [
        f"workspace={options.folder / name}",
        f"train.checkpoint_every_steps={EVERY_STEPS}",
        "train.log_every_steps=1",
        "train.record_rows=true",
        *options.set,
    ]
    changes = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "jobs", verb, "--config", str(options.config), *changes, *arguments]


def _run(options: argparse.Namespace, name: str, verb: str, *arguments: str) -> None:
    if verb == "preprocess" and (options.folder / name / "dataset" / "index.json").exists():
        return
    subprocess.run(_command(options, name, verb, *arguments), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def _last_step(workspace: Path) -> int:
    path = workspace / "metrics.jsonl"
    if not path.is_file():
        return 0
    lines = [line for line in path.read_text().splitlines()[-3:] if line.endswith("}")]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def _digests(workspace: Path) -> tuple[str, str]:
    import torch

    from pipeline.train.batches import read_rows
    from pipeline.train.checkpoints.checkpoint import list_checkpoints
    from pipeline.train.checkpoints.reader import load_tensors, saved_sizes

    checkpoint = list_checkpoints(workspace / "checkpoints")[-1]
    tensors = {name: torch.zeros(size) for name, size in sorted(saved_sizes(checkpoint).items())}
    load_tensors(checkpoint, tensors, is_distributed=False)
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    rows = json.dumps(read_rows(workspace), sort_keys=True).encode()
    return digest.hexdigest(), hashlib.sha256(rows).hexdigest()


if __name__ == "__main__":
    main()
