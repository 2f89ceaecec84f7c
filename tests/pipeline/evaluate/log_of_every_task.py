"""A table of predictions with every kind of task, and the things to measure in it."""

from typing import Any

import numpy as np
from fabricated_parts import CLASSES, make_columns
from numpy.typing import NDArray

from pipeline.evaluate.prediction_table import Measured

Array = NDArray[Any]
SPACES = (
    Measured("click", "binary", None, "own space", ("click",), ("click",)),
    Measured("like", "binary", "click", "own space", ("like",), ("click", "like")),
    Measured("joint_like", "binary", "click", "all impressions", ("joint_like",), ("click", "like")),
    Measured("watch", "watch_time", "like", "own space", ("watch",), ("click", "like", "watch")),
    Measured("mood", "multiclass", "click", "own space", tuple(f"mood_{name}" for name in CLASSES), ("click", "mood")),
)


def sigmoid(logit: Array) -> Array:
    return 1 / (1 + np.exp(-logit))


def make_log(seed: int, num_rows: int = 400, num_users: int = 40) -> dict[str, Any]:
    """A table with every kind of task, ties, weights, nulls, a baseline, a truth and slices."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, num_users, num_rows)
    logit = rng.normal(0, 1, num_rows)
    mood = rng.dirichlet([1, 1, 1], num_rows)
    labels = {
        "click": (rng.random(num_rows) < sigmoid(logit)).astype(float),
        "like": np.where(rng.random(num_rows) < 0.1, np.nan, rng.integers(0, 2, num_rows)),
        "watch": rng.gamma(2, 5, num_rows).round(1),
        "mood": rng.integers(0, 3, num_rows).astype(float),
    }
    columns = make_columns(
        sigmoid(logit),
        labels["click"],
        weight=rng.choice([0.5, 1.0, 2.0], num_rows),
        user=[None if one == 0 else int(one) for one in user],
        request=[None if one % 7 == 0 else int(one) for one in user * 10 + rng.integers(0, 4, num_rows)],
        slices={
            "country": rng.choice(np.array(["de", "fr", "us", None], object), num_rows).tolist(),
            "day": [f"day {one}" for one in rng.integers(0, 9, num_rows)],
        },
    )
    del columns["label_task"], columns["prediction_task"]
    columns |= {f"label_{name}": np.where(np.isnan(own), np.nan, own) for name, own in labels.items()}
    for model, noise in (("prediction", 0.5), ("baseline", 0.7), ("truth", 0.0)):
        noisy = logit + rng.normal(0, noise, num_rows) if noise else logit
        outputs = {"click": sigmoid(noisy).round(2), "like": sigmoid(noisy - 1), "watch": np.exp(noisy)}
        if model != "truth":
            outputs["joint_like"] = outputs["click"] * outputs["like"]
        shifted = mood + noise * rng.random((num_rows, 1))
        outputs |= zip(
            (f"mood_{name}" for name in CLASSES), (shifted / shifted.sum(axis=1, keepdims=True)).T, strict=True
        )
        columns |= {f"{model}_{name}": own for name, own in outputs.items()}
    return columns
