"""The preprocess benchmark's work by pandas on Arrow's types: a column at a time, encoding is factorize.

    python pandas_preprocess.py JOB.json

Reading all columns at once took as long and a fifth more memory; Categorical with known categories and Series.map took
two to three times as long as factorize, and numpy's types half as long again as Arrow's.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def main(job_path: str) -> None:
    print("preprocess ...", flush=True)
    job = json.loads(Path(job_path).read_text())
    out = Path(job["out"])
    (out / "vocabularies").mkdir(parents=True)
    time = read(job, job["time"])
    validation_from, test_from = (pd.Timestamp(job[name], unit="us") for name in ("validation_from", "test_from"))
    is_train, is_test = (time < validation_from).to_numpy(bool), (time >= test_from).to_numpy(bool)
    splits = {"train": is_train, "validation": ~is_train & ~is_test, "test": is_test}

    encoded: dict[str, Any] = {}
    for name in job["categoricals"]:
        codes, values = pd.factorize(read(job, name))
        counts = np.bincount(codes[is_train & (codes >= 0)], minlength=len(values))
        is_kept = counts >= job["min_count"]
        ids = np.where(is_kept, np.cumsum(is_kept) + 1, 0).astype(np.int32)
        vocabulary = pd.DataFrame({"value": values[is_kept], "id": ids[is_kept]})
        vocabulary.to_feather(out / "vocabularies" / f"{name}.arrow", compression="uncompressed")
        # A null has code -1, which is the last place.
        encoded[name] = np.append(ids, np.int32(1))[codes]
    statistics = {}
    for name in job["numbers"]:
        logarithms = np.log1p(read(job, name).to_numpy(np.float32, na_value=np.nan))
        train = logarithms[is_train].astype(np.float64)
        mean, deviation = float(np.nanmean(train)), float(np.nanstd(train))
        statistics[name] = (mean, deviation)
        encoded[name] = np.nan_to_num((logarithms - np.float32(mean)) / np.float32(deviation))
    (out / "statistics.json").write_text(json.dumps(statistics))
    for name in job["labels"]:
        encoded[name] = read(job, name).to_numpy(np.float32)

    rows = pd.DataFrame({**encoded, job["time"]: time}, copy=False)
    for split, is_in in splits.items():
        (out / split).mkdir()
        own = rows[is_in].reset_index(drop=True)
        own.to_feather(out / split / "rows.arrow", compression="uncompressed")


def read(job: dict[str, Any], name: str) -> Any:
    """One column of the log."""
    return pd.read_parquet(job["log"], columns=[name], dtype_backend="pyarrow")[name]


if __name__ == "__main__":
    main(sys.argv[1])
