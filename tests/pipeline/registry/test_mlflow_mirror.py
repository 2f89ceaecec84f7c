"""A mirror to MLflow, without a server: what a version says of itself, what is to be done, which address is taken."""

import dataclasses
import json
import traceback
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_registry import publish, small_lineage, write_files

from pipeline.config import build
from pipeline.errors import ArtifactError, ConfigError
from pipeline.registry.config import MlflowConfig, RegistryConfig
from pipeline.registry.mirror.entry import Entry, read_entry
from pipeline.registry.mirror.plan import (
    Add,
    DropRun,
    DropVersion,
    MakeExperiment,
    MakeModel,
    Mark,
    ModelVersion,
    Ours,
    Point,
    Run,
    Step,
    Theirs,
    plan,
)
from pipeline.registry.registry import Registry

CANARY = "c4n4ry-91d0"


def run(run_id: str, number: int, is_complete: bool = True) -> Run:
    return Run(run_id, number, is_complete, "mlflow-artifacts:/1")


def ours(*numbers: int, **others: Any) -> Ours:
    return Ours(frozenset(numbers), **others)


def theirs(*versions: ModelVersion, runs: tuple[Run, ...] = (), **aliases: int) -> Theirs:
    return Theirs("1", True, versions, runs, aliases)


# --- the plan


@pytest.mark.parametrize(
    ("here", "there", "steps"),
    [
        (ours(), Theirs(), []),
        (ours(1), Theirs(), [MakeExperiment(), MakeModel()]),
        (ours(1), Theirs("1"), [MakeModel()]),
        (ours(1, champion=1), theirs(), [Add(1, None)]),
        (ours(2, 1), theirs(), [Add(1, None), Add(2, None)]),
        (ours(1, 2, damaged=frozenset({2})), theirs(), [Add(1, None)]),
        # A run that was begun is gone on with; one that is complete before one that is not.
        (ours(1), theirs(runs=(run("b", 1, False), run("a", 1, False))), [Add(1, run("a", 1, False))]),
        (ours(1), theirs(runs=(run("b", 1), run("a", 1, False))), [Add(1, run("b", 1))]),
        # Duplicates: the lowest version stays, with its run.
        (
            ours(1),
            theirs(ModelVersion(7, 1, "b", False), ModelVersion(4, 1, "a", False), runs=(run("a", 1), run("b", 1))),
            [DropVersion(7), DropRun("b")],
        ),
        (ours(1), theirs(ModelVersion(4, 1, "a", False), runs=(run("a", 1), run("b", 1, False))), [DropRun("b")]),
        # A version that is gone is marked, and one that is damaged is not gone.
        (ours(2), theirs(ModelVersion(4, 1, "a", False), ModelVersion(5, 2, "b", False)), [Mark(4, 1, True)]),
        (ours(), theirs(ModelVersion(4, 1, "a", False)), [Mark(4, 1, True)]),
        (ours(1), theirs(ModelVersion(4, 1, "a", True)), [Mark(4, 1, False)]),
        (ours(1, damaged=frozenset({1})), theirs(ModelVersion(4, 1, "a", False)), []),
        # Aliases follow; one whose version is yet to come waits, and one whose version cannot come goes.
        (
            ours(1, 2, champion=2, previous=1),
            theirs(ModelVersion(4, 1, "a", False), ModelVersion(5, 2, "b", False), champion=4),
            [Point("champion", 5), Point("previous", 4)],
        ),
        (ours(1, 2, champion=2), theirs(ModelVersion(4, 1, "a", False), champion=4), [Add(2, None)]),
        (
            ours(1, 2, champion=2, damaged=frozenset({2})),
            theirs(ModelVersion(4, 1, "a", False), champion=4),
            [Point("champion", None)],
        ),
        (
            ours(1, champion=1),
            theirs(ModelVersion(4, 1, "a", False), champion=4, previous=3),
            [Point("previous", None)],
        ),
        (ours(1, champion=1), theirs(ModelVersion(4, 1, "a", False), champion=4, other=9), []),
    ],
)
def test_the_plan_is_what_is_missing(here: Ours, there: Theirs, steps: list[Step]) -> None:
    assert plan(here, there) == steps


numbers = st.frozensets(st.integers(1, 5), max_size=5)
model_versions = st.lists(st.tuples(st.integers(1, 6), st.sampled_from("abcd"), st.booleans()), max_size=6)
begun_runs = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 6), st.booleans()), max_size=6)
champions = st.one_of(st.none(), st.integers(1, 5))


@given(numbers, numbers, champions, champions, model_versions, begun_runs)
def test_from_anything_the_plan_leads_to_one_version_of_each_number_and_then_to_nothing(
    here: frozenset[int],
    damaged: frozenset[int],
    champion: int | None,
    previous: int | None,
    there: list[tuple[int, str, bool]],
    begun: list[tuple[str, int, bool]],
) -> None:
    wanted = Ours(here, damaged & here, champion, previous)
    versions = tuple(ModelVersion(place, *one) for place, one in enumerate(there, 1))
    state = Theirs(None, False, versions, tuple({one[0]: run(*one) for one in begun}.values()), {"champion": 1})
    for _ in range(6):
        steps = plan(wanted, state)
        if not steps:
            break
        for step in steps:
            state = after(step, state)
    assert plan(wanted, state) == []
    shown = [one.number for one in state.versions]
    assert len(shown) == len(set(shown))
    if here or there:
        assert set(shown) == {one[0] for one in there} | (here - damaged)
        assert {one.number for one in state.versions if one.is_marked} == set(shown) - here
        by_version = {one.version: one.number for one in state.versions}
        held = {alias: by_version[version] for alias, version in (state.aliases or {}).items()}
        expected = {"champion": champion, "previous": previous}
        assert held == {alias: number for alias, number in expected.items() if number in shown}


def after(step: Step, state: Theirs) -> Theirs:
    """What MLflow holds after a step."""
    aliases = dict(state.aliases or {})
    change: dict[str, Any] = {}
    match step:
        case MakeExperiment():
            change = {"experiment_id": "1"}
        case MakeModel():
            change = {"has_model": True}
        case Add(number, begun):
            described = begun or run(f"new-{number}", number)
            version = ModelVersion(100 + number, number, described.run_id, False)
            runs = (*(one for one in state.runs if one.run_id != described.run_id), described)
            change = {"versions": (*state.versions, version), "runs": runs}
        case DropVersion(dropped):
            change = {"versions": tuple(one for one in state.versions if one.version != dropped)}
        case DropRun(run_id):
            change = {"runs": tuple(one for one in state.runs if one.run_id != run_id)}
        case Mark(marked, _, is_removed):
            change = {
                "versions": tuple(
                    dataclasses.replace(one, is_marked=is_removed) if one.version == marked else one
                    for one in state.versions
                )
            }
        case Point(alias, pointed):
            aliases.pop(alias, None)
            change = {"aliases": aliases | ({alias: pointed} if pointed else {})}
    return dataclasses.replace(state, **change)


# --- what a version says


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.open(str(tmp_path / "registry"))


def entry_of(registry: Registry, folder: Path, report: Any, decision: Any) -> Entry:
    files = write_files(folder / "made", "1")
    for name, value in (("report.json", report), ("decision.json", decision)):
        files[name] = folder / "made" / name
        files[name].write_text(value if isinstance(value, str) else json.dumps(value))
    return read_entry(registry, registry.publish(files, small_lineage(code_revision="8d0b5e9")))


def test_an_entry_has_lineage_metrics_the_decision_and_the_small_files(registry: Registry, tmp_path: Path) -> None:
    metrics = {"auc": {"value": 0.75}, "ndcg@10": {"value": 1}, "gauc": {"value": None}, "mae": {"value": float("inf")}}
    rules = [
        {"passed": True, "reason": "fine"},
        {"passed": False, "reason": "too low"},
        {"passed": False, "reason": "b"},
    ]
    entry = entry_of(
        registry,
        tmp_path,
        {"tasks": [{"name": "click", "metrics": metrics}, {"name": "like", "metrics": {}}]},
        {"promoted": False, "rules": rules},
    )
    assert entry.metrics == {"click/auc": 0.75, "click/ndcg_at_10": 1.0}
    place = f"gatehouse://{tmp_path}/registry"
    assert entry.source == f"{place}/versions/000001"
    assert entry.tags == {
        "gatehouse.version": "1",
        "gatehouse.registry": place,
        "gatehouse.run_id": "2025-03-30",
        "gatehouse.slot": "2025-03-30T00:30:00Z",
        "gatehouse.data_manifest": "a" * 64,
        "gatehouse.vocabulary_version": "b" * 64,
        "gatehouse.schema_fingerprint": "c" * 64,
        "gatehouse.checkpoint": "d" * 64,
        "gatehouse.config": "e" * 64,
        "gatehouse.code_revision": "8d0b5e9",
        "gatehouse.gate": "refused",
        "gatehouse.refusals": "too low; b",
    }
    assert sorted(entry.files) == ["config.resolved.yaml", "decision.json", "report.json"]


@pytest.mark.parametrize(
    "report",
    ["", "[1]", "[" * 100_000, {"tasks": 3}, {"tasks": [None, {"metrics": []}, {"metrics": {"auc": 0.5}}]}, {}],
)
def test_a_report_of_another_form_has_no_metrics(registry: Registry, tmp_path: Path, report: Any) -> None:
    entry = entry_of(registry, tmp_path, report, {"promoted": "perhaps", "rules": None})
    assert entry.metrics == {}
    assert "gatehouse.gate" not in entry.tags


def test_a_relative_location_is_the_same_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = Registry.open("registry")
    publish(relative, tmp_path / "made")
    assert read_entry(relative, 1) == read_entry(Registry.open(str(tmp_path / "registry")), 1)


def test_a_damaged_version_has_no_entry(registry: Registry, tmp_path: Path) -> None:
    publish(registry, tmp_path / "made")
    path = Path(registry.root.at("versions/000001/report.json"))
    path.write_bytes(path.read_bytes()[:-1] + b"2")
    with pytest.raises(ArtifactError, match=r"versions/000001/report\.json is damaged"):
        read_entry(registry, 1)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"versions/000001/report\.json is not there"):
        read_entry(registry, 1)
    Path(registry.root.at("versions/000001/manifest.json")).write_text("{}")
    with pytest.raises(ArtifactError, match=r"versions/000001/manifest\.json: field number"):
        read_entry(registry, 1)


# --- the configuration


@pytest.mark.parametrize(
    "uri",
    [
        f"https://me:{CANARY}@mlflow.example.com",
        f"https://{CANARY}@mlflow.example.com/path",
        f"http://mlflow.example.com/?token={CANARY}",
        f"http://[{CANARY}@x",
        f"http://mlflow.example.com:80#{CANARY}",
    ],
)
def test_a_secret_in_the_address_is_refused_and_not_repeated(uri: str) -> None:
    section = {"location": "models", "mlflow": {"uri": uri, "model": "m"}}
    with pytest.raises(ConfigError, match="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as caught:
        build(RegistryConfig, section, "run.yaml")
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "uri", ["mlflow.example.com:5000", "sqlite:///mlflow.db", "databricks", "http://", "http://h:x"]
)
def test_an_address_is_that_of_a_server(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"not the address of a server\. Write it as http://host:port"):
        build(MlflowConfig, {"uri": uri, "model": "m"}, "run.yaml")


def test_a_path_may_follow_and_a_slash_does_not_count() -> None:
    assert MlflowConfig(uri="https://example.com/mlflow/", model="m").uri == "https://example.com/mlflow"
    with pytest.raises(ConfigError, match="model"):
        build(MlflowConfig, {"uri": "http://h", "model": "a'b"}, "run.yaml")
