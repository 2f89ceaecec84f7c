"""Measures 20 million predictions of 500 thousand users: seconds and memory, beside scikit-learn and TorchRec.

    python infra/benchmarks/evaluation_scale.py FOLDER

FOLDER receives the parts of a prediction table, generated one at a time. `measure` is the whole of what `gatehouse
evaluate` does with them: every metric of a binary task with 200 bootstrap replicates, two dimensions of slices, on two
threads. scikit-learn and TorchRec get arrays that are in
memory already, and compute one value each; TorchRec's GAUC gets users in batches of a similar number of rows, since it
pads each batch to its longest one. Each is a process of its own, whose resident and anonymous memory is looked at every
20 ms; pages of files that are mapped are resident, but the system takes them back when it needs memory.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# Before numpy and torch are loaded, here and in the processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402

from pipeline.evaluate.measure.measure import measure  # noqa: E402
from pipeline.evaluate.metrics.resample import mix  # noqa: E402
from pipeline.evaluate.prediction_table import Measured, map_part  # noqa: E402
from pipeline.executor import InProcessExecutor  # noqa: E402

SEED = 1
REPLICATES = 200
ROWS_PER_PART = 1 << 18
ROWS_PER_REQUEST = 10
CLICK = Measured("click", "binary", None, "own space", ("click",), ("click",))
DIMENSIONS = {"country": [f"country {number}" for number in range(20)], "day": [f"day {number}" for number in range(7)]}
POLL_SECONDS = 0.02
# TorchRec's batches have at most so many cells of padded rows.
MAX_CELLS = 20_000_000


def write_part(folder: Path, number: int, num_rows: int, num_users: int) -> None:
    """Rows of random users, of whom few have many and many have few, with noise of the user's own."""
    random = np.random.default_rng([SEED, number])
    num_requests = -(-num_rows // ROWS_PER_REQUEST)
    request_user = (num_users * random.random(num_requests) ** 1.5).astype(np.uint64)
    request = np.repeat(np.arange(num_requests, dtype=np.uint64) + np.uint64(number << 32), ROWS_PER_REQUEST)[:num_rows]
    user = np.repeat(request_user, ROWS_PER_REQUEST)[:num_rows]
    unit_hash = mix(user + np.uint64(1))
    taste = (unit_hash >> np.uint64(40)).astype(np.float64) / (1 << 24) - 0.5
    logit = -2.5 + taste + random.normal(0, 1, num_rows)
    label = (random.random(num_rows) < 1 / (1 + np.exp(-logit))).astype(np.float64)
    prediction = (1 / (1 + np.exp(-(logit + random.normal(0, 0.7, num_rows))))).astype(np.float32)
    country = (unit_hash & np.uint64(0xFFFF)).astype(np.int32) % len(DIMENSIONS["country"])
    day = random.integers(0, len(DIMENSIONS["day"]), num_rows, dtype=np.int32)
    columns: dict[str, Any] = {"unit_hash": unit_hash, "user": unit_hash, "request": mix(request + np.uint64(1))}
    columns |= {"weight": np.ones(num_rows), "label_click": label, "prediction_click": prediction.astype(np.float64)}
    order = np.argsort(unit_hash, kind="stable")
    columns = {name: column[order] for name, column in columns.items()}
    for name, codes in (("country", country), ("day", day)):
        columns[f"slice_{name}"] = pa.DictionaryArray.from_arrays(pa.array(codes[order]), pa.array(DIMENSIONS[name]))
    batch = pa.RecordBatch.from_pydict(columns)
    with pa.OSFile(str(folder / f"part-{number:05d}.arrow"), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
        file.write_batch(batch)


def list_parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.arrow"))


def read_column(folder: Path, name: str, dtype: Any = np.float64) -> Any:
    """A column of all parts in one array."""
    return np.concatenate([np.asarray(map_part(part).column(name)).astype(dtype) for part in list_parts(folder)])


# --- what is measured: each prints the seconds of the computation alone, and what it found


def run_measure(folder: Path) -> tuple[float, str]:
    start = time.perf_counter()
    measured = measure(list_parts(folder), [CLICK], list(DIMENSIONS), InProcessExecutor(2), num_replicates=REPLICATES)
    seconds = time.perf_counter() - start
    metrics = measured.tasks[0]["metrics"]
    shown = ("auc", "average_precision", "log_loss", "gauc_unweighted")
    found = ", ".join(f"{name} {metrics[name]['value']:.8f}" for name in shown)
    return seconds, f"{found}; {len(metrics)} metrics, {len(measured.slices)} slices"


def run_scikit_learn(name: str, folder: Path) -> tuple[float, str]:
    from sklearn import metrics

    label, prediction = read_column(folder, "label_click"), read_column(folder, "prediction_click")
    start = time.perf_counter()
    value = getattr(metrics, name)(label, prediction)
    return time.perf_counter() - start, f"{value:.8f}"


def run_torchrec(folder: Path) -> tuple[float, str]:
    """The GAUC of users whose rows are put side by side first, which is not part of the seconds."""
    import torch
    from torchrec.metrics.gauc import get_auc_states

    label, prediction = (
        torch.from_numpy(read_column(folder, f"{name}_click", np.float32)) for name in ("label", "prediction")
    )
    user = read_column(folder, "unit_hash", np.uint64)
    order = np.argsort(user)
    ends = np.flatnonzero(np.diff(user[order], append=user[order[0]]))  # the last row of each user
    sizes = np.diff(ends, prepend=-1)
    by_size = np.argsort(sizes, kind="stable")
    total, num_users, first = 0.0, 0.0, 0
    seconds = 0.0
    while first < len(by_size):
        end = first + 1
        while end < len(by_size) and (end - first + 1) * sizes[by_size[end]] <= MAX_CELLS:
            end = min(len(by_size), end + max(1, (end - first) // 4))
        users = by_size[first:end]
        rows = torch.from_numpy(np.concatenate([order[ends[u] + 1 - sizes[u] : ends[u] + 1] for u in users]))
        ones = torch.ones(1, len(rows))
        start = time.perf_counter()
        states = get_auc_states(label[rows][None], prediction[rows][None], ones, torch.from_numpy(sizes[users]))
        seconds += time.perf_counter() - start
        total, num_users = total + float(states["auc_sum"]), num_users + float(states["num_samples"])
        first = end
    return seconds, f"{total / num_users:.8f} over {num_users:,.0f} users, ties not halved"


RUNS: dict[str, Callable[[Path], tuple[float, str]]] = {
    "measure, every metric": run_measure,
    "scikit-learn roc_auc_score": partial(run_scikit_learn, "roc_auc_score"),
    "scikit-learn average_precision_score": partial(run_scikit_learn, "average_precision_score"),
    "scikit-learn log_loss": partial(run_scikit_learn, "log_loss"),
    "TorchRec GAUC": run_torchrec,
}


def watch(command: list[str]) -> tuple[dict[str, Any], int, int]:
    """What a process prints last, as JSON, and its largest resident and anonymous memory in bytes."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    resident, anonymous = 0, 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        sizes = dict(line.split(":", 1) for line in status.splitlines())
        if "RssAnon" in sizes:
            anonymous = max(anonymous, 1024 * int(sizes["RssAnon"].split()[0]))
            resident = max(resident, 1024 * int(sizes["VmHWM"].split()[0]))
        time.sleep(POLL_SECONDS)
    assert process.stdout is not None
    output = process.stdout.read()
    if process.wait():
        raise SystemExit(process.returncode)
    return json.loads(output.splitlines()[-1]), resident, anonymous


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=500_000)
    parser.add_argument("--only", choices=RUNS, help="in this process, for the script itself")
    given = parser.parse_args()
    if given.only:
        seconds, found = RUNS[given.only](given.folder)
        print(json.dumps({"seconds": seconds, "found": found}))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, given.rows, ROWS_PER_PART)):
        write_part(given.folder, number, min(ROWS_PER_PART, given.rows - first), given.users)
    print(f"load {os.getloadavg()[0]:.2f} before the first run")
    print("| | seconds | resident MiB | anonymous MiB | found |\n|---|---|---|---|---|")
    for name in RUNS:
        result, resident, anonymous = watch([sys.executable, __file__, str(given.folder), "--only", name])
        sizes = " | ".join(f"{size / 2**20:,.0f}" for size in (resident, anonymous))
        print(f"| {name} | {result['seconds']:.1f} | {sizes} | {result['found']} |", flush=True)


if __name__ == "__main__":
    main()
