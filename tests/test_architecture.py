"""Enforces the directions between the packages by parsing every file: who may import whom, and what stays out of where.

Imports count wherever they stand: inside a function, under TYPE_CHECKING, or as importlib.import_module("x").
"""

import ast
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("jobs", "pipeline", "models")
TOP_LEVEL = {"pyproject.toml", *PACKAGES, "tests", "infra", "README.md", "Makefile", "LICENSE"}

# A part of `pipeline` imports from the lines above its own. A stage's config.py is a part by itself: it is torch-free,
# so that the run config can compose it and another stage can read it.
ORDER = (
    ("errors",),
    ("config",),
    ("schema", "files", "executor"),
    ("preprocess.config", "train.config"),
    ("evaluate.config", "score.config", "export.config"),
    ("retrain.config",),
    ("run_config", "shards", "doctor", "simulate"),
    ("assemble",),
    ("preprocess", "train"),
    ("evaluate", "score", "export"),
    ("retrain",),
    ("run",),
)
LEVEL = {part: level for level, parts in enumerate(ORDER) for part in parts}

FORBIDDEN = {
    "models": {"pipeline", "jobs", "tests", "infra"},
    "pipeline": {"jobs", "tests", "infra"},
    "jobs": {"tests", "infra"},
}
MODELS_MAY_IMPORT = {*sys.stdlib_module_names, "torch", "torchrec", "models"}
NOT_BODIES = ("models.batch", "models.tasks", "models.multitask", "models.losses")
TORCH = {"torch", "torchrec", "fbgemm_gpu", "tensordict", "torchmetrics"}
TORCH_FREE = (
    "pipeline.schema",
    "pipeline.preprocess",
    "pipeline.simulate",
    "pipeline.run_config",
    *(f"pipeline.shards.{name}" for name in ("manifest", "writer", "assignment")),
    *(f"pipeline.evaluate.{name}" for name in ("metrics", "report", "plots")),
)
BANNED_WORDS = {"utils", "helpers", "common", "base", "misc", "manager"}


@dataclass(frozen=True)
class Import:
    """One imported name; `is_deferred` when importing the file does not execute it."""

    path: str
    line: int
    target: str
    is_deferred: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.target}"

    def is_of(self, *modules: str) -> bool:
        return is_under(self.target, *modules)


def is_under(name: str, *modules: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports_in(path: str, source: str) -> list[Import]:
    """Every import of a file, with relative ones resolved; `from a import b` is the target a.b."""
    package = path.removesuffix(".py").split("/")[:-1]

    def targets(node: ast.AST) -> Iterator[str]:
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                start = package[: len(package) - level + 1] if level else []
                base = ".".join([*start, *([module] if module else [])])
                yield from (base if alias.name == "*" else f"{base}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(target)), *_]
            ):
                if name in {"import_module", "__import__"}:
                    yield target

    def walk(node: ast.AST, is_deferred: bool) -> Iterator[Import]:
        for target in targets(node):
            yield Import(path, getattr(node, "lineno", 0), target, is_deferred)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            is_deferred = True
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            is_deferred = True
        for child in ast.iter_child_nodes(node):
            yield from walk(child, is_deferred)

    return list(walk(ast.parse(source), False))


# --- rules on one import


def goes_back(found: Import) -> bool:
    return found.is_of(*FORBIDDEN.get(found.path.split("/")[0], ()))


def is_foreign_to_models(found: Import) -> bool:
    return found.path.startswith("models/") and found.target.split(".")[0] not in MODELS_MAY_IMPORT


def part_of(module: str) -> str | None:
    """The part of `pipeline` that a module or an imported name belongs to; None outside it."""
    package, *names = module.split(".")
    if package != "pipeline" or not names:
        return None
    return ".".join(names[:2]) if ".".join(names[:2]) in LEVEL else names[0]


def breaks_the_order(found: Import) -> bool:
    importer, imported = part_of(module_of(found.path)), part_of(found.target)
    if importer == imported or importer not in LEVEL or imported not in LEVEL:
        return False
    return LEVEL[imported] >= LEVEL[importer]


def is_beyond_the_seam(found: Import) -> bool:
    allowed = ("errors", "config", "schema", "shards.manifest", "train.config")
    is_inside = found.is_of(*(f"pipeline.{name}" for name in allowed))
    return found.path == "pipeline/assemble.py" and found.is_of("pipeline") and not is_inside


def is_training_in_score(found: Import) -> bool:
    readers = tuple(f"pipeline.train.{name}" for name in ("checkpoint", "predictor", "config"))
    return found.path.startswith("pipeline/score/") and found.is_of("pipeline.train") and not found.is_of(*readers)


def is_stray_ray(found: Import) -> bool:
    may_import_ray = found.path.startswith("jobs/") or found.path.endswith("/run.py")
    return found.is_of("ray") and not may_import_ray


RULES: dict[str, Callable[[Import], bool]] = {
    "jobs -> pipeline -> models, never back, and nothing imports tests or infra": goes_back,
    "models import the standard library, torch, torchrec and models": is_foreign_to_models,
    "a part of pipeline imports from the lines above its own in ORDER": breaks_the_order,
    "assemble imports errors, config, schema, shards.manifest, train.config and models": is_beyond_the_seam,
    "score takes from train only the checkpoint, the predictor and the config": is_training_in_score,
    "ray is imported in jobs/ and in a stage's run.py": is_stray_ray,
}


# --- rules on several imports


def second_seams(imports: list[Import]) -> list[str]:
    """Files other than the seam that import both the schema and a model's body."""
    by_path: dict[str, list[Import]] = {}
    for found in imports:
        by_path.setdefault(found.path, []).append(found)
    faults = []
    for path, own in by_path.items():
        schemas = [found for found in own if found.is_of("pipeline.schema")]
        bodies = [found for found in own if found.is_of("models") and not found.is_of(*NOT_BODIES)]
        if schemas and bodies and path != "pipeline/assemble.py":
            faults.append(f"{schemas[0]}, and {bodies[0]}")
    return faults


def is_torch_free(module: str) -> bool:
    return is_under(module, *TORCH_FREE) or (is_under(module, "pipeline") and module.endswith(".config"))


def torch_chains(imports: list[Import]) -> list[str]:
    """How each torch-free module reaches torch, if it does: by itself, or through what it imports."""
    by_module: dict[str, list[Import]] = {}
    for found in imports:
        by_module.setdefault(module_of(found.path), []).append(found)

    def chain(module: str, seen: set[str]) -> list[str]:
        seen.add(module)
        # Beyond the torch-free modules, an import inside a function is no harm until the function is called.
        own = [found for found in by_module.get(module, []) if is_torch_free(module) or not found.is_deferred]
        for found in own:
            if found.target.split(".")[0] in TORCH:
                return [str(found)]
        for found in own:
            nearest = max((name for name in by_module if found.is_of(name)), key=len, default=module)
            if nearest not in seen and (rest := chain(nearest, seen)):
                return [str(found), *rest]
        return []

    chains = (chain(module, set()) for module in sorted(by_module) if is_torch_free(module))
    return [", and ".join(steps) for steps in chains if steps]


def banned_names(paths: list[str]) -> list[str]:
    return [path for path in paths if BANNED_WORDS & set(path.removesuffix(".py").replace("/", "_").split("_"))]


# --- the repository


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
    assert not faults, report("give each part a line in ORDER of tests/test_architecture.py", faults)


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

BACK, FOREIGN, ORDERED, SEAM, SCORE, RAY = RULES


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
        (ORDERED, "pipeline/shards/reader.py", "from pipeline.preprocess.text import as_codes"),
        (ORDERED, "pipeline/train/run.py", "from pipeline.preprocess.sources import read_table"),
        (ORDERED, "pipeline/evaluate/run.py", "from pipeline import score"),
        (ORDERED, "pipeline/train/config.py", "from pipeline.train.optimizers import fuse"),
        (ORDERED, "pipeline/train/run.py", "from ..evaluate.metrics import auc"),
        (ORDERED, "pipeline/shards/reader.py", "from pipeline.run_config import RunConfig"),
        (ORDERED, "pipeline/retrain/run.py", "import pipeline.run"),
        (SEAM, "pipeline/assemble.py", "from pipeline.shards.reader import ShardReader"),
        (SCORE, "pipeline/score/run.py", "from pipeline.train.trainer import Trainer"),
        (RAY, "pipeline/preprocess/text.py", "import ray"),
        (RAY, "pipeline/train/trainer.py", "def f():\n    from ray.train import report"),
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
        ("pipeline/train/run.py", "import ray.train\nfrom pipeline.train.config import TrainConfig\nimport raylib"),
        ("pipeline/run_config.py", "from pipeline.score.config import ScoreConfig\nfrom pipeline.schema import Schema"),
        ("pipeline/score/run.py", "from pipeline.train.checkpoint import read\nfrom pipeline.preprocess import text"),
        ("pipeline/assemble.py", "from pipeline.shards.manifest import DatasetIndex\nfrom models.mmoe import MMoE"),
        ("pipeline/evaluate/run.py", "from . import metrics\nfrom pipeline.train.predictor import Predictor"),
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
