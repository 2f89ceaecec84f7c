"""The rules on who may import whom, and what stays out of where, as functions on the parsed imports of files.

Imports count wherever they stand: inside a function, under TYPE_CHECKING, or as importlib.import_module("x").
"""

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PACKAGES = ("jobs", "pipeline", "models")

# A part of `pipeline` imports from the lines above its own. A stage's config.py is a part by itself: it is torch-free,
# so that the run config can compose it and another stage can read it.
ORDER = (
    ("errors",),
    ("files",),
    ("s3",),
    ("config", "storage", "lock", "forms"),
    ("feature_kinds", "executor"),
    ("schema",),
    ("preprocess.config", "train.config"),
    ("evaluate.config", "score.config", "export.config", "gate.config", "registry.config"),
    ("retrain.config", "tune.config"),
    ("run_config", "shards", "doctor", "simulate", "registry"),
    ("assemble",),
    ("preprocess", "train"),
    ("evaluate",),
    ("export", "gate"),
    ("score",),
    ("retrain", "tune"),
    ("run", "benchmark", "monitor"),
)
LEVEL = {part: level for level, parts in enumerate(ORDER) for part in parts}

FORBIDDEN = {
    "models": {"pipeline", "jobs", "tests", "infra"},
    "pipeline": {"jobs", "tests", "infra"},
    "jobs": {"tests", "infra"},
}
MODELS_MAY_IMPORT = {*sys.stdlib_module_names, "torch", "torchrec", "models"}
NOT_BODIES = tuple(f"models.{name}" for name in ("batch", "tasks", "multitask", "losses", "serving", "pairs"))
# Scripts that another interpreter runs by path, named after the peer that they may import, with what it brings.
PEERS_FOLDER = "pipeline/benchmark/peers/"
PEERS = {
    "duckdb": {"duckdb"},
    "polars": {"polars"},
    "pandas": {"pandas", "numpy"},
    "deepctr": {"deepctr_torch", "torch", "numpy"},
    "rechub": {"torch_rechub", "torch", "numpy"},
    "torch": {"torch", "numpy"},
}
# The only file that imports MLflow's client, which is an extra: inside its functions.
MLFLOW_CLIENT = "pipeline/registry/mirror/server.py"
# What lies beside them for those with torch.
SHARED_BY_PEERS = "torch_job"
ONLY_OF_PEERS = set().union(*PEERS.values()) - {"torch", "numpy"}
TORCH = {"torch", "torchrec", "fbgemm_gpu", "tensordict", "torchmetrics"}
TORCH_FREE = (
    "pipeline.feature_kinds",
    "pipeline.schema",
    "pipeline.preprocess",
    "pipeline.simulate",
    "pipeline.gate",
    "pipeline.run_config",
    "pipeline.registry",
    "pipeline.monitor",
    *(f"pipeline.shards.{name}" for name in ("manifest", "writer", "assignment", "arrays")),
    *(f"pipeline.evaluate.{name}" for name in ("metrics", "measure", "report", "page", "prediction_table")),
)


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
            case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name), args=[ast.Constant(str(target)), *_]):
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
    allowed = ("errors", "config", "feature_kinds", "schema", "shards.manifest", "train.config")
    is_inside = found.is_of(*(f"pipeline.{name}" for name in allowed))
    return found.path == "pipeline/assemble.py" and found.is_of("pipeline") and not is_inside


def is_training_in_score(found: Import) -> bool:
    readers = tuple(f"pipeline.train.{name}" for name in ("checkpoints", "predictor", "config"))
    return found.path.startswith("pipeline/score/") and found.is_of("pipeline.train") and not found.is_of(*readers)


def is_stray_ray(found: Import) -> bool:
    may_import_ray = found.path.startswith("jobs/") or found.path.endswith(("/run.py", "/ray_group.py"))
    return found.is_of("ray") and not may_import_ray


def is_foreign_to_peers(found: Import) -> bool:
    package = found.target.split(".")[0]
    if found.path.startswith(PEERS_FOLDER):
        peer = found.path.removeprefix(PEERS_FOLDER).split("_")[0]
        return package not in {*sys.stdlib_module_names, SHARED_BY_PEERS, *PEERS.get(peer, ())}
    return package in ONLY_OF_PEERS or found.is_of(PEERS_FOLDER.rstrip("/").replace("/", "."))


def is_stray_mlflow(found: Import) -> bool:
    return found.is_of("mlflow") and not (found.path == MLFLOW_CLIENT and found.is_deferred)


RULES: dict[str, Callable[[Import], bool]] = {
    "jobs -> pipeline -> models, never back, and nothing imports tests or infra": goes_back,
    "models import the standard library, torch, torchrec and models": is_foreign_to_models,
    "a part of pipeline imports from the lines above its own in ORDER": breaks_the_order,
    "assemble imports errors, configs, the schema, shards.manifest and models": is_beyond_the_seam,
    "score takes from train only the checkpoint, the predictor and the config": is_training_in_score,
    "ray is imported in jobs/ and in a stage's run.py or ray_group.py": is_stray_ray,
    "a peer imports the standard library and what it is named after, and nothing else does": is_foreign_to_peers,
    "mlflow is imported in the functions of the mirror's server.py": is_stray_mlflow,
}


# --- rules on several imports


def second_seams(imports: list[Import]) -> list[str]:
    """Files other than the seam that import both the schema and a model's body."""
    by_path: dict[str, list[Import]] = {}
    for found in imports:
        by_path.setdefault(found.path, []).append(found)
    faults = []
    for path, own in by_path.items():
        schemas = [found for found in own if found.is_of("pipeline.schema", "pipeline.feature_kinds")]
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
            if is_torch_free(nearest):
                continue  # it answers for itself
            if nearest not in seen and (rest := chain(nearest, seen)):
                return [str(found), *rest]
        return []

    chains = (chain(module, set()) for module in sorted(by_module) if is_torch_free(module))
    return [", and ".join(steps) for steps in chains if steps]
