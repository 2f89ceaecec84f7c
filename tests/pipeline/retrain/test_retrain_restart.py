"""A retraining that is killed at any stage and any write goes on under its run id and ends as an undisturbed one."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from small_retrain import FIRST_SLOT, Clock, make_config, make_log, registry_of, run_until, slot_of

import pipeline.retrain.run as retrain_run
from pipeline.errors import LockedError
from pipeline.registry import leases
from pipeline.registry.registry import Registry
from pipeline.retrain.plan import folder_of
from pipeline.retrain.state import STAGES, SlotState, read_state, write_state
from pipeline.run_config import RunConfig

SECOND_SLOT = FIRST_SLOT + 1


class Killed(BaseException):
    """Is raised where a process would be killed; nothing catches it."""


class Judged(NamedTuple):
    """A champion, and a challenger that the gate has let through and that is not published yet."""

    config: RunConfig
    kept: Path

    def restore(self) -> None:
        for folder in ("work", "registry"):
            shutil.rmtree(self.kept.parent / folder)
            shutil.copytree(self.kept / folder, self.kept.parent / folder)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_log(tmp_path_factory.mktemp("log") / "log")


@pytest.fixture(scope="module")
def judged(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Judged:
    folder = tmp_path_factory.mktemp("judged")
    config = make_config(log, folder)
    run_until(config, FIRST_SLOT)
    with killed_at("gate"):
        run_until(config, SECOND_SLOT)
    for name in ("work", "registry"):
        shutil.copytree(folder / name, folder / "kept" / name)
    return Judged(config, folder / "kept")


@pytest.fixture
def at_the_gate(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """The challenger before it is published; a process that is killed does not give its lease back."""
    judged.restore()
    monkeypatch.setattr(leases, "release", lambda root, lease: None)
    return judged.config


@contextmanager
def killed_at(stage: str, *, is_before: bool = False) -> Iterator[None]:
    """Kills what runs in the block after, or right before, a stage is marked; its lease is not given back."""

    def write(folder: Path, state: SlotState) -> None:
        is_time = state.complete[-1:] == (stage,)
        if is_before and is_time:
            raise Killed
        write_state(folder, state)
        if is_time:
            raise Killed

    with pytest.MonkeyPatch.context() as patched, being_killed():
        patched.setattr(leases, "release", lambda root, lease: None)
        patched.setattr(retrain_run, "write_state", write)
        yield


@contextmanager
def being_killed() -> Iterator[None]:
    try:
        yield
    except Killed:
        return
    raise AssertionError("the run ended before it was killed")


def later() -> Clock:
    """When the lease of a run that was killed has run out."""
    clock = Clock()
    clock.pass_seconds(61)
    return clock


def state_of(config: RunConfig) -> SlotState:
    state = read_state(folder_of(config, slot_of(SECOND_SLOT)))
    assert state is not None
    return state


def test_a_run_that_is_killed_after_and_before_each_mark_ends_as_an_undisturbed_one(log: Path, tmp_path: Path) -> None:
    undisturbed, config = (make_config(log, tmp_path / name) for name in ("undisturbed", "killed"))
    (expected,) = run_until(undisturbed, FIRST_SLOT)
    clock, run_ids = Clock(), set()
    for stage in STAGES:
        for is_before in (True, False):
            with killed_at(stage, is_before=is_before):
                run_until(config, FIRST_SLOT, clock)
            clock.pass_seconds(61)
            found = read_state(folder_of(config, slot_of(FIRST_SLOT)))
            assert found is not None
            run_ids.add(found.run_id)
    # The last mark was set: nothing is left to do.
    assert run_until(config, FIRST_SLOT, clock) == []
    assert len(run_ids) == 1
    registries = [registry_of(one) for one in (undisturbed, config)]
    lineages = [registry.verify(expected.version).lineage.model_dump() for registry in registries]
    for lineage in lineages:
        assert lineage.pop("run_id") in {*run_ids, expected.run_id}
        del lineage["config"]  # holds the workspace
    # The manifest of a checkpoint names the attempt that wrote it.
    assert [lineage.pop("checkpoint") != "" for lineage in lineages] == [True, True]
    assert lineages[0] == lineages[1]
    contents = [content_of(registry, expected.version) for registry in registries]
    assert contents[0] == contents[1]
    assert registries[1].numbers() == [1]


def content_of(registry: Registry, version: int) -> dict[str, Any]:
    """The files of a version that hold no path and no name of an attempt, and what its report says of the tasks."""
    files = registry.show(version).files
    kept = ("dataset/", "export/vocabularies", "export/model")
    content: dict[str, Any] = {name: entry.sha256 for name, entry in files.items() if name.startswith(kept)}
    folder = registry.fetch(version, Path("unused"))
    report, decision = (json.loads((folder / name).read_bytes()) for name in ("report.json", "decision.json"))
    rules = [rule for rule in decision["rules"] if rule["rule"] not in ("challenger", "champion")]
    return content | {"tasks": report["tasks"], "rules": rules}


@contextmanager
def counting_renames(kill_at: int | None = None) -> Iterator[list[int]]:
    """Says how many renames there were in the block; in place of the one with a number, from 0, it can be killed."""
    done, replace = [0], os.replace

    def counted(source: Any, target: Any) -> None:
        if done[0] == kill_at:
            raise Killed
        done[0] += 1
        replace(source, target)

    with pytest.MonkeyPatch.context() as patched, being_killed() if kill_at is not None else nullcontext():
        patched.setattr(os, "replace", counted)
        yield done


def test_killed_at_any_write_of_publishing_and_promoting_a_champion_is_there_and_the_run_ends_the_same(
    judged: Judged, at_the_gate: RunConfig
) -> None:
    config = at_the_gate
    run_id = state_of(config).run_id
    with counting_renames() as done:
        run_until(config, SECOND_SLOT, later())
    (num_writes,) = done
    expected = content_of(registry_of(config), 2)
    champions = []
    for count in range(num_writes):
        judged.restore()
        with counting_renames(kill_at=count):
            run_until(config, SECOND_SLOT, later())
        clock = later()
        clock.pass_seconds(61)
        registry = registry_of(config, clock)
        champion = registry.champion()
        assert champion is not None
        registry.verify(champion.version)
        champions.append(champion.version)
        results = run_until(config, SECOND_SLOT, clock)
        assert all((result.run_id, result.is_promoted) == (run_id, True) for result in results)
        assert state_of(config).is_complete
        whole = registry.numbers()
        assert len(whole) == 2, f"killed at write {count}"
        champion = registry.champion()
        assert champion is not None
        assert champion.version == whole[-1]
        assert content_of(registry, whole[-1]) == expected
        assert [one.version for one in registry.promotions().history] == whole
    assert champions == sorted(champions)
    assert len(set(champions)) == 2
    assert num_writes > 30


def test_a_killed_run_is_waited_for_until_its_lease_has_run_out(at_the_gate: RunConfig) -> None:
    """The judged challenger's run was killed, at the time at which the clock stands."""
    with pytest.raises(LockedError, match=r"is locked by host .*, pid \d+, run retrain, since 2025-06-01T00:00:00"):
        run_until(at_the_gate, SECOND_SLOT)
    assert registry_of(at_the_gate).numbers() == [1]


@pytest.mark.parametrize("stage", ["publish", "promote"])
def test_a_run_that_lost_its_lease_publishes_and_promotes_nothing(
    at_the_gate: RunConfig, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    taken: list[Any] = []
    clock, renew = later(), Registry.renew

    def take_before(registry: Registry, lease: Any) -> Any:
        if read_next(at_the_gate) == stage and not taken:
            clock.pass_seconds(61)
            taken.append(registry_of(at_the_gate, clock).acquire("another", 60))
        return renew(registry, lease)

    monkeypatch.setattr(Registry, "renew", take_before)
    with pytest.raises(LockedError, match=r"has run out, and is now held by host .* run another"):
        run_until(at_the_gate, SECOND_SLOT, clock)
    registry = registry_of(at_the_gate, clock)
    champion = registry.champion()
    assert champion is not None
    assert champion.version == 1
    assert registry.numbers() == ([1] if stage == "publish" else [1, 2])


def read_next(config: RunConfig) -> str:
    return STAGES[len(state_of(config).complete)]


def test_a_lease_that_is_lost_in_the_last_moment_is_found_by_its_token(
    at_the_gate: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, promote = later(), Registry.promote

    def lose_and_promote(registry: Registry, *arguments: Any, **named: Any) -> Any:
        clock.pass_seconds(61)
        registry_of(at_the_gate, clock).acquire("another", 60)
        return promote(registry, *arguments, **named)

    monkeypatch.setattr(Registry, "promote", lose_and_promote)
    with pytest.raises(LockedError, match="is not the last one"):
        run_until(at_the_gate, SECOND_SLOT, clock)
    champion = registry_of(at_the_gate).champion()
    assert champion is not None
    assert champion.version == 1


def test_a_version_that_was_rolled_back_before_its_run_went_on_is_not_promoted_again(at_the_gate: RunConfig) -> None:
    with killed_at("promote", is_before=True):
        run_until(at_the_gate, SECOND_SLOT, later())
    clock = later()
    clock.pass_seconds(61)
    registry = registry_of(at_the_gate, clock)
    with registry.held("an operator", 60) as lease:
        registry.rollback(token=lease.token, reason="too many cats")
    clock.pass_seconds(61)
    run_until(at_the_gate, SECOND_SLOT, clock)
    champion = registry.champion()
    assert champion is not None
    assert champion.version == 1


def test_another_configuration_begins_the_slot_anew_and_says_so(
    at_the_gate: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state_of(at_the_gate).run_id
    said: list[str] = []

    def stop(run: Any, stage: str) -> SlotState:
        raise Killed

    monkeypatch.setattr(retrain_run, "run_stage", stop)
    changed = at_the_gate.model_copy(update={"seed": 9})
    with pytest.raises(Killed):
        run_until(changed, SECOND_SLOT, later(), said)
    assert "begins anew: the configuration or the champion is another one now" in said[0]
    assert state_of(at_the_gate).run_id != before
    assert not (folder_of(at_the_gate, slot_of(SECOND_SLOT)) / "dataset").exists()
