"""Predicts the test rows of a dataset by a trained model as `gatehouse evaluate` does, as often as it is asked to.

    python -m pipeline.benchmark.evaluate.run PRECISION PASSES CONFIG OUT.npy

Work begins after the first batch, when the model is loaded, and ends when the predictions are written: [rows, tasks],
those of the last pass.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.scoring import Scorer, plan_pieces, read_batches
from pipeline.run_config import RunConfig, load_run_config
from pipeline.shards.manifest import read_index
from pipeline.train.checkpoints.checkpoint import best_checkpoint


def predict_batches(config: RunConfig, scorer: Scorer) -> Iterator[NDArray[np.float64]]:
    """Reads the shards of the test and predicts every output of each batch; gives those of the tasks."""
    tasks = [task.name for task in config.data_schema.tasks]
    batch_size = config.evaluate.batch_size
    for piece in plan_pieces(read_index(config.dataset_dir).of_split("test"), batch_size):
        for rows in read_batches(config.dataset_dir, piece, batch_size):
            outputs = scorer.predictor.predict(rows)
            yield np.stack([outputs[task] for task in tasks], axis=1)


def main(precision: str, passes: str, config_path: str, out: str) -> None:
    config = load_run_config(config_path, (f"evaluate.precision={precision}",))
    scorer = Scorer(config, read_index(config.dataset_dir), best_checkpoint(config.checkpoints_dir), None)
    next(predict_batches(config, scorer))
    print("predict ...", flush=True)
    for _ in range(int(passes)):
        predictions = np.concatenate(list(predict_batches(config, scorer)))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    np.save(out, predictions)


if __name__ == "__main__":
    main(*sys.argv[1:])
