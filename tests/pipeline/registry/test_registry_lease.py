"""The lease: held by one, stolen only when it has run out, and of no use to who was too late."""

from datetime import timedelta
from pathlib import Path

import pytest
from s3_store import Store
from small_registry import SECONDS, Clock, promote, publish, small_lineage

from pipeline import storage
from pipeline.errors import ArtifactError, LockedError, SetupError
from pipeline.registry import leases, swap
from pipeline.registry.records import Lease, Promotions
from pipeline.registry.registry import Registry

LOCKED_EXIT_CODE = 75


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["disk", "store"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Registry:
    """A registry with two versions, the first of which is the champion."""
    is_local = request.param == "disk"
    registry = Registry.open(str(tmp_path / "registry") if is_local else request.getfixturevalue("bucket"), clock)
    (tmp_path / "report.json").write_text("{}")
    for _ in range(2):
        registry.publish({"report.json": tmp_path / "report.json"}, small_lineage())
    promote(registry, 1)
    return registry


def champion_of(registry: Registry) -> int:
    champion = registry.champion()
    assert champion
    return champion.version


def test_a_lease_is_stolen_when_it_has_run_out_and_not_before(registry: Registry, clock: Clock) -> None:
    first = registry.acquire("first", SECONDS)
    for seconds in (0, SECONDS / 2, SECONDS / 2 - 1):
        clock.advance(seconds)
        with pytest.raises(
            LockedError,
            match=r"is locked by host \S+, pid \d+, run first, since 2025-03-30T00:30:00\+00:00\. .*0:40:00",
        ) as caught:
            registry.acquire("second", SECONDS)
        assert caught.value.exit_code == LOCKED_EXIT_CODE
    clock.advance(1)
    second = registry.acquire("second", SECONDS)
    assert second.token == first.token + 1


def test_a_renewed_lease_is_held_for_as_long_again(registry: Registry, clock: Clock) -> None:
    lease = registry.acquire("first", SECONDS)
    for _ in range(5):
        clock.advance(SECONDS - 1)
        registry.renew(lease)
    clock.advance(SECONDS - 1)
    with pytest.raises(LockedError, match="run first, since 2025-03-30T00:30:00"):
        registry.acquire("second", SECONDS)
    assert registry.promote(2, token=lease.token, reason="").version == 2


def test_a_lease_that_has_run_out_can_be_renewed_while_nobody_has_taken_it(registry: Registry, clock: Clock) -> None:
    lease = registry.acquire("first", SECONDS)
    clock.advance(2 * SECONDS)
    assert registry.renew(lease).expires > clock.now
    with pytest.raises(LockedError):
        registry.acquire("second", SECONDS)


def test_a_released_lease_is_free_and_its_token_is_not_given_again(registry: Registry) -> None:
    tokens = []
    for _ in range(3):
        lease = registry.acquire("a run", SECONDS)
        registry.release(lease)
        registry.release(lease)
        tokens.append(lease.token)
    assert tokens == [tokens[0], tokens[0] + 1, tokens[0] + 2]
    with pytest.raises(LockedError, match="has run out, and is now held by nobody"):
        registry.renew(lease)


def test_a_late_writer_changes_nothing_any_more(registry: Registry, clock: Clock) -> None:
    late = registry.acquire("late", SECONDS)
    clock.advance(SECONDS)
    second = registry.acquire("second", SECONDS)
    before = registry.promotions()
    for change in (
        lambda: registry.promote(2, token=late.token, reason=""),
        lambda: registry.rollback(token=late.token, reason=""),
        lambda: registry.retain(1, token=late.token),
        lambda: registry.renew(late),
    ):
        with pytest.raises(LockedError) as caught:
            change()
        assert caught.value.exit_code == LOCKED_EXIT_CODE
    registry.release(late)
    assert registry.promotions() == before
    assert registry.numbers() == [1, 2]
    assert registry.renew(second).token == second.token


def test_a_writer_that_becomes_late_between_its_last_look_and_its_write_changes_nothing(
    registry: Registry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has compared its token and stands still; meanwhile its lease runs out and another one takes it."""
    late = registry.acquire("late", SECONDS)
    write, others = registry.root.swap, list[Lease]()
    other = Registry.open(registry.root.location, clock)

    def stand_still(name: str, record: Promotions, version: str) -> bool:
        if not others:
            clock.advance(SECONDS)
            others.append(other.acquire("second", SECONDS))
        return write(name, record, version)

    monkeypatch.setattr(registry.root, "swap", stand_still)
    with pytest.raises(LockedError, match=rf"token {late.token} .* is not the last one, {late.token + 1}: "):
        registry.promote(2, token=late.token, reason="")
    assert champion_of(registry) == 1
    assert registry.promote(2, token=others[0].token, reason="").version == 2


def test_the_first_promotion_is_fenced_as_every_other(tmp_path: Path, clock: Clock) -> None:
    registry = Registry.open(str(tmp_path / "new"), clock)
    publish(registry, tmp_path / "made")
    late = registry.acquire("late", SECONDS)
    clock.advance(SECONDS)
    second = registry.acquire("second", SECONDS)
    with pytest.raises(LockedError):
        registry.promote(1, token=late.token, reason="")
    assert registry.champion() is None
    assert registry.promote(1, token=second.token, reason="").token == second.token


def test_a_token_that_was_never_given_out_promotes_nothing(registry: Registry) -> None:
    lease = registry.acquire("a run", SECONDS)
    with pytest.raises(LockedError, match="is not the last one"):
        registry.promote(2, token=lease.token + 1, reason="")
    assert champion_of(registry) == 1


def test_a_lost_file_of_the_lease_gives_no_token_twice(registry: Registry) -> None:
    lease = registry.acquire("a run", SECONDS)
    storage.remove(registry.root.at(leases.LEASE_NAME))
    assert registry.acquire("another", SECONDS).token == lease.token + 1


def test_a_held_lease_is_renewed_while_the_block_runs_and_released_after_it(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    held = Registry.open(registry.root.location, clock)
    num_renewals, was_held = 0, []

    class Steps:
        """Stands in for the event that ends the thread: many renewals at once, then the end."""

        def wait(self, seconds: float) -> bool:
            nonlocal num_renewals
            if num_renewals == 9:
                found = leases.read_lease(registry.root)
                was_held.append(found is not None and found[0].is_held(clock.now))
                return True
            num_renewals += 1
            clock.advance(seconds)
            return False

        def set(self) -> None:
            pass

    monkeypatch.setattr(leases, "Event", Steps)
    with held.held("a run", SECONDS) as lease:
        pass
    assert was_held == [True]
    assert clock.now - lease.since > 2 * timedelta(seconds=SECONDS)
    found = leases.read_lease(registry.root)
    assert found
    assert found[0].token == lease.token
    assert found[0].holder is None


def test_a_block_that_fails_gives_the_lease_back(registry: Registry) -> None:
    with pytest.raises(ValueError, match="of the block"), registry.held("a run", SECONDS):
        raise ValueError("of the block")
    registry.acquire("another", SECONDS)


def test_a_lease_with_fields_that_were_changed_is_no_lease(registry: Registry, tmp_path: Path) -> None:
    registry.acquire("a run", SECONDS)
    path = registry.root.at(leases.LEASE_NAME)
    changed = storage.read_bytes(path).replace(b"a run", b"a fun")
    content = swap.read(path)
    assert content
    assert swap.swap(path, changed, content.version, tmp_path / ".lock")
    with pytest.raises(ArtifactError, match=r"lease\.json is damaged: its fields do not fit its field digest"):
        registry.acquire("another", SECONDS)


def test_a_store_that_knows_no_conditions_is_refused(
    bucket: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = store._moto
    for header in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"):

        def ignore(environment: dict[str, object], start: object, header: str = header) -> object:
            return answer({name: value for name, value in environment.items() if name != header}, start)

        monkeypatch.setattr(store, "_moto", ignore)
        with pytest.raises(SetupError, match="knows no conditional writes"):
            Registry.open(f"{bucket}/{header}").acquire("a run", SECONDS)
