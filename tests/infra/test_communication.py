"""What ranks send each other in a step is what the formulas of `infra/docs/scaling.md` say."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "infra" / "benchmarks"))  # scripts, not a package
communication: Any = importlib.import_module("communication")


@pytest.mark.exhaustive
def test_what_two_ranks_send_in_a_step_is_what_the_formula_of_each_sharding_says(tmp_path: Path) -> None:
    work = communication.Workload(num_ranks=2, ranks_per_node=1, rows_per_rank=24, num_tables=3, table_rows=64)
    kinds = communication.KINDS
    for kind, counted in communication.count(work, kinds, tmp_path).items():
        expected = communication.formula(kind, work, int(counted["dense parameters"]))
        assert {phase: counted[phase] for phase in expected} == pytest.approx(expected), kind
        # The sockets carry at least that, and headers.
        assert counted["tcp"] > sum(expected.values()), kind
