"""The preprocess benchmark's work by DuckDB: vocabularies are tables, encoding is a join.

    python duckdb_preprocess.py JOB.json

Rows need not keep their order and each thread writes a file of its own, as its guide on tuning says. Casting to an ENUM
instead of joining took a hundred times as long; one COPY with PARTITION_BY took longer and three times the memory.
"""

import json
import os
import sys
from pathlib import Path

import duckdb  # type: ignore[import-not-found]


def main(job_path: str) -> None:
    print("preprocess ...", flush=True)
    job = json.loads(Path(job_path).read_text())
    out = Path(job["out"])
    (out / "vocabularies").mkdir(parents=True)
    time = job["time"]
    validation_from, test_from = (f"make_timestamp({job[name]})" for name in ("validation_from", "test_from"))
    splits = {
        "train": f"{time} < {validation_from}",
        "validation": f"{time} >= {validation_from} AND {time} < {test_from}",
        "test": f"{time} >= {test_from}",
    }
    # It would start a thread for each core of the machine, those that it may not use included.
    connection = duckdb.connect(config={"threads": len(os.sched_getaffinity(0))})
    connection.execute("SET preserve_insertion_order = false")
    connection.execute(f"CREATE VIEW log AS SELECT * FROM read_parquet('{job['log']}/*.parquet')")

    for name in job["categoricals"]:
        connection.execute(f"""
            CREATE TABLE ids_of_{name} AS
            SELECT value, (row_number() OVER () + 1)::INTEGER AS id
            FROM (SELECT {name} AS value FROM log WHERE {splits["train"]} AND {name} IS NOT NULL
                  GROUP BY {name} HAVING count(*) >= {job["min_count"]})""")
        connection.execute(f"COPY ids_of_{name} TO '{out}/vocabularies/{name}.parquet' (COMPRESSION uncompressed)")
    moments = ", ".join(f"avg(ln(1 + {name})), stddev_pop(ln(1 + {name}))" for name in job["numbers"])
    fitted = connection.execute(f"SELECT {moments} FROM log WHERE {splits['train']}").fetchone()
    statistics = dict(zip(job["numbers"], zip(fitted[::2], fitted[1::2], strict=True), strict=True))
    (out / "statistics.json").write_text(json.dumps(statistics))

    ids = [
        f"CASE WHEN log.{name} IS NULL THEN 1 ELSE coalesce(ids_of_{name}.id, 0) END AS {name}"
        for name in job["categoricals"]
    ]
    numbers = [
        f"coalesce((ln(1 + {name}) - {mean!r}) / {deviation!r}, 0)::FLOAT AS {name}"
        for name, (mean, deviation) in statistics.items()
    ]
    labels = [f"{name}::FLOAT AS {name}" for name in job["labels"]]
    columns = ", ".join([*ids, *numbers, *labels, time])
    joins = " ".join(f"LEFT JOIN ids_of_{name} ON ids_of_{name}.value = log.{name}" for name in job["categoricals"])
    for split, condition in splits.items():
        connection.execute(f"""
            COPY (SELECT {columns} FROM log {joins} WHERE {condition}) TO '{out}/{split}'
            (FORMAT parquet, COMPRESSION uncompressed, PER_THREAD_OUTPUT true)""")


if __name__ == "__main__":
    main(sys.argv[1])
