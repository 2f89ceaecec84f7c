"""The expected AUC of the simulated month, against all labels that there can be."""

import importlib
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "infra" / "benchmarks"))  # scripts, not a package
month: Any = importlib.import_module("simulated_month")


def test_the_expected_auc_is_that_of_all_pairs_of_all_labels() -> None:
    score = np.array([0.1, 0.4, 0.4, 0.8, 0.9])
    probability = np.array([0.2, 0.7, 0.1, 0.5, 0.6])
    weight = np.array([1.0, 0.5, 2.0, 1.0, 3.0])
    won = pairs = 0.0
    for labels in product((0, 1), repeat=len(score)):
        chance = np.prod(np.where(labels, probability, 1 - probability))
        for positive, negative in product(range(len(score)), repeat=2):
            if labels[positive] and not labels[negative]:
                counted = chance * weight[positive] * weight[negative]
                won += counted * ((score[positive] > score[negative]) + (score[positive] == score[negative]) / 2)
                pairs += counted
    assert month.expected_auc(score, probability, weight) == pytest.approx(won / pairs)
