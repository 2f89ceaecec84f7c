"""Scores each candidate as a row of its own: what `gatehouse score` is measured against and checked with.

    python -m pipeline.benchmark.plain_score CONFIG OUT [section.key=value ...]

Writes to the folder OUT the outputs of every candidate, in the order of the candidates. It neither fuses nor ranks.
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.benchmark.candidate_rows import candidate_rows
from pipeline.export.serving import Serving
from pipeline.run_config import load_run_config


def main(config_path: str, out: str, *overrides: str) -> None:
    print("score ...", flush=True)
    config = load_run_config(config_path, overrides)
    serving = Serving.load(config.export_dir)
    folder = Path(out)
    folder.mkdir(parents=True)
    for place, (keys, features) in enumerate(candidate_rows(config, serving.fitted)):
        outputs = {name: pa.array(values) for name, values in serving.predict(features).items()}
        columns = dict(zip(keys.column_names, keys.columns, strict=True)) | outputs
        pq.write_table(pa.table(columns), folder / f"part-{place:05}.parquet", compression="none")


if __name__ == "__main__":
    main(*sys.argv[1:])
