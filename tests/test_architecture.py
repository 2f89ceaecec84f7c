"""Enforces the layout: the directions between the packages, what stays free of torch and Ray, names, the top level."""

import functools
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from import_rules import (
    LEVEL,
    PACKAGES,
    RULES,
    TORCH,
    TORCH_FREE,
    Import,
    imports_in,
    is_torch_free,
    module_of,
    part_of,
    second_seams,
    torch_chains,
)

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {"pyproject.toml", *PACKAGES, "tests", "infra", "README.md", "Makefile", "LICENSE"}
BANNED_WORDS = {"utils", "helpers", "common", "base", "misc", "manager"}


def banned_names(paths: list[str]) -> list[str]:
    return [path for path in paths if BANNED_WORDS & set(path.removesuffix(".py").replace("/", "_").split("_"))]


@functools.cache
def sources() -> Mapping[str, str]:
    files = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in files}


@functools.cache
def all_imports() -> list[Import]:
    return [found for path, source in sources().items() for found in imports_in(path, source)]


def report(rule: str, faults: list[str]) -> str:
    return "\n  ".join([f"{rule}:", *faults])


@pytest.mark.parametrize("rule", RULES)
def test_every_import_keeps_the_rule(rule: str) -> None:
    faults = [str(found) for found in all_imports() if RULES[rule](found)]
    assert not faults, report(rule, faults)


def test_only_assemble_imports_both_the_schema_and_the_bodies() -> None:
    faults = second_seams(all_imports())
    assert not faults, report("only pipeline/assemble.py imports both pipeline.schema and the bodies of models", faults)


def test_what_runs_without_torch_does_not_reach_it() -> None:
    faults = torch_chains(all_imports())
    assert not faults, report(f"no torch in {', '.join(TORCH_FREE)} and any config.py", faults)


def test_every_part_of_pipeline_has_its_place_in_the_order() -> None:
    parts = {part_of(module_of(path)) for path in sources()} - {None}
    faults = sorted(f"pipeline.{part}" for part in parts if part not in LEVEL)
    assert not faults, report("give each part a line in ORDER of tests/import_rules.py", faults)


def test_no_module_is_named_after_nothing() -> None:
    paths = [path.relative_to(ROOT).as_posix() for name in ("tests", "infra") for path in (ROOT / name).rglob("*.py")]
    faults = banned_names([*sources(), *paths])
    assert not faults, report(f"no module is called {', '.join(sorted(BANNED_WORDS))}", faults)


def test_init_files_are_empty() -> None:
    faults = [path for path, source in sources().items() if path.endswith("/__init__.py") and source.strip()]
    assert not faults, report("__init__.py files are empty", faults)


def test_the_top_level_holds_only_its_fixed_names() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = {path.split("/")[0] for path in listed.stdout.splitlines()}
    faults = sorted(name for name in names - TOP_LEVEL if not name.startswith("."))
    assert not faults, report(f"the top level holds {', '.join(sorted(TOP_LEVEL))} and dotfiles", faults)


def modules_loaded_by(*arguments: str) -> set[str]:
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.mark.skipif(not (ROOT / "jobs" / "__main__.py").exists(), reason="there is no command line yet")
def test_help_answers_without_torch_or_ray() -> None:
    assert not {"torch", "torchrec", "ray"} & modules_loaded_by("-m", "jobs", "--help")


def test_the_torch_free_modules_load_no_torch_through_their_libraries() -> None:
    modules = [module_of(path) for path in sources() if is_torch_free(module_of(path))]
    assert not TORCH & modules_loaded_by("-c", f"import {', '.join(modules)}")


# --- the rules themselves can fail

BACK, FOREIGN, ORDERED, SEAM, SCORE, RAY, PEER, MLFLOW = RULES


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (BACK, "models/a.py", "from pipeline.schema import Schema"),
        (BACK, "models/a.py", "def f():\n    import jobs.train"),
        (BACK, "pipeline/a.py", "if TYPE_CHECKING:\n    from jobs import train"),
        (BACK, "pipeline/train/run.py", "from ...jobs import train"),
        (BACK, "pipeline/a.py", "importlib.import_module('jobs.train')"),
        (BACK, "jobs/a.py", "from tests.small_logs import log"),
        (FOREIGN, "models/a.py", "import numpy as np"),
        (FOREIGN, "models/a.py", "from pydantic import BaseModel"),
        (ORDERED, "pipeline/errors.py", "from pipeline.config import build"),
        (ORDERED, "pipeline/shards/reader.py", "from pipeline.preprocess.columns.text import as_codes"),
        (ORDERED, "pipeline/train/run.py", "from pipeline.preprocess.raw_files.sources import read_table"),
        (ORDERED, "pipeline/evaluate/run.py", "from pipeline import score"),
        (ORDERED, "pipeline/train/config.py", "from pipeline.train.optimizers import fuse"),
        (ORDERED, "pipeline/train/run.py", "from ..evaluate.metrics.catalogue import auc"),
        (ORDERED, "pipeline/shards/reader.py", "from pipeline.run_config import RunConfig"),
        (ORDERED, "pipeline/retrain/run.py", "import pipeline.run"),
        (SEAM, "pipeline/assemble.py", "from pipeline.shards.reader import ShardReader"),
        (SCORE, "pipeline/score/run.py", "from pipeline.train.trainer import Trainer"),
        (RAY, "pipeline/preprocess/text.py", "import ray"),
        (RAY, "pipeline/train/trainer.py", "def f():\n    from ray.train import report"),
        (PEER, "pipeline/benchmark/peers/duckdb_preprocess.py", "import polars"),
        (PEER, "pipeline/benchmark/peers/polars_preprocess.py", "import numpy as np"),
        (PEER, "pipeline/benchmark/peers/pandas_preprocess.py", "from pipeline.errors import DataError"),
        (PEER, "pipeline/benchmark/outputs.py", "def f():\n    import duckdb"),
        (PEER, "jobs/benchmark.py", "from pipeline.benchmark.peers import duckdb_preprocess"),
        (MLFLOW, "pipeline/registry/mirror/server.py", "from mlflow import MlflowClient"),
        (MLFLOW, "pipeline/retrain/run.py", "def f():\n    import mlflow.entities"),
    ],
)
def test_a_bad_import_breaks_its_rule(rule: str, path: str, source: str) -> None:
    (found,) = imports_in(path, source)
    assert RULES[rule](found)
    assert str(found).startswith(f"{path}:{len(source.splitlines())} imports ")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "models/mmoe.py",
            "import math\nimport torch\nfrom torchrec import KeyedTensor\nfrom models.layers import MLP",
        ),
        ("pipeline/train/ray_group.py", "import ray.train\nfrom pipeline.train.rank import train_rank\nimport raylib"),
        ("pipeline/run_config.py", "from pipeline.score.config import ScoreConfig\nfrom pipeline.schema import Schema"),
        (
            "pipeline/score/run.py",
            "from pipeline.train.checkpoints import reader\nfrom pipeline.preprocess import text",
        ),
        ("pipeline/assemble.py", "from pipeline.shards.manifest import DatasetIndex\nfrom models.mmoe import MMoE"),
        ("pipeline/evaluate/run.py", "from . import metrics\nfrom pipeline.train.predictor import Predictor"),
        ("pipeline/benchmark/peers/pandas_preprocess.py", "import json\nimport numpy as np\nimport pandas as pd"),
        ("jobs/run.py", "import ray\nfrom pipeline.run import run"),
    ],
)
def test_a_good_file_breaks_no_rule(path: str, source: str) -> None:
    assert [(rule, found) for found in imports_in(path, source) for rule in RULES if RULES[rule](found)] == []


def test_a_second_seam_is_found_and_tasks_are_no_body() -> None:
    schema = "from pipeline.schema import Schema\n"
    assert second_seams(imports_in("pipeline/train/run.py", schema + "from models.catalogue import BODIES"))
    assert not second_seams(imports_in("pipeline/train/run.py", schema + "from models.tasks import Task"))
    assert not second_seams(imports_in("pipeline/assemble.py", schema + "from models.mmoe import MMoE"))


@pytest.mark.parametrize(
    ("reader", "text", "num_chains"),
    [
        ("import torch", "from pipeline.shards.reader import read", 1),
        ("import torch", "def f():\n    from pipeline.shards import reader", 1),
        ("import pyarrow", "def f():\n    import torch.nn", 1),
        ("def f():\n    import torch", "from pipeline.shards.reader import read", 0),
        ("import torch", "import numpy", 0),
    ],
)
def test_torch_is_found_through_other_modules(reader: str, text: str, num_chains: int) -> None:
    files = {"pipeline/shards/reader.py": reader, "pipeline/preprocess/text.py": text}
    chains = torch_chains([found for path, source in files.items() for found in imports_in(path, source)])
    assert len(chains) == num_chains


def test_a_config_may_not_reach_torch() -> None:
    assert torch_chains(imports_in("pipeline/train/config.py", "import torch"))
    assert not torch_chains(imports_in("pipeline/train/trainer.py", "import torch"))


def test_empty_names_are_found_as_words_of_a_module_or_a_folder() -> None:
    bad = ["pipeline/utils.py", "pipeline/train/base_trainer.py", "models/common/mmoe.py", "tests/helpers.py"]
    assert banned_names([*bad, "models/baseline.py", "pipeline/shards/manifest.py"]) == bad
